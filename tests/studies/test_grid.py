import csv
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tumorlens.checkpoint.session import Session, open_session
from tumorlens.comparison.run_files import read_study
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress
from tumorlens.settings import StudySettings, TrainSettings
from tumorlens.studies.grid import jobs, study
from tumorlens.training.fit import TrainingResult, train


def _settings(data: Path, out: Path, **changes: object) -> StudySettings:
    small = StudySettings(
        models=("resnet18",),
        data_dir=data,
        out_dir=out / "results",
        runs_dir=out / "runs",
        epochs=1,
        batch_size=8,
        image_size=32,
        resamples=100,
        threads=1,
        device="cpu",
    )
    return replace(small, **changes)


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"Training": 8, "Testing": 2})


@pytest.fixture
def folds(data: Path, tmp_path: Path) -> Path:
    """Two folds of four runs over the training images."""
    file = tmp_path / "folds.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "fold", "run"])
        for path in sorted((data / "Training").rglob("*.png")):
            number = int(path.stem[-3:]) % 4
            writer.writerow([path.relative_to(data).as_posix(), number % 2, number])
    return file


def test_grid_has_every_run_once_and_pairs_first(data: Path, tmp_path: Path, folds: Path) -> None:
    both = ("resnet18", "se_resnet18")
    asked = _settings(data, tmp_path, models=both, seeds=2, protocol="folds", splits=folds)
    assert [job.name for job in jobs(asked)] == [
        "resnet18-folds-fold0-seed0",
        "se_resnet18-folds-fold0-seed0",
        "resnet18-folds-fold1-seed0",
        "se_resnet18-folds-fold1-seed0",
        "resnet18-folds-fold0-seed1",
        "se_resnet18-folds-fold0-seed1",
        "resnet18-folds-fold1-seed1",
        "se_resnet18-folds-fold1-seed1",
    ]
    official = jobs(_settings(data, tmp_path, models=both))
    assert [job.name for job in official] == [
        "resnet18-official-seed0",
        "se_resnet18-official-seed0",
    ]
    assert official[1].train.epochs == 1
    assert official[1].train.image_size == 32
    assert len({job.train.out_dir for job in jobs(asked)}) == 8
    # Another study's runs go elsewhere by themselves.
    for out, runs in (("study", "model/study"), ("results/long", "model/long")):
        (job,) = jobs(_settings(data, tmp_path, out_dir=Path(out), runs_dir=None))
        assert job.train.out_dir == Path(runs) / "resnet18-official-seed0"


def test_public_patients_are_the_default_and_strange_folds_are_refused(
    data: Path, tmp_path: Path, folds: Path
) -> None:
    public = jobs(_settings(data, tmp_path, protocol="patients", folds=(3,)))
    assert str(public[0].train.splits) == "public-patients"
    dealt = jobs(_settings(data, tmp_path, protocol="folds", splits=folds))
    assert {job.train.fold for job in dealt} == {0, 1}
    with pytest.raises(TumorlensError, match="--folds 2: .* has the folds 0, 1"):
        jobs(_settings(data, tmp_path, protocol="folds", splits=folds, folds=(0, 2)))
    plain = tmp_path / "plain.csv"
    plain.write_text("path,split\na,train\n")
    for strange, told in (
        (plain, "expects a column `fold` with whole numbers, found path, split"),
        (tmp_path, "cannot be read as CSV"),
        (tmp_path / "none.csv", "there is no such file"),
    ):
        with pytest.raises(TumorlensError, match=told):
            jobs(_settings(data, tmp_path, protocol="folds", splits=strange))


def test_settings_refuse_what_has_no_meaning(data: Path) -> None:
    for changes, told in (
        ({"folds": (0,)}, "--folds goes with --protocol patients or folds"),
        ({"models": ()}, "--models"),
        (
            {"protocol": "patients", "folds": (1, 1)},
            "--folds: expected one or more, each named once",
        ),
        ({"groups": Path("patients.csv")}, "--groups goes with --report"),
        ({"data_dir": None}, "--data_dir must be given"),
    ):
        with pytest.raises(ValueError, match=told):
            StudySettings(**({"data_dir": data} | changes))


