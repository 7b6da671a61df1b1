"""Exports of tiny networks through the command, and what runs the files afterwards."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord
from tumorlens.checkpoint.session import ImageChoice, describe
from tumorlens.cli import main
from tumorlens.data.dataset import load_for_training
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.export.onnx_file import graph_of
from tumorlens.inference.backends import OnnxBackend
from tumorlens.models.build import build_model
from tumorlens.uncertainty.conformal import scores_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SIDE = 32
CPU = torch.device("cpu")


def _images(count: int, seed: int, *, alike: bool) -> np.ndarray:
    """One random image, each time with other noise.

    `alike`: by one grey level. Else by ten, and every other image is darker by sixty.
    """
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(0).integers(80, 200, (SIDE, SIDE))
    spread = 1 if alike else 10
    noise = rng.integers(-spread, spread + 1, (count, SIDE, SIDE))
    dark = 0 if alike else 60 * (np.arange(count) % 2)[:, None, None]
    return (base + noise - dark).clip(0, 255).astype(np.uint8)


def _checkpoint(folder: Path, name: str, *, alike: bool = False, data: bool = True) -> Path:
    """A network with weights drawn at random, whose head tells two classes without one mistake.

    Its classes are the two sides of the middle of the combination of features that differs most
    between the images, and each image lies in the folder of its class.
    """
    network = build_model("se_resnet18", 2, seed=0).eval()
    preprocessing = Preprocessing(SIDE, 0.45, 0.2)
    squares = {
        split: _images(24, seed, alike=alike) for seed, split in enumerate(("train", "valid"))
    }
    both = np.concatenate(list(squares.values()))
    _, features = describe(network, preprocessing, both, device=CPU)
    direction = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)[2][0]
    scores = features @ direction
    middle, scale = np.median(scores), scores.std()
    with torch.no_grad():
        head = torch.from_numpy(direction / scale).float()
        network.fc.weight.copy_(torch.stack([head, -head]))
        network.fc.bias.copy_(torch.tensor([-middle, middle]).float() / scale)
    labels = np.where(scores > middle, "a", "b").reshape(2, -1)
    root = folder / f"{name}-data"
    paths: dict[str, list[str]] = {}
    for (split, images), of_part in zip(squares.items(), labels, strict=True):
        for number, (image, label) in enumerate(zip(images, of_part, strict=True)):
            path = f"{split}/{label}/{number:02d}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / path)
            paths.setdefault(split, []).append(path)
    record = DataRecord(
        data_dir=str(root),
        layout="train valid",
        protocol="as the folders say",
        train=tuple(paths["train"]),
        valid=tuple(paths["valid"]),
        test=(),
        skipped={},
        fingerprints=np.zeros((24, 32), dtype=np.uint8),
        digests=np.zeros((24, 16), dtype=np.uint8),
    )
    template = Checkpoint(
        model_name="se_resnet18",
        classes=("a", "b"),
        preprocessing=preprocessing,
        weights={},
        data=record if data else None,
        settings={},
        selected={},
        temperature=1.5,
        uncertainty_threshold=0.75,
        feature_covariance=torch.eye(512) * 0.5,
        class_means=torch.from_numpy(features[:2]).float(),
        ood_threshold=4.0,
        calibration={"coverage": 0.95},
    )
    path = folder / name / "best_model.pt"
    checkpoints.save(checkpoints.with_weights(template, network, {"epoch": 3}), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A checkpoint, its ONNX file, and what the command said."""
    checkpoint = _checkpoint(tmp_path_factory.mktemp("exported"), "model")
    command = [sys.executable, "-m", "tumorlens", "export", "--checkpoint", str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") <= 4, done.stderr  # progress alone, no exporter's remarks
    return checkpoint, checkpoint.with_suffix(".onnx"), done.stdout


@pytest.fixture(scope="module")
def handed_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that remembers no data folder."""
    return _checkpoint(tmp_path_factory.mktemp("handed"), "model", data=False)


def test_file_lies_beside_the_checkpoint_and_was_compared_on_validation_images(
    exported: tuple[Path, Path, str],
) -> None:
    checkpoint, path, told = exported
    assert "Compared: 24 validation images; largest difference from PyTorch" in told
    assert f"Written:  {path}" in told
    names = sorted(file.name for file in checkpoint.parent.iterdir())
    assert names == ["best_model.json", "best_model.onnx", "best_model.pt"]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_logits_and_features_are_those_of_the_checkpoint_at_any_batch_size(
    exported: tuple[Path, Path, str], count: int
) -> None:
    checkpoint, path, _ = exported
    loaded = checkpoints.load(checkpoint)
    squares = np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
    backend = OnnxBackend(path, threads=1)
    expected = describe(loaded.network(), loaded.preprocessing, squares, device=CPU)
    for found, wanted in zip(backend.describe(squares), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_offsets_and_calibration_scores_are_in_the_file(
    exported: tuple[Path, Path, str], tmp_path: Path
) -> None:
    plain = checkpoints.load(exported[0])
    own = np.linspace(0.3, 0.9, 10)
    rows, labels = np.stack([own, 1 - own], axis=1), np.repeat([0, 1], 5)
    scores = vars(scores_of(labels, rows, np.arange(10), known=False))
    moved = tmp_path / "best_model.pt"
    checkpoints.save(replace(plain, offsets=(2.0, -2.0), conformal=scores), moved)
    assert main(["export", "--checkpoint", str(moved), "--threads", "1"]) == 0
    backend = OnnxBackend(moved.with_suffix(".onnx"), threads=1)
    squares = _images(24, 1, alike=False)
    without, _ = OnnxBackend(exported[1], threads=1).describe(squares)
    found, _ = backend.describe(squares)
    np.testing.assert_allclose(found, without + 1.5 * np.array([2.0, -2.0]), atol=1e-4)
    assert (found.argmax(axis=1) != without.argmax(axis=1)).any()
    of_checkpoint = checkpoints.load(moved).decision()
    assert backend.rule.conformal == of_checkpoint.conformal
    assert backend.rule.at(0.8).least == of_checkpoint.at(0.8).least
    with pytest.raises(TumorlensError, match="keeps no calibration scores"):
        OnnxBackend(exported[1], threads=1).rule.at(0.8)


def test_file_tells_all_that_the_checkpoint_knows_and_no_path(
    exported: tuple[Path, Path, str],
) -> None:
    checkpoint, path, _ = exported
    backend = OnnxBackend(path, threads=1)
    assert (backend.name, backend.image_size) == ("se_resnet18", SIDE)
    rule, loaded = backend.rule, checkpoints.load(checkpoint)
    assert (rule.classes, rule.temperature, rule.threshold) == (("a", "b"), 1.5, 0.75)
    space, kept = rule.space, loaded.space()
    assert space is not None
    assert kept is not None
    assert space.threshold == kept.threshold
    np.testing.assert_array_equal(space.means, kept.means)
    np.testing.assert_array_equal(space.covariance, kept.covariance)
    facts = backend.about.facts
    assert facts["selected"] == {"epoch": 3}
    assert facts["checkpoint_sha256"] == checkpoints.sha256(checkpoint)
    assert facts["parity"]["images"] == "validation images"
    assert facts["int8"] is None
    content = path.read_bytes()
    for place in (str(checkpoint.parent.parent), str(Path(__file__).parents[2]), "site-packages"):
        assert place.encode() not in content, f"the file names {place}"


def test_another_network_is_not_taken_for_the_checkpoints(
    exported: tuple[Path, Path, str],
) -> None:
    from tumorlens.export.onnx_file import parity

    checkpoint, path, _ = exported
    loaded = checkpoints.load(checkpoint)
    loaded.weights["fc.bias"][0] += 3e-4  # type: ignore[index]
    with pytest.raises(TumorlensError, match=r"by 0\.0003 in a logit.*expected at most 0\.0001"):
        parity(path, loaded, _images(4, 5, alike=False), "images of noise")


# What a machine without PyTorch is like.
WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lightning", "torchmetrics", "onnx", "onnxscript"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
"""


def _without_torch(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + script, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pictures_are_judged_without_torch_and_lightning(exported: tuple[Path, Path, str]) -> None:
    checkpoint, path, _ = exported
    images = sorted((checkpoint.parent.parent / "model-data" / "valid").rglob("*.png"))
    script = """
import json
from pathlib import Path
import numpy as np
from tumorlens.data.readers import fit_square, read_grey
from tumorlens.inference.backends import OnnxBackend

backend = OnnxBackend(Path(sys.argv[1]), threads=1)
squares = [fit_square(read_grey(Path(path)), backend.image_size) for path in sys.argv[2:]]
decided = backend.rule.decide(*backend.describe(np.stack(squares)))
print(json.dumps([each.prediction for each in decided]))
"""
    told = _without_torch(script, str(path), *map(str, images))
    assert json.loads(told) == [image.parent.name for image in images]


def test_the_command_predicts_without_torch_and_lightning(
    exported: tuple[Path, Path, str], tmp_path: Path
) -> None:
    checkpoint, path, _ = exported
    images = checkpoint.parent.parent / "model-data" / "valid"
    script = "from tumorlens.cli import main\nsys.exit(main(sys.argv[1:]))"
    table = tmp_path / "out.csv"
    argv = ["predict", str(images), "--checkpoint", str(path), "--backend", "onnx"]
    _without_torch(script, *argv, "--csv", str(table))
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert all(row["prediction"] == Path(row["path"]).parent.name for row in rows)


def test_without_its_data_folder_a_checkpoint_is_compared_on_noise(
    handed_on: Path, tmp_path: Path
) -> None:
    made = tumorlens.export(
        checkpoint=handed_on, out=str(tmp_path / "out" / "network.onnx"), threads=1
    )
    assert (made.parity.images, made.parity.count) == ("images of noise", 32)
    assert max(made.parity.logits, made.parity.features) <= 1e-4
    assert made.path == tmp_path / "out" / "network.onnx"
    assert made.size == made.path.stat().st_size
    assert (made.precision, made.cost) == ("fp32", None)


def test_eight_bits_take_a_quarter_of_the_room_and_answer_alike(
    exported: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, whole, _ = exported
    path = tmp_path / "small.onnx"
    argv = ["export", "--checkpoint", str(checkpoint), "--int8", "--out", str(path)]
    assert main([*argv, "--threads", "1"]) == 0
    told = capsys.readouterr()
    assert "WARNING" not in told.err
    assert "macro_f1                 1.0000 -> 1.0000  (+0.00 points)" in told.out
    assert f"Written:  {path}" in told.out
    assert "Note: the rarest class has" in told.out  # a handful of images shows no half point
    bare = whole.stat().st_size - 700_000  # what both files know of the feature space
    assert path.stat().st_size - 700_000 < 0.3 * bare
    backend = OnnxBackend(path, threads=1)
    assert backend.about.precision == "int8"
    assert backend.about.facts["int8"]["after"] == {"macro_f1": 1, "recall_a": 1, "recall_b": 1}
    squares = _images(8, 9, alike=False)
    logits, features = backend.describe(squares)
    exact, of_exact = OnnxBackend(whole, threads=1).describe(squares)
    assert (logits.argmax(axis=1) == exact.argmax(axis=1)).all()
    assert not np.allclose(logits, exact, atol=1e-4)  # eight bits indeed
    assert np.corrcoef(features.ravel(), of_exact.ravel())[0, 1] > 0.99


def test_eight_bits_that_lose_a_class_are_refused_with_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Images that differ by one grey level: what tells the classes is below what 8 bits resolve.
    checkpoint = _checkpoint(tmp_path, "narrow", alike=True)
    assert main(["export", "--checkpoint", str(checkpoint), "--int8", "--threads", "1"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "macro_f1 from 100.0 to" in told
    assert "recall_a from 100.0 to" in told or "recall_b from 100.0 to" in told
    assert "more than the 0.5 points allowed; the file was not kept" in told
    assert "Traceback" not in told
    assert not list(checkpoint.parent.glob("*.onnx"))


def test_eight_bits_need_images_that_did_not_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = _checkpoint(tmp_path, "all")
    trained = replace(checkpoints.load(checkpoint), settings={"train_on_valid": True})
    checkpoints.save(trained, checkpoint)
    assert main(["export", "--checkpoint", str(checkpoint), "--int8"]) == 2
    assert "was trained on its validation images too" in " ".join(capsys.readouterr().err.split())
    assert not list(checkpoint.parent.glob("*.onnx"))


def test_eight_bits_are_never_checked_on_images_that_trained(
    make_folder: Callable[..., Path], record_of: Callable[..., DataRecord], tmp_path: Path
) -> None:
    from tumorlens.training.finished import images_of_training

    root = make_folder({"Training": 20, "Testing": 2})
    data = load_for_training(resolve(root), SIDE, seed=5)
    train = data.indices("train")
    record = record_of(data)
    loaded = Checkpoint(
        "resnet18", data.classes, Preprocessing(SIDE, 0.5, 0.2), {}, record, {"seed": 5}, {}
    )
    # One file less: not the folder that the checkpoint remembers.
    (root / data.paths_of("test")[0]).unlink()
    choice = ImageChoice(root)
    checked, left_out = images_of_training(loaded, choice)
    assert (checked.paths_of("valid"), left_out) == (record.valid, 0)
    # The class of which one validation image was trained on is checked on the others.
    valid = data.indices("valid")
    one = np.append(train, valid[0])
    some = replace(record, fingerprints=data.fingerprints[one], digests=data.digests[one])
    checked, left_out = images_of_training(replace(loaded, data=some), choice)
    assert (checked.paths_of("valid"), left_out) == (record.valid[1:], 1)
    every = replace(record, fingerprints=data.fingerprints, digests=data.digests)
    with pytest.raises(TumorlensError, match=f"but {len(valid)} that were trained on"):
        images_of_training(replace(loaded, data=every), choice)
    with pytest.raises(TumorlensError, match="does not say which images it was trained on"):
        images_of_training(replace(loaded, data=None), choice)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "network.pt"], "--out network.pt: expected a name that ends in .onnx"),
        (["--format", "tflite"], "--format"),
        (["--calibration_images", "2"], "--calibration_images 2: expected 8 or more"),
        (["--data_dir", "nowhere"], "--data_dir nowhere: there is no"),
        (["--int8"], "remembers no data folder"),
        (["--fold", "1"], "--fold needs --splits"),
    ],
)
def test_wrong_input_gets_one_sentence_and_nothing_is_written(
    handed_on: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--checkpoint", str(handed_on), *flags]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert words in told, told
    assert "Traceback" not in told
    assert not [*tmp_path.iterdir(), *handed_on.parent.glob("*.onnx")]


def test_head_crop_and_own_grey_scale_are_part_of_the_graph() -> None:
    preprocessing = Preprocessing(SIDE, 0.2, 0.2, crop_head=True, standardise=True)
    bare = Checkpoint("resnet18", ("a", "b"), preprocessing, {}, None, {}, {})
    loaded = checkpoints.with_weights(bare, build_model("resnet18", 2, seed=0), {})
    # A head with air around it, at three brightnesses and places.
    y, x = np.mgrid[:SIDE, :SIDE]
    heads = [
        np.where((x - cx) ** 2 + (y - 14) ** 2 < 81, grey + 20 * np.sin(x / 3), 0)
        for cx, grey in ((12, 60), (16, 120), (20, 200))
    ]
    squares = np.stack(heads).astype(np.uint8)
    expected = describe(loaded.network(), preprocessing, squares, device=CPU)[0]
    session = onnxruntime.InferenceSession(graph_of(loaded).SerializeToString())
    (found, _) = session.run(None, {session.get_inputs()[0].name: squares})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    darker = session.run(None, {session.get_inputs()[0].name: squares // 2})[0]
    np.testing.assert_allclose(darker[2], expected[2], atol=0.1 * np.abs(expected).max())
