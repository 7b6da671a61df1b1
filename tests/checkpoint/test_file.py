import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    network = build_model("se_resnet18", 3, seed=1)
    record = DataRecord(
        data_dir="/data",
        layout="train test",
        protocol="as the folders say",
        train=("Training/a/1.png", "Training/b/2.png"),
        valid=("Training/a/3.png",),
        test=("Testing/a/4.png",),
        skipped={"Training/c/5.png": "truncated"},
        fingerprints=np.arange(64, dtype=np.uint8).reshape(2, 32),
        digests=np.arange(32, dtype=np.uint8).reshape(2, 16),
    )
    template = Checkpoint(
        model_name="se_resnet18",
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(48, 0.2, 0.3),
        weights={},
        data=record,
        settings={"seed": 1, "run": "se_resnet18-seed1-1"},
        selected={},
        temperature=1.5,
    )
    return checkpoints.with_weights(template, network, {"epoch": 4, "valid_macro_f1": 0.5})


def test_everything_comes_back_as_it_was(whole: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    checkpoints.save(whole, path)
    loaded = checkpoints.load(path)
    assert all(torch.equal(loaded.weights[key], whole.weights[key]) for key in whole.weights)
    for name in ("model_name", "classes", "preprocessing", "settings", "selected", "temperature"):
        assert getattr(loaded, name) == getattr(whole, name)
    assert loaded.data is not None
    assert whole.data is not None
    np.testing.assert_array_equal(loaded.data.fingerprints, whole.data.fingerprints)
    np.testing.assert_array_equal(loaded.data.digests, whole.data.digests)
    bare = {"fingerprints": 0, "digests": 0}
    assert vars(loaded.data) | bare == vars(whole.data) | bare
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    original = build_model("se_resnet18", 3, seed=1).eval()
    torch.testing.assert_close(loaded.network()(image), original(image))
    assert not loaded.network().training


def test_file_holds_tensors_and_primitives_alone(whole: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(whole, tmp_path / "best_model.pt")
    content = torch.load(tmp_path / "best_model.pt", weights_only=True)
    assert content["format"] == "tumorlens-checkpoint"
    for room in ("temperature", "uncertainty_threshold", "feature_covariance"):
        assert room in content


def test_json_beside_it_is_for_eyes(whole: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(whole, tmp_path / "best_model.pt")
    summary = checkpoints.summary(tmp_path / "best_model.pt")
    assert summary["classes"] == ["a", "b", "c"]
    assert summary["data"]["images"] == {"train": 2, "valid": 1, "test": 1}
    assert summary["selected"]["epoch"] == 4


def test_weights_are_a_copy_not_a_second_name(whole: Checkpoint) -> None:
    network = build_model("resnet18", 2)
    kept = checkpoints.with_weights(whole, network, {})
    before = kept.weights["fc.weight"].clone()
    with torch.no_grad():
        network.fc.weight.add_(1)
    assert torch.equal(kept.weights["fc.weight"], before)


def _foreign(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}}, path)


def _pickled(path: Path) -> None:
    torch.save({"model": Preprocessing(1, 0, 1)}, path)


def _future(path: Path) -> None:
    torch.save({"format": "tumorlens-checkpoint", "schema": 99}, path)


def _damaged(path: Path) -> None:
    torch.save({"format": "tumorlens-checkpoint", "schema": 1, "data": None}, path)


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _foreign_light(path: Path) -> None:
    save_file({"w": torch.zeros(2)}, path)


def _future_light(path: Path) -> None:
    header = {"format": "tumorlens-checkpoint", "schema": 99}
    save_file({"w": torch.zeros(2)}, path, metadata={"tumorlens": json.dumps(header)})


def _no_json(path: Path) -> None:
    save_file({"w": torch.zeros(2)}, path, metadata={"tumorlens": "{"})


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("best_model.pt", lambda path: None, "found nothing, expected a best_model.pt"),
        ("best_model.pt", lambda path: path.mkdir(), "found a folder"),
        ("best_model.pt", lambda path: path.write_text("hello"), "not a PyTorch file, or trunc"),
        ("best_model.pt", _plain_pickle, "not a PyTorch file, or truncated"),
        ("best_model.pt", _foreign, "not one of tumorlens"),
        ("best_model.pt", _pickled, "could run code"),
        ("best_model.pt", _future, "schema 99, this tumorlens .* reads schema"),
        ("best_model.pt", _damaged, "damaged entry"),
        ("a.safetensors", lambda path: path.write_text("hello"), "cannot be read as safetensors"),
        ("a.safetensors", lambda path: path.write_bytes(b""), "cannot be read as safetensors"),
        ("a.safetensors", _foreign_light, "a safetensors file, but not one of tumorlens"),
        ("a.safetensors", _no_json, "cannot be read as safetensors"),
        ("a.safetensors", _future_light, "schema 99, this tumorlens .* reads schema"),
    ],
)
def test_file_that_is_no_checkpoint_gets_one_sentence(
    tmp_path: Path, name: str, make, words: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(TumorlensError, match=f"--checkpoint .*{name}: .*{words}") as refused:
        checkpoints.load(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["best_model.pt", "light.safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_truncated_file_gets_one_sentence(
    whole: Checkpoint, tmp_path: Path, share: float, name: str
) -> None:
    path = tmp_path / name
    checkpoints.save(whole, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    words = "cannot be read as safetensors" if path.suffix == ".safetensors" else "PyTorch file"
    with pytest.raises(TumorlensError, match=f"--checkpoint .*{name}: .*{words}"):
        checkpoints.load(path)


def test_failed_save_leaves_the_old_file(
    whole: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best_model.pt"
    checkpoints.save(whole, path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TumorlensError, match="best_model.pt: cannot be written .No space left"):
        checkpoints.save(whole, path)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["best_model.json", "best_model.pt"]


def test_preprocessing_is_the_formula_it_names() -> None:
    images = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    inputs = Preprocessing(2, mean=0.2, std=0.5)(images)
    assert inputs.shape == (1, 3, 2, 2)
    expected = (torch.tensor([[0, 1], [0.2, 0.4]]) - 0.2) / 0.5
    for channel in range(3):
        torch.testing.assert_close(inputs[0, channel], expected)


@pytest.mark.parametrize("name", ["best_model.pt", "best_model.safetensors"])
def test_offsets_move_the_logits_by_the_temperature_and_come_back(
    whole: Checkpoint, tmp_path: Path, name: str
) -> None:
    scores = {"unit": "patients", "counts": (1, 1, 1)}
    scores |= {"probabilities": ((0.5,), (0.6,), (0.7,)), "weights": ((0.5,),) * 3}
    moved = replace(whole, offsets=(0.5, 0.0, -0.5), conformal=scores)
    checkpoints.save(moved, tmp_path / name)
    loaded = checkpoints.load(tmp_path / name)
    assert loaded.offsets is not None
    assert tuple(loaded.offsets) == (0.5, 0.0, -0.5)
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = loaded.network()(image) - replace(loaded, offsets=None).network()(image)
    torch.testing.assert_close(difference, torch.tensor([[0.75, 0.0, -0.75]]))
    assert loaded.decision().at(0.5).least == (0.5, 0.6, 0.7)
    assert "conformal" not in checkpoints.summary(tmp_path / name)


def test_checkpoint_of_before_there_were_offsets_loads(whole: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    checkpoints.save(whole, path)
    content = torch.load(path, weights_only=True)
    del content["offsets"], content["conformal"]
    torch.save(content, path)
    loaded = checkpoints.load(path)
    assert (loaded.offsets, loaded.conformal) == (None, None)
    assert loaded.decision().conformal is None


@pytest.mark.parametrize("offsets", [(1.0, 2.0), (0.0, 0.0, float("nan"))])
def test_offsets_that_make_no_sense_are_damage(
    whole: Checkpoint, tmp_path: Path, offsets: tuple[float, ...]
) -> None:
    checkpoints.save(replace(whole, offsets=offsets), tmp_path / "best_model.pt")
    with pytest.raises(TumorlensError, match=r"damaged entry .*offsets .*expected 3 numbers"):
        checkpoints.load(tmp_path / "best_model.pt")
