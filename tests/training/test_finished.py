import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe
from tumorlens.cli import main
from tumorlens.data.dataset import load_for_training
from tumorlens.data.patients import FileTable
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model
from tumorlens.settings import CalibrateSettings
from tumorlens.training.finished import calibrate

CLASSES = ("glioma", "meningioma")


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 8, "valid": 8, "test": 2}, classes=CLASSES)


@pytest.fixture
def checkpoint(folder: Path, tmp_path: Path, record_of: Callable[..., Any]) -> Path:
    """A network that never learned, whose last layer leans to glioma."""
    data = load_for_training(resolve(folder), 32)
    bare = Checkpoint("resnet18", CLASSES, Preprocessing(32, 0.2, 0.2), {}, record_of(data), {}, {})
    network = build_model("resnet18", 2, seed=0)
    with torch.no_grad():
        network.fc.bias += torch.tensor([3.0, 0.0])
    path = tmp_path / "run" / "best_model.pt"
    path.parent.mkdir()
    checkpoints.save(checkpoints.with_weights(bare, network, {}), path)
    return path


def _logits(loaded: Checkpoint, images: np.ndarray) -> np.ndarray:
    return describe(loaded.network(), loaded.preprocessing, images, device=torch.device("cpu"))[0]


def test_operating_point_moves_what_the_network_computes_and_is_recorded(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", "--checkpoint", str(checkpoint), "--operating_point", "worst_class"]
    assert main([*words, "--threads", "1", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "* worst_class" in " ".join(told.split())
    assert "Offsets, nats: glioma -" in told
    out = checkpoint.parent / "calibration"
    before, after = checkpoints.load(checkpoint), checkpoints.load(out / "best_model.pt")
    assert before.offsets is None
    assert after.offsets is not None
    data = load_for_training(resolve(folder), 32)
    shift = np.array(after.offsets) * after.temperature
    np.testing.assert_allclose(
        _logits(after, data.images), _logits(before, data.images) + shift, atol=1e-5
    )
    valid = data.indices("valid")
    of_before, of_after = (
        _logits(one, data.images[valid]).argmax(axis=1) for one in (before, after)
    )
    assert (of_before == 0).all()
    assert 0 < (of_after == 1).sum() < len(valid)
    assert after.calibration["operating_point"]["goal"] == "worst_class"
    assert after.conformal["counts"] == (8, 8)
    written = json.loads((out / "operating_points.json").read_text())
    assert written["classes"] == list(CLASSES)
    assert [one["goal"] for one in written["points"]][:2] == ["none", "accuracy"]
    assert written["points"][0]["recall"] == [1.0, 0.0]
    assert (out / "operating_points.png").is_file()
    assert json.loads((out / "manifest.json").read_text())["command"] == "calibrate"
    # Nothing of the first offsets is left in a second calibration without any.
    settings = CalibrateSettings(out / "best_model.pt", out_dir=out / "again", threads=1)
    again = calibrate(settings).checkpoint
    assert again.offsets is None
    np.testing.assert_allclose(_logits(again, data.images), _logits(before, data.images), atol=1e-5)


def _patients(folder: Path, path: Path, sites: int) -> Path:
    """Two images a patient; `sites` of the eight patients of each class and split are at x."""
    files = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*.png"))
    rows = ["path,patient,site"]
    for number, file in enumerate(files):
        at = (number // 2) % 4
        rows.append(f"{file},p{number // 2},{'x' if at < sites else 'y'}")
    path.write_text("\n".join(rows))
    return path


def test_last_layer_is_another_and_the_features_stay(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    table = _patients(folder, tmp_path / "patients.csv", 2)
    settings = CalibrateSettings(
        checkpoint, last_layer="site", patients=table, device="cpu", threads=1
    )
    found = calibrate(settings)
    before, after = checkpoints.load(checkpoint), checkpoints.load(found.path)
    assert found.last_layer is not None
    changed = [
        name
        for name, value in after.weights.items()
        if not torch.equal(value, before.weights[name])
    ]
    assert sorted(changed) == ["fc.bias", "fc.weight"]
    data = load_for_training(resolve(folder), 32)
    right = _logits(after, data.images).argmax(axis=1) == data.labels
    assert right.mean() > 0.8
    told = after.calibration["last_layer"]
    assert set(told["recall"]) == {f"{name}, {site}" for name in CLASSES for site in "xy"}
    assert told["groups_by"] == "site"
    assert after.conformal["unit"] == "patients"
    assert after.conformal["counts"] == (4, 4)
    # Validation images that the layer learned from do not calibrate it as if they were others.
    fitted = _logits(after, data.images[data.indices("valid")])
    own = fitted[np.arange(16), data.labels[data.indices("valid")]]
    assert not np.isnan(own).any()
    trained = calibrate(
        replace(settings, last_layer_images="train", out_dir=tmp_path / "of_train")
    ).checkpoint
    assert not torch.equal(trained.weights["fc.weight"], after.weights["fc.weight"])


def test_group_of_one_patient_is_refused_before_anything_is_written(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    table = _patients(folder, tmp_path / "patients.csv", 1)
    settings = CalibrateSettings(checkpoint, last_layer="site", patients=table, threads=1)
    with pytest.raises(TumorlensError, match="one patient alone of glioma, x among the valid"):
        calibrate(settings)
    with pytest.raises(TumorlensError, match="--last_layer plane: no such column"):
        calibrate(replace(settings, last_layer="plane"))
    assert not (checkpoint.parent / "calibration").exists()


def test_network_that_trained_on_its_validation_images_is_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = checkpoints.load(checkpoint)
    checkpoints.save(replace(loaded, settings={"train_on_valid": True}), checkpoint)
    assert main(["calibrate", "--checkpoint", str(checkpoint)]) == 2
    assert "trained on its validation images too" in " ".join(capsys.readouterr().err.split())


def test_images_of_the_last_layer_need_the_last_layer() -> None:
    with pytest.raises(ValueError, match="--last_layer_images goes with --last_layer"):
        CalibrateSettings(Path("x.pt"), last_layer_images="train")


def _other_fold(checkpoint: Path, patients: FileTable | None = None) -> Path:
    """The same network, validated on every second image and on the first's test images."""
    loaded = checkpoints.load(checkpoint)
    assert loaded.data is not None
    record = replace(
        loaded.data, valid=(*loaded.data.valid[::2], *loaded.data.test), test=(), patients=patients
    )
    path = checkpoint.with_name("other.pt")
    checkpoints.save(replace(loaded, data=record), path)
    return path


def test_other_folds_fit_the_offsets_without_the_test_split_and_its_people(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _other_fold(checkpoint)
    words = ["calibrate", "--checkpoint", str(checkpoint), "--operating_point", "worst_class"]
    argv = [*words, "--threads", "1", "--device", "cpu", "--other_folds", str(other)]
    assert main(argv) == 0
    out = checkpoint.parent / "calibration"
    assert "Offsets: fitted on 24 validation images" in capsys.readouterr().out
    images = checkpoints.load(out / "best_model.pt").calibration["images"]
    assert images == {"train": 16, "valid": 16, "offsets": 16 + 8}
    assert json.loads((out / "operating_points.json").read_text())["images"] == 24

    loaded = checkpoints.load(checkpoint)
    assert loaded.data is not None
    shown = {path: {"patient": f"p{number}"} for number, path in enumerate(loaded.data.valid)}
    shown |= {path: {"patient": "p0"} for path in loaded.data.test}
    table = FileTable("patients.csv", shown, ("patient",))
    checkpoints.save(replace(loaded, data=replace(loaded.data, patients=table)), checkpoint)
    _other_fold(checkpoint, table)
    assert main(argv) == 0
    images = checkpoints.load(out / "best_model.pt").calibration["images"]
    assert images["offsets"] == 16 + 7  # p0's image is in the test split too


def test_other_folds_of_another_network_or_without_offsets_are_refused(checkpoint: Path) -> None:
    loaded = checkpoints.load(checkpoint)
    other = checkpoint.with_name("other.pt")
    network = build_model("se_resnet18", 2, seed=0)
    bare = replace(loaded, model_name="se_resnet18")
    checkpoints.save(checkpoints.with_weights(bare, network, {}), other)
    settings = CalibrateSettings(checkpoint, operating_point="accuracy", other_folds=(other,))
    with pytest.raises(TumorlensError, match="other.pt: is a se_resnet18 of glioma, meningioma;"):
        calibrate(settings)
    with pytest.raises(ValueError, match="--other_folds fits offsets"):
        CalibrateSettings(checkpoint, other_folds=(other,))
    with pytest.raises(ValueError, match="lack the new last layer"):
        replace(settings, last_layer="class")
