"""`evaluate` and what others show of the same images, by a network that was never trained."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import main
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.evaluation import evaluate as evaluation
from tumorlens.models.build import build_model

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
TEMPERATURE = 0.05  # far from 1, so that no plain probability passes for a calibrated one


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 1, "valid": 1, "test": 3})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    bare = Checkpoint("resnet18", CLASSES, Preprocessing(32, 0.2, 0.2), {}, None, {}, {})
    ready = checkpoints.with_weights(bare, build_model("resnet18", 4, seed=0), {})
    path = tmp_path / "best_model.pt"
    checkpoints.save(replace(ready, temperature=TEMPERATURE, uncertainty_threshold=0.5), path)
    return path


def _evaluated(checkpoint: Path, data: Path, out: str = "evaluation") -> Path:
    argv = ["--checkpoint", str(checkpoint), "--data_dir", str(data), "--resamples", "100"]
    folder = checkpoint.parent / out
    assert main(["evaluate", *argv, "--out_dir", str(folder)]) == 0
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_command_gives_an_image_the_same_probability(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    rows = _rows(_evaluated(checkpoint, data) / "predictions.csv")
    tiles = tumorlens.gradcam(
        checkpoint=checkpoint,
        images=tuple(data / row["path"] for row in rows),
        count=len(rows),
        out_dir=tmp_path / "cam",
    ).tiles
    shown = {Path(tile.path).name: tile.views[0].probability for tile in tiles}
    answers = tumorlens.predict(
        paths=[str(data / row["path"]) for row in rows], checkpoint=str(checkpoint)
    )
    for row, answer in zip(rows, answers, strict=True):
        assert answer.decided is not None
        found = [float(row[f"prob_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(found, answer.decided.probabilities, atol=1e-4)
        assert row["prediction"] == answer.decided.prediction
        assert shown[Path(row["path"]).name] == pytest.approx(max(found), abs=1e-4)


def test_metrics_are_of_the_calibrated_probabilities_and_before_and_after_are_told(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _evaluated(checkpoint, data)
    assert "calibrated probabilities (temperature 0.05)" in capsys.readouterr().out
    record = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert record["probabilities"] == "calibrated probabilities (temperature 0.05)"
    rows = _rows(out / "predictions.csv")
    truth = np.array([[row["label"] == name for name in CLASSES] for row in rows])
    table = np.array([[float(row[f"prob_{name}"]) for name in CLASSES] for row in rows])
    brier = ((table - truth) ** 2).sum(axis=1).mean()
    metrics, both = record["all"]["metrics"], record["calibration"]
    assert metrics["brier"]["value"] == pytest.approx(brier) == pytest.approx(both["brier_after"])
    assert metrics["ece"]["value"] == pytest.approx(both["ece_after"])
    assert metrics["log_loss"]["value"] == pytest.approx(both["nll_after"])
    # Without the temperature, from the same table: p to the power of T, to a sum of 1.
    plain = table**TEMPERATURE / (table**TEMPERATURE).sum(axis=1, keepdims=True)
    assert both["nll_before"] == pytest.approx(-np.log(plain[truth]).mean())
    assert both["brier_before"] == pytest.approx(((plain - truth) ** 2).sum(axis=1).mean())


def test_checkpoint_without_temperature_is_told_not_to_be_calibrated(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(replace(checkpoints.load(checkpoint), temperature=None), checkpoint)
    record = json.loads((_evaluated(checkpoint, data) / "metrics.json").read_text(encoding="utf-8"))
    assert record["probabilities"] == "probabilities not calibrated"
    assert record["calibration"] is None
    assert any("the checkpoint has no temperature" in one for one in record["caveats"])
    assert "probabilities not calibrated" in capsys.readouterr().out


def test_class_without_images_has_a_dash_and_a_sentence_and_never_nan(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(data / "test" / "meningioma")
    sites = tmp_path / "patients.csv"
    paths = sorted(path.relative_to(data).as_posix() for path in (data / "test").rglob("*.png"))
    lines = [f"{path},p{number},{'ab'[number % 2]}" for number, path in enumerate(paths)]
    sites.write_text("\n".join(["path,patient,site", *lines]), encoding="utf-8")
    argv = ["--data_dir", str(data), "--resamples", "100", "--patients", str(sites)]
    outs = [str(tmp_path / name) for name in "ab"]
    for out in outs:
        argv_of = ["evaluate", "--checkpoint", str(checkpoint), *argv, "--out_dir", out]
        assert main(argv_of) == 0
    told = capsys.readouterr()
    assert main(["compare", *outs, "--resamples", "100", "--out_dir", str(tmp_path / "c")]) == 0
    compared = capsys.readouterr()
    for text in (told.out, told.err, compared.out, compared.err):
        assert "nan" not in text.lower()
    row = next(line for line in told.out.splitlines() if line.strip().startswith("meningioma"))
    assert row.split() == ["meningioma", "0", "-", "-", "-", "-", "-"]
    said = "No image of meningioma is among these"
    for text in (told.out, compared.out):
        assert said in " ".join(text.split())
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text(encoding="utf-8"))
    for name in ("recall", "precision", "f1", "auroc", "average_precision"):
        assert metrics["all"]["metrics"][f"{name}_meningioma"]["value"] is None
    assert metrics["all"]["support"]["meningioma"] == 0
    predicted = [row["prediction"] for row in _rows(tmp_path / "a" / "predictions.csv")]
    share = predicted.count("meningioma") / len(predicted)
    assert any(f"{share:.1%} of the predictions name such a class" in c for c in metrics["caveats"])
    rows = {row["metric"]: row for row in _rows(tmp_path / "c" / "comparison.csv")}
    for column in ("a", "b", "difference", "low", "high", "p", "p_holm"):
        assert rows["recall_meningioma"][column] == ""
    comparison = json.loads((tmp_path / "c" / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["subsets"]["all"]["differences"]["recall_meningioma"]["low"] is None


def test_folder_of_fewer_classes_is_scored_on_those(checkpoint: Path, data: Path) -> None:
    for label in ("meningioma", "notumor"):
        shutil.rmtree(data / "test" / label)
    out = _evaluated(checkpoint, data)
    record = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    rows = _rows(out / "predictions.csv")
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert len(rows) == record["images"] == 6
    assert record["all"]["metrics"]["accuracy"]["value"] == right / 6
    assert any("No image of meningioma or notumor" in caveat for caveat in record["caveats"])


def test_failed_scoring_leaves_the_finished_one_as_it_was(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _evaluated(checkpoint, data)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fails(*_: object, **__: object) -> None:
        raise TumorlensError("half way")

    monkeypatch.setattr(evaluation, "score", fails)
    argv = ["evaluate", "--checkpoint", str(checkpoint), "--data_dir", str(data)]
    assert main([*argv, "--out_dir", str(out)]) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_class_missed_at_one_site_of_a_file_is_said_first_and_reaches_every_output(
    checkpoint: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder({"test": 12}, name="many")
    first = _rows(_evaluated(checkpoint, data, "first") / "predictions.csv")
    table = data.parent / "scanners.csv"
    # Old scanners made every image that the network gets wrong, and a few others.
    wrong = {row["path"]: row["label"] != row["prediction"] for row in first}
    lines = [
        f"{path},{'old' if miss or number % 5 == 0 else 'new'}"
        for number, (path, miss) in enumerate(wrong.items())
    ]
    table.write_text("\n".join(["path,scanner", *lines]), encoding="utf-8")
    capsys.readouterr()
    report = tumorlens.evaluate(
        checkpoint=checkpoint, data_dir=data, subgroups=table, resamples=100
    )
    rows = {(one.label, one.subgroup): one for one in report.subgroups.rows}
    assert {one.column for one in report.subgroups.rows} == {"scanner", "brightness"}
    assert all(one.recall.value == 1 for (_, name), one in rows.items() if name == "new")
    written = json.loads((report.out_dir / "metrics.json").read_text(encoding="utf-8"))["bias"]
    assert written["sentence"] == report.bias.sentence
    assert written["worst_class"] == report.bias.worst_class
    found = json.loads((report.out_dir / "subgroups.json").read_text(encoding="utf-8"))
    assert len(found["rows"]) == len(report.subgroups.rows)
    assert found["tests"] == report.subgroups.tests


def test_bias_stands_above_all_tables(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _evaluated(checkpoint, data)
    told = capsys.readouterr().out
    assert told.index("Bias. Recall is lowest for") < told.index("Class-wise bias, with 95%")
    assert told.index("largest gap:") < told.index("Overall, with 95% intervals")


def test_missing_file_of_subgroups_is_one_sentence_and_nothing_is_written(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "--checkpoint", str(checkpoint), "--data_dir", str(data)]
    assert main([*argv, "--subgroups", "nowhere.csv"]) == 2
    said = capsys.readouterr().err
    assert "--subgroups nowhere.csv: there is no such file" in said
    assert not (checkpoint.parent / "evaluation").exists()
