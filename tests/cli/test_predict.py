import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.preprocessing import Preprocessing
from tumorlens.cli import main
from tumorlens.data.dataset import load_for_training
from tumorlens.models.build import build_model
from tumorlens.training.calibrate import calibrate


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 6, "valid": 4})


@pytest.fixture
def checkpoint(data: Path, tmp_path: Path) -> Path:
    loaded = load_for_training(data, 32)
    bare = Checkpoint("resnet18", loaded.classes, Preprocessing(32, 0.2, 0.2), {}, None, {}, {})
    ready = checkpoints.with_weights(bare, build_model("resnet18", 4, seed=0), {})
    path = tmp_path / "best_model.pt"
    checkpoints.save(calibrate(ready, loaded), path)
    return path


def test_folder_with_a_broken_file_is_classified_and_exits_with_1(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "valid/glioma/broken.png").write_text("hello")
    out = tmp_path / "out.csv"
    argv = ["predict", str(data / "valid"), "--checkpoint", str(checkpoint), "--csv", str(out)]
    assert main(argv) == 1
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 17
    assert [row["path"] for row in rows if row["decision"] == "unreadable"] == [
        (data / "valid/glioma/broken.png").as_posix()
    ]
    told = capsys.readouterr().out
    assert "1 unreadable" in told
    assert "not a medical device" in told


def test_json_is_all_that_standard_output_has(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data / "valid/glioma/glioma006.png"
    assert main(["predict", str(file), "--checkpoint", str(checkpoint), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["path"] == file.as_posix()
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    (same,) = tumorlens.predict(paths=[str(file)], checkpoint=str(checkpoint))
    assert same.decided is not None
    assert same.decided.prediction == found["prediction"]


def test_gradcam_says_the_same_probability_of_a_slice(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    sharper = replace(checkpoints.load(checkpoint), temperature=0.05)  # far from uncalibrated
    checkpoints.save(sharper, checkpoint)
    file = str(data / "valid/glioma/glioma006.png")
    (answer,) = tumorlens.predict(paths=[file], checkpoint=str(checkpoint))
    (tile,) = tumorlens.gradcam(
        checkpoint=checkpoint, images=(Path(file),), out_dir=tmp_path / "cam"
    ).tiles
    assert answer.decided is not None
    assert tile.views[0].prediction == answer.decided.prediction
    assert tile.views[0].probability == pytest.approx(answer.decided.probabilities.max(), abs=1e-5)


def test_heatmaps_are_one_picture_a_slice(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    argv = ["predict", str(data / "valid/glioma"), "--checkpoint", str(checkpoint)]
    assert main([*argv, "--heatmaps", str(maps)]) == 0
    assert len(list(maps.glob("*.png"))) == 4
    assert json.loads((maps / "manifest.json").read_text())["command"] == "predict"
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    assert main([*argv, "--heatmaps", str(other)]) == 2
    assert [file.name for file in other.iterdir()] == ["mine.txt"]


def test_checkpoint_without_calibration_judges_nothing_and_says_so(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(
        checkpoints.load(checkpoint),
        temperature=None,
        uncertainty_threshold=None,
        ood_threshold=None,
    )
    checkpoints.save(bare, tmp_path / "bare.pt")
    file = data / "valid/glioma/glioma006.png"
    assert main(["predict", str(file), "--checkpoint", str(tmp_path / "bare.pt")]) == 0
    told = capsys.readouterr().out
    assert "not calibrated" in told
    assert "no calibration" in told


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["predict"], "--checkpoint"),
        (["predict", "--checkpoint", "x.pt"], "files must be given"),
        (["predict", "nowhere.png", "--checkpoint", "x.pt"], "x.pt"),
        (["predict", "a.png", "--checkpoint", "x.pt", "--axis", "up"], "--axis"),
    ],
)
def test_wrong_flags_are_one_sentence(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
