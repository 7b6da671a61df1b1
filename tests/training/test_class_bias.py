from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tumorlens.checkpoint import file as checkpoints
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.folder import scan
from tumorlens.data.patients import Patients
from tumorlens.data.splits import SplitFolder
from tumorlens.errors import TumorlensError
from tumorlens.settings import TrainSettings
from tumorlens.training.class_bias import (
    Focal,
    GroupDro,
    check_groups,
    drawn,
    groups_of,
    loss_of,
    times_of,
    weights_of,
)
from tumorlens.training.fit import train
from tumorlens.training.recipes import RECIPES, resolve

PLAIN = RECIPES["plain"]


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Dataset:
    """6 training images of each of two classes; of class a 5 are of site x, of class b 1."""
    found = load_for_training(
        SplitFolder(scan(make_folder({"train": 6, "valid": 2}, classes=("a", "b")))), 32
    )
    sites = np.array([""] * len(found.paths), dtype="<U9")
    for label, count in ((0, 5), (1, 1)):
        mine = found.indices("train")[found.labels[found.indices("train")] == label]
        sites[mine], sites[mine[:count]] = "y", "x"
    names = np.array([f"p{number}" for number in range(len(sites))])
    return replace(found, patients=Patients("table.csv", names, {"site": sites}))


def test_balanced_weights_are_the_inverse_of_the_share(data: Dataset) -> None:
    train = data.indices("train")
    fewer = data.only(np.delete(np.arange(len(data.labels)), train[data.labels[train] == 1][:3]))
    found = weights_of(replace(PLAIN, class_weights="balanced"), fewer)
    assert found is not None
    assert found.tolist() == pytest.approx([9 / 12, 9 / 6])  # 6 images of a, 3 of b
    assert weights_of(PLAIN, fewer) is None


def test_groups_are_classes_or_classes_by_column(data: Dataset) -> None:
    assert set(groups_of(data, "class", "--balance")) == {"a", "b"}
    found = groups_of(data, "site", "--balance")[data.indices("train")]
    names, counts = np.unique(found, return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"a, x": 5, "a, y": 1, "b, x": 1, "b, y": 5}
    assert "a, not known" in groups_of(data, "site", "--balance")


def test_column_that_is_not_there_is_refused_with_those_that_are(data: Dataset) -> None:
    with pytest.raises(TumorlensError, match=r"--balance plane: .*table\.csv has site\. Name a"):
        groups_of(data, "plane", "--balance")
    with pytest.raises(TumorlensError, match="without one there is none"):
        groups_of(replace(data, patients=None), "site", "--balance")


@pytest.mark.parametrize(("exponent", "rare"), [(0.0, 1.0), (0.5, 5**0.5), (1.0, 5.0)])
def test_exponent_says_how_much_more_often_the_rare_are_drawn(
    data: Dataset, exponent: float, rare: float
) -> None:
    times = times_of(replace(PLAIN, balance="site", balance_exponent=exponent), data)
    assert times is not None
    assert times.mean() == pytest.approx(1)
    assert times.max() / times.min() == pytest.approx(rare)
    assert times_of(PLAIN, data) is None


def test_images_are_drawn_as_often_as_their_share_and_never_far_from_it() -> None:
    indices, times = np.arange(100, 112), np.array([0.6] * 10 + [3.0] * 2)
    counts = np.zeros(12)
    for seed in range(500):
        found = drawn(indices, times, np.random.default_rng(seed))
        one = np.bincount(found - 100, minlength=12)
        assert one.sum() == 12
        assert (abs(one - times) < 1).all()
        counts += one
    assert counts / 500 == pytest.approx(times, abs=0.08)


def test_group_dro_moves_its_weights_by_the_exponential_of_the_losses() -> None:
    # Two groups of one image; the loss of a row of logits (0, x) with label 0 is log(1 + e^x).
    loss = GroupDro(torch.tensor([0, 1]))
    logits = torch.tensor([[0.0, -20.0], [0.0, 2.0]])
    labels, indices = torch.tensor([0, 0]), torch.tensor([0, 1])
    hard = float(np.log1p(np.exp(2.0)))
    for step in range(1, 101):
        value = loss(logits, labels, indices)
        odds = np.exp(0.01 * hard * step)
        expected = odds / (1 + odds)
        assert loss.weights[1].item() == pytest.approx(expected, abs=1e-5)
        assert value.item() == pytest.approx(expected * hard, abs=1e-4)
    assert loss.weights[1] > 0.8
    loss.eval()
    before = loss.weights.clone()
    loss(logits, labels, indices)
    assert torch.equal(before, loss.weights)


