"""Patients on the way through the commands: train, evaluate, compare, audit."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.cli import main


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 4, "valid": 2, "test": 4}, classes=("glioma", "notumor"))


@pytest.fixture
def patients(data: Path, tmp_path: Path) -> Path:
    """Two images a patient, no patient in two splits; gliomas of two sites."""
    paths = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    rows = [
        f"{path},p{index // 2},{('letters', 'digits')[index // 2 % 2] if 'glioma' in path else ''}"
        for index, path in enumerate(paths)
    ]
    table = tmp_path / "patients.csv"
    table.write_text("path,patient,site\n" + "\n".join(rows) + "\n")
    return table


def _train(data: Path, out: Path, *more: str) -> int:
    argv = ["train", "--model", "resnet18", "--data_dir", str(data), "--out_dir", str(out)]
    return main([*argv, "--epochs", "1", "--batch_size", "4", "--image_size", "32", *more])


def test_evaluate_knows_the_patients_of_training_without_being_told_again(
    data: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert _train(data, out, "--patients", str(patients)) == 0
    assert main(["evaluate", "--checkpoint", str(out / "best_model.pt"), "--resamples", "100"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Intervals resample 4 patients." in told
    assert "Recall by subgroup" in told
    assert "site digits" in told
    metrics = json.loads((out / "evaluation/metrics.json").read_text())
    assert metrics["unit"] == "4 patients"
    assert {(one["class"], one["subgroup"]) for one in metrics["by_site"]} == {
        ("glioma", "letters"),
        ("glioma", "digits"),
    }
    with (out / "evaluation/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["patient"] for row in rows}) == 4
    # The table is as exact as the metrics: compare reads patients and probabilities from it.
    argv = ["compare", str(out / "evaluation"), str(out / "best_model.pt")]
    assert main([*argv, "--resamples", "100", "--out_dir", str(tmp_path / "c")]) == 0
    assert "intervals over 4 patients" in " ".join(capsys.readouterr().out.split())
    differences = json.loads((tmp_path / "c/comparison.json").read_text())["subsets"]["all"]
    assert {one["value"] for one in differences["differences"].values()} <= {0.0, None}


def test_planted_overlap_in_a_splits_file_is_refused_or_told_everywhere(
    data: Path,
    patients: Path,
    tmp_path: Path,
    make_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = list(csv.DictReader(patients.read_text().splitlines()))
    for row in rows:
        row["split"] = row["path"].split("/")[0]
    trained, tested = (next(r for r in rows if r["split"] == split) for split in ("train", "test"))
    trained["patient"] = tested["patient"]
    splits = tmp_path / "splits.csv"
    lines = [f"{row['path']},{row['split']},{row['patient']}" for row in rows]
    splits.write_text("path,split,patient\n" + "\n".join(lines) + "\n")
    out = tmp_path / "model"
    assert _train(data, out, "--splits", str(splits)) == 2
    said = capsys.readouterr().err
    assert "1 patient is in more than one split, by 2 of 8 test images" in said
    assert "Traceback" not in said
    assert not out.exists()

    assert _train(data, out, "--splits", str(splits), "--allow_patient_overlap") == 0
    assert "Patients overlap (--allow_patient_overlap): 1 patient" in capsys.readouterr().out
    argv = ["evaluate", "--checkpoint", str(out / "best_model.pt"), "--resamples", "100"]
    assert main(argv) == 0
    assert "Patients overlap (--allow_patient_overlap): 1 patient" in " ".join(
        capsys.readouterr().out.split()
    )
    assert any(
        "Patients overlap" in c
        for c in json.loads((out / "evaluation/metrics.json").read_text())["caveats"]
    )

    # Of other people's images it says nothing.
    other = make_folder({"test": 2}, classes=("glioma", "notumor"), name="other")
    assert main([*argv, "--data_dir", str(other)]) == 0
    assert "Patients overlap" not in capsys.readouterr().out

    argv = ["audit", str(data), "--splits", str(splits), "--out_dir", str(tmp_path / "audit")]
    assert main([*argv, "--fail_on", "patients"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "2 of the test images (25.0%) show a patient who is in train too" in told
    assert "--fail_on patients: 3 found" in told
    assert "show a patient who is in" in (tmp_path / "audit/audit.html").read_text()


def test_evaluate_refuses_a_table_that_finds_patients_of_training_in_the_test(
    data: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert _train(data, out) == 0
    rows = list(csv.DictReader(patients.read_text().splitlines()))
    for row in rows:
        row["patient"] = row["path"].split("/")[1]  # one patient a class, in every split
    patients.write_text("path,patient\n" + "".join(f"{r['path']},{r['patient']}\n" for r in rows))
    argv = ["evaluate", "--checkpoint", str(out / "best_model.pt"), "--patients", str(patients)]
    assert main([*argv, "--resamples", "100"]) == 2
    assert "by 8 of 8 test images: glioma (4 train, 4 test)" in capsys.readouterr().err
    assert not (out / "evaluation").exists()
    assert main([*argv, "--resamples", "100", "--allow_patient_overlap"]) == 0
    assert "Intervals resample 2 patients." in capsys.readouterr().out


def test_table_of_the_scored_images_alone_is_enough(
    data: Path, tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert _train(data, out) == 0
    other = make_folder({"test": 2}, classes=("glioma", "notumor"), name="other")
    (other / "test").rename(other / "images")
    root = other / "images"
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    table = tmp_path / "other.csv"
    table.write_text(
        "path,patient\n" + "".join(f"{path},q{n // 2}\n" for n, path in enumerate(paths))
    )
    argv = ["evaluate", "--checkpoint", str(out / "best_model.pt"), "--data_dir", str(root)]
    assert main([*argv, "--patients", str(table), "--resamples", "100"]) == 0
    assert "Intervals resample 2 patients." in " ".join(capsys.readouterr().out.split())
