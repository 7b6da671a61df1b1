import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import main
from tumorlens.data.dataset import load_for_training
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
from tumorlens.models.build import build_model
from tumorlens.training.calibrate import calibrate


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 6, "valid": 4})


@pytest.fixture
def checkpoint(data: Path, tmp_path: Path) -> Path:
    loaded = load_for_training(resolve(data), 32)
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


def test_sets_of_classes_are_in_table_csv_and_json(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", str(data / "valid"), "--checkpoint", str(checkpoint), "--coverage", "0.8"]
    assert main([*words, "--csv", str(out)]) == 0
    assert " or " in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-1] == "set"
    assert main([*words, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, one in zip(rows, found, strict=True):
        assert row["set"] == " or ".join(one["set"])
        assert one["set"][0] == one["prediction"]
        # Of 4 calibration images of a class all must be in: those of the folder are these.
        assert Path(one["path"]).parent.name in one["set"]


def test_coverage_that_cannot_be_had_is_refused_and_nothing_is_written(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", str(data / "valid"), "--checkpoint", str(checkpoint), "--csv", str(out)]
    assert main([*words, "--coverage", "0.95"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "glioma has 4; ask for 0.8 or less" in told
    checkpoints.save(replace(checkpoints.load(checkpoint), conformal=None), checkpoint)
    assert main([*words, "--coverage", "0.8"]) == 2
    assert "keeps no calibration scores" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--coverage", "1.2"]) == 2
    assert "--coverage 1.2: expected more than 0 and less than 1" in capsys.readouterr().err
    assert not out.exists()