def test_group_that_is_not_in_a_batch_keeps_its_odds_against_a_loss_of_zero() -> None:
    loss = GroupDro(torch.tensor([0, 1]))
    loss(torch.tensor([[0.0, -50.0]]), torch.tensor([0]), torch.tensor([0]))
    assert loss.weights.tolist() == pytest.approx([0.5, 0.5])


def test_balanced_softmax_adds_the_log_share_among_images_of_the_same_site(data: Dataset) -> None:
    recipe = replace(PLAIN, loss="balanced_softmax", balance="site")
    loss, train_images = loss_of(recipe, data), data.indices("train")
    assert loss is not None
    at_x = groups_of(data, "site", "")[train_images] == "a, x"
    index = torch.from_numpy(train_images[at_x][:1])
    logits, label = torch.tensor([[0.3, -0.2]]), torch.tensor([0])
    # One more of each class than the 5 of a and the 1 of b there.
    expected = F.cross_entropy(logits + torch.tensor([6 / 8, 2 / 8]).log(), label)
    assert loss(logits, label, index).item() == pytest.approx(expected.item())
    none = loss_of(replace(recipe, balance_exponent=0.0), data)
    assert none(logits, label, index).item() == pytest.approx(F.cross_entropy(logits, label).item())
    assert times_of(recipe, data) is None


def test_balanced_softmax_by_a_column_whose_value_has_one_class_is_refused(data: Dataset) -> None:
    recipe = replace(PLAIN, loss="balanced_softmax", balance="site")
    check_groups(recipe, data)
    assert data.patients is not None
    sites = data.patients.columns["site"].copy()
    sites[data.labels == 0] = "x"
    sites[data.labels == 1] = "y"
    pure = replace(data, patients=replace(data.patients, columns={"site": sites}))
    with pytest.raises(TumorlensError, match="with site x all are a, so that this loss would"):
        check_groups(recipe, pure)
    check_groups(replace(recipe, loss="group_dro"), pure)
    check_groups(replace(recipe, balance="class"), pure)


def test_focal_loss_is_linear_cross_entropy_times_the_square_of_doubt() -> None:
    logits, label = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    p = float(logits.softmax(dim=1)[0, 0])
    found = Focal()(logits, label, torch.tensor([0]))
    assert found.item() == pytest.approx((1 - p) ** 2 * -np.log(p))


def test_group_dro_comes_with_strong_weight_decay_and_is_recorded() -> None:
    settings = TrainSettings(
        model="resnet18", data_dir=Path("data"), recipe="fast", loss="group_dro", balance="site"
    )
    recipe = resolve(settings)
    assert recipe.weight_decay == 10 * RECIPES["fast"].weight_decay
    assert recipe.record()["loss"] == "group_dro"
    assert recipe.record()["balance"] == "site"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"balance_exponent": 1.5, "balance": "class"}, "--balance_exponent 1.5: expected 0 to 1"),
        ({"balance_exponent": 0.5}, "--balance_exponent goes with --balance"),
        ({"loss": "group_dro", "outlines": Path("x.csv")}, "--outlines gives images another class"),
        ({"loss": "group_dro", "devices": 2}, "needs --devices 1"),
        ({"operating_point": "accuracy", "train_on_valid": True}, "--operating_point needs valid"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSettings(model="resnet18", data_dir=Path("data"), **values)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "balanced_softmax", "group_dro"])
def test_every_loss_trains_on_groups_of_a_column_and_is_in_the_checkpoint(
    make_folder: Callable[..., Path], tmp_path: Path, loss: str
) -> None:
    folder = make_folder({"train": 6, "valid": 4}, classes=("a", "b"))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    rows = [f"{path},p{number},{'xy'[number % 2]}" for number, path in enumerate(files)]
    table = tmp_path / "patients.csv"
    table.write_text("\n".join(["path,patient,site", *rows]))
    settings = TrainSettings(
        model="resnet18",
        data_dir=folder,
        out_dir=tmp_path / "model",
        patients=table,
        epochs=1,
        batch_size=4,
        image_size=32,
        threads=1,
        device="cpu",
        balance="site",
        loss=loss,
        operating_point="worst_class" if loss == "focal" else "none",
    )
    done = train(settings)
    loaded = checkpoints.load(done.checkpoint)
    assert loaded.settings["recipe_resolved"]["loss"] == loss
    assert loaded.settings["recipe_resolved"]["balance"] == "site"
    assert (loaded.offsets is not None) == (loss == "focal")
    assert (done.run_dir / "operating_points.png").is_file() == (loss == "focal")
    if loss == "group_dro":
        state = torch.load(done.run_dir / "last.ckpt", weights_only=True)["state_dict"]
        assert state["loss.weights"].sum().item() == pytest.approx(1)
    with pytest.raises(TumorlensError, match="--balance plane: no such column"):
        train(replace(settings, balance="plane", out_dir=tmp_path / "other"))
    assert not (tmp_path / "other").exists()
