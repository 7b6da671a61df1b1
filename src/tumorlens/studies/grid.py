"""The command study: which runs are asked for, which are finished, and doing what is missing."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tumorlens.comparison.run_files import RunFiles, differing, finished_runs, run_name
from tumorlens.data import public_patients
from tumorlens.data.splits import folds_in, refuse_withdrawn
from tumorlens.device import pick_device, pick_precision, usable_cores
from tumorlens.errors import TumorlensError
from tumorlens.files import check_claim, write_manifest
from tumorlens.image_tables import Tabular, transposed
from tumorlens.progress import Progress, silent
from tumorlens.settings import StudySettings, TrainingOptions, TrainSettings
from tumorlens.studies.run import Job, do_run, lacks_localization, not_done, training_record
from tumorlens.studies.schedule import run_all
from tumorlens.studies.summary import RESAMPLES
from tumorlens.training.recipes import resolve


@dataclass(frozen=True)
class StudyResult(Tabular):
    """What a study has now."""

    out_dir: Path  # where the runs' files are
    before: tuple[str, ...]  # names of the runs that were finished already
    done: tuple[str, ...]  # names of the runs finished now
    failed: dict[str, str]  # name to the reason, of runs that could not be finished

    def table(self) -> dict[str, list[Any]]:
        """A row for each run: its name, whether it is finished, and if not, why."""
        finished = [(name, True, "") for name in (*self.before, *self.done)]
        failed = [(name, False, reason) for name, reason in self.failed.items()]
        return transposed(["run", "finished", "reason"], finished + failed)


def study(settings: StudySettings, progress: Progress = silent) -> StudyResult:
    """Do the runs of the grid that are not finished, and leave each one's files.

    Args:
        progress: told of "study", in hundredths of a run over all runs to do, and of "epoch".

    Raises:
        TumorlensError: faults of the flags or folders, or finished runs of other settings. What
            goes wrong within a run fails that run alone.
    """
    every = jobs(settings)
    check_claim(settings.out_dir, "study")
    there = {run.name: run for run in finished_runs(settings.out_dir)}
    _refuse_other_training(settings, every[0].train, there.values())
    before = tuple(job.name for job in every if _finished(job, there.get(job.name)))
    missing = [job for job in every if job.name not in before]
    if missing:
        # The commands and versions are in each run's own file; this one says whose folder it is.
        settings.out_dir.mkdir(parents=True, exist_ok=True)
        write_manifest(settings.out_dir, "study", arguments=["tumorlens", "study"])
    done: list[str] = []
    failed: dict[str, str] = {}
    for outcome in run_all(missing, do_run, not_done, settings.cluster, progress, settings.jobs):
        if outcome.error is None:
            done.append(outcome.name)
        else:
            failed[outcome.name] = outcome.error
    return StudyResult(settings.out_dir, before, tuple(done), failed)


def jobs(settings: StudySettings) -> list[Job]:
    """Every run of the grid, in the order of doing: networks side by side, then folds, then seeds.

    So that whenever it is stopped, what is there can be compared.

    Raises:
        TumorlensError: no such fold, or faults of the splits file.
    """
    splits, folds = _folds(settings)
    runs_dir = settings.runs_dir or Path("model") / settings.out_dir.resolve().name
    given: dict[str, Any] = {
        item.name: getattr(settings, item.name) for item in fields(TrainingOptions)
    } | {"splits": splits}
    # Settled here, so that runs on other machines compute alike or are refused.
    given["precision"] = pick_precision(settings.precision, pick_device(settings.device))
    if settings.jobs > 1 and settings.threads is None:
        given["threads"] = max(1, usable_cores() // settings.jobs)
    found = []
    for seed, fold, model in itertools.product(range(settings.seeds), folds, settings.models):
        name = run_name(model, settings.protocol, fold, seed)
        found.append(
            Job(
                name=name,
                protocol=settings.protocol,
                train=TrainSettings(
                    model=model, out_dir=runs_dir / name, fold=fold, seed=seed, **given
                ),
                out_dir=settings.out_dir,
                boxes=settings.boxes,
                resamples=settings.resamples or RESAMPLES,
                base=Path.cwd(),
            )
        )
    return found


def _folds(settings: StudySettings) -> tuple[Path | None, tuple[int | None, ...]]:
    """The splits file of the protocol, and its folds that are asked for."""
    splits = settings.splits
    if settings.protocol == "official":
        return splits, (None,)
    if settings.protocol == "patients":
        splits = splits or Path(public_patients.NAME)
    if splits is None:
        raise TumorlensError(
            "--protocol folds: needs the splits file that has the folds; name it by --splits."
        )
    refuse_withdrawn(splits)
    public = str(splits) in public_patients.NAMES
    there, named = (tuple(range(public_patients.FOLDS)), True) if public else folds_in(splits)
    if settings.protocol == "patients" and settings.patients is None and not named:
        raise TumorlensError(
            f"--protocol patients: {splits} has no column `patient`; name the patients by "
            "--patients, or take --protocol folds, which claims nothing of patients."
        )
    unknown = sorted(set(settings.folds) - set(there))
    if unknown:
        raise TumorlensError(
            f"--folds {unknown[0]}: {splits} has the folds {', '.join(map(str, there))}; name "
            "some of them."
        )
    return splits, settings.folds or there


def _finished(job: Job, run: RunFiles | None) -> bool:
    """Whether a run's files are there, with where its maps lie if boxes are given."""
    if run is None:
        return False
    assert job.train.data_dir is not None  # `jobs` saw to it
    for path in run.predictions().paths:
        if not (job.train.data_dir / path).is_file():
            raise TumorlensError(
                f"--out_dir {job.out_dir}: {job.name} there is of other images ({path} is not in "
                f"{job.train.data_dir}); name another --out_dir for another study."
            )
    return not lacks_localization(job, run)


def _refuse_other_training(
    settings: StudySettings, train: TrainSettings, there: Iterable[RunFiles]
) -> None:
    """Whether asked for now or not: its report would take all runs of a protocol for one study."""
    asked = training_record(train, resolve(train).record())
    for run in there:
        other = differing(run.record["training"], asked)
        if run.protocol == settings.protocol and other is not None:
            name, value, now = other
            raise TumorlensError(
                f"--out_dir {settings.out_dir}: {run.name} there was trained with {name} {value}, "
                f"now {now} is asked; name another --out_dir for another study."
            )