def test_runs_leave_their_files_and_a_rerun_does_what_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "path,box_x0,box_y0,box_x1,box_y1\n"
        + "".join(f"Testing/glioma/glioma00{number}.png,0.1,0.1,0.5,0.5\n" for number in (8, 9))
    )
    heard: list[tuple[str, int, int]] = []
    asked = _settings(data, Path(), boxes=boxes)
    first = study(asked, lambda stage, done, total, note="": heard.append((stage, done, total)))
    assert (first.before, first.done, first.failed) == ((), ("resnet18-official-seed0",), {})
    assert heard[-1] == ("study", 100, 100)
    names = {path.name for path in (tmp_path / "results").iterdir()}
    name = "resnet18-official-seed0"
    assert names == {f"{name}.json", f"{name}-predictions.csv.gz", "manifest.json"}
    text = (tmp_path / "results" / f"{name}.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert record["checkpoint"] == f"runs/{name}/runs/resnet18-seed0-1/best_model.pt"
    assert (tmp_path / record["checkpoint"]).is_file()
    assert record["training"]["epochs"] == 1
    assert record["images"]["test"] == 8
    assert record["scores"]["all"]["n"] == 8
    assert record["tumor_classes_alone"]["all"]["n"] == 6
    assert record["localization"]["images_with_box"] == 2
    assert set(record["minutes"]) == {"training", "scoring"}
    predictions = read_study(tmp_path / "results")[0].predictions()
    assert len(predictions.paths) == 8
    assert predictions.groups is not None
    assert predictions.duplicates is not None

    before = (tmp_path / "results" / f"{name}.json").stat().st_mtime_ns
    second = study(replace(asked, seeds=2))
    assert (second.before, second.done) == ((name,), ("resnet18-official-seed1",))
    assert (tmp_path / "results" / f"{name}.json").stat().st_mtime_ns == before
    with pytest.raises(TumorlensError, match="was trained with image_size 32, now 48 is asked"):
        study(replace(asked, image_size=48))
    # Nor does another network make another study in the same folder.
    with pytest.raises(TumorlensError, match="resnet18-official-seed0 there was trained with"):
        study(replace(asked, models=("se_resnet18",), image_size=48))
    # Records from before there was the flag say nothing of it: they are of a run without.
    old = json.loads(text)
    assert old["training"].pop("train_on_valid") is False
    (tmp_path / "results" / f"{name}.json").write_text(json.dumps(old))
    with pytest.raises(TumorlensError, match="was trained with train_on_valid False, now True"):
        study(replace(asked, train_on_valid=True))
    (data / "Testing" / "glioma" / "glioma009.png").unlink()
    with pytest.raises(TumorlensError, match=r"is of other images \(Testing/glioma/glioma009.png"):
        study(asked)


def test_fold_run_scores_its_fold(data: Path, tmp_path: Path, folds: Path) -> None:
    result = study(_settings(data, tmp_path, protocol="folds", splits=folds, folds=(0,)))
    assert result.failed == {}
    (run,) = read_study(tmp_path / "results")
    predictions = run.predictions()
    assert run.fold == 0
    assert predictions.patients is None
    assert len(predictions.paths) == 16  # of eight images a class, 0 and 4, 2 and 6


def test_protocol_patients_needs_patients_and_keeps_them_in_the_predictions(
    data: Path, tmp_path: Path, folds: Path
) -> None:
    asked = _settings(data, tmp_path, protocol="patients", splits=folds, folds=(0,))
    with pytest.raises(TumorlensError, match="has no column `patient`; name the patients by"):
        study(asked)
    with pytest.raises(TumorlensError, match="--protocol folds: needs the splits file"):
        study(_settings(data, tmp_path, protocol="folds"))
    header, *rows = folds.read_text().splitlines()
    named = [f"{row},{row.split('/')[1]}-{row.split(',')[2]}" for row in rows]
    folds.write_text("\n".join([f"{header},patient", *named]))
    assert study(asked).failed == {}
    (run,) = read_study(tmp_path / "results")
    assert run.name == "resnet18-patients-fold0-seed0"
    assert len(set(run.predictions().patients or ())) == 8  # of four classes, two blocks each
    assert run.record["scores"]["unit"] == "8 patients"


def test_run_on_validation_images_too_says_so_and_scores_its_fold(
    data: Path, tmp_path: Path, folds: Path
) -> None:
    asked = _settings(data, tmp_path, protocol="folds", splits=folds, folds=(0,))
    assert study(replace(asked, train_on_valid=True)).failed == {}
    (run,) = read_study(tmp_path / "results")
    assert run.record["images"] == {"train": 16, "valid": 0, "test": 16}
    assert run.record["selected"] == {"epoch": 1}
    assert run.record["training"]["train_on_valid"] is True
    assert "they train too and the last epoch is kept" in run.record["validation"]


def test_run_that_cannot_be_done_fails_alone(data: Path, tmp_path: Path) -> None:
    asked = _settings(data, tmp_path, seeds=2)
    blocked = tmp_path / "runs/resnet18-official-seed0"
    blocked.mkdir(parents=True)
    (blocked / "best_model.pt").write_text("somebody else's")
    result = study(asked)
    assert result.done == ("resnet18-official-seed1",)
    assert list(result.failed) == ["resnet18-official-seed0"]
    assert "was not written by tumorlens" in result.failed["resnet18-official-seed0"]


def test_jobs_share_the_cores_unless_threads_are_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tumorlens.studies.grid.usable_cores", lambda: 5)

    def threads(**changes: object) -> int | None:
        (job,) = jobs(_settings(data, tmp_path, **changes))
        return job.train.threads

    assert threads(jobs=2, threads=None) == 2
    assert threads(jobs=8, threads=None) == 1
    assert threads(jobs=2, threads=4) == 4
    assert threads(jobs=1, threads=None) is None


def test_runs_side_by_side_leave_what_runs_one_after_another_do(data: Path, tmp_path: Path) -> None:
    both = ("resnet18", "se_resnet18")
    one_by_one = study(_settings(data, tmp_path / "a", models=both))
    blocked = tmp_path / "b/runs/resnet18-official-seed0"
    blocked.mkdir(parents=True)
    (blocked / "best_model.pt").write_text("somebody else's")
    beside = study(_settings(data, tmp_path / "b", models=both, jobs=2))
    assert beside.done == ("se_resnet18-official-seed0",)
    assert "best_model.pt" in beside.failed["resnet18-official-seed0"]
    (blocked / "best_model.pt").unlink()
    assert study(_settings(data, tmp_path / "b", models=both, jobs=2)).failed == {}
    for name in one_by_one.done:
        a, b = (tmp_path / side / f"results/{name}-predictions.csv.gz" for side in "ab")
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("fault", [OSError(28, "no space"), RuntimeError("out of memory")])
def test_run_that_fails_by_the_machine_stops_no_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail_once(settings: TrainSettings, progress: Progress) -> TrainingResult:
        if settings.seed == 0:
            raise fault
        return train(settings, progress)

    monkeypatch.setattr("tumorlens.studies.run.train", fail_once)
    result = study(_settings(data, tmp_path, seeds=2))
    assert result.done == ("resnet18-official-seed1",)
    assert result.failed == {"resnet18-official-seed0": f"{type(fault).__name__}: {fault}"}

    def stop(*_: object) -> TrainingResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("tumorlens.studies.run.train", stop)
    with pytest.raises(KeyboardInterrupt):
        study(_settings(data, tmp_path, seeds=2))


def test_checkpoint_of_a_run_is_opened_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counted(path: Path, *args: Any, **kwargs: Any) -> Session:
        opened.append(path.name)
        return open_session(path, *args, **kwargs)

    monkeypatch.setattr("tumorlens.studies.run.open_session", counted)
    assert study(_settings(data, tmp_path)).failed == {}
    assert opened == ["best_model.pt"]


def test_killed_study_goes_on_from_the_last_epoch(data: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from tumorlens.settings import StudySettings
        from tumorlens.studies.grid import study

        def told(stage, done, total, note=""):
            # "epoch" comes before last.ckpt is written: die in the epoch after.
            if stage == "epoch" and done == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        study(
            StudySettings(
                models=("resnet18",), data_dir=Path({str(data)!r}),
                out_dir=Path({str(tmp_path / "results")!r}),
                runs_dir=Path({str(tmp_path / "runs")!r}), epochs=3, batch_size=8, image_size=32,
                resamples=100, threads=1, device="cpu",
            ),
            told,
        )
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_dir = tmp_path / "runs/resnet18-official-seed0/runs/resnet18-seed0-1"
    assert (run_dir / "last.ckpt").is_file()
    epochs: list[int] = []
    result = study(
        _settings(data, tmp_path, epochs=3),
        lambda stage, done, total, note="": epochs.append(done) if stage == "epoch" else None,
    )
    assert result.done == ("resnet18-official-seed0",)
    assert epochs == [2, 3]
    assert [path.name for path in run_dir.parent.iterdir()] == ["resnet18-seed0-1"]
    assert not (run_dir / "last.ckpt").exists()


def test_boxes_given_later_add_where_finished_runs_look(data: Path, tmp_path: Path) -> None:
    asked = _settings(data, tmp_path)
    study(asked)
    file = tmp_path / "results/resnet18-official-seed0.json"
    before = json.loads(file.read_text())
    assert before["localization"] is None
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "path,box_x0,box_y0,box_x1,box_y1\nTesting/glioma/glioma008.png,0.1,0.1,0.5,0.5\n"
    )
    result = study(replace(asked, boxes=boxes))
    assert result.done == ("resnet18-official-seed0",)
    after = json.loads(file.read_text())
    assert after["localization"]["images_with_box"] == 1
    assert {**after, "localization": None} == before
    assert study(replace(asked, boxes=boxes)).done == ()
    # Measured in another way than would be today: measured again, while the checkpoint is there.
    after["localization"]["layer"] = "layer1"
    file.write_text(json.dumps(after))
    assert study(replace(asked, boxes=boxes)).done == ("resnet18-official-seed0",)
    shutil.rmtree(tmp_path / "runs")
    file.write_text(json.dumps(after))
    assert study(replace(asked, boxes=boxes)).done == ()


def test_boxes_of_other_images_are_asked_for_once(data: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,box_x0,box_y0,box_x1,box_y1\nother.png,0.1,0.1,0.5,0.5\n")
    asked = _settings(data, tmp_path, boxes=boxes)
    assert study(asked).done == ("resnet18-official-seed0",)
    assert study(asked).done == ()
