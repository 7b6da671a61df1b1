"""One run of a study, from wherever it was left: train, score, localise, leave two files.

Also on which machine and from which code a metric was made, for the run's record.
"""

import contextlib
import csv
import functools
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.comparison.run_files import WHAT, RunFiles, differing, predictions_file, read_run
from tumorlens.data.folder import SPLITS
from tumorlens.device import cpu_threads, pick_device
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.evaluate import Report, evaluate_session
from tumorlens.evaluation.predictions import table
from tumorlens.evaluation.scores import tumor_accuracy
from tumorlens.explain.gradcam import Way
from tumorlens.explain.localization import localize
from tumorlens.explain.regions import read_boxes
from tumorlens.files import MANIFEST, SCHEMA, environment, read_json, write_json, write_text
from tumorlens.labels import MODEL_NAMES
from tumorlens.progress import Progress, silent
from tumorlens.settings import MAP_LAYER, EvaluateSettings, TrainSettings, primitives
from tumorlens.training.fit import train

# What says where, how fast or which run of the grid, and not how it is trained.
_NOT_TRAINING = (
    "model",
    "data_dir",
    "out_dir",
    "seed",
    "fold",
    "resume",
    "device",
    "threads",
    "logger",
)
_FILES = ("splits", "patients", "outlines", "init")
# Percent of a run's time that is training, for its progress.
_TRAINING_PERCENT = 95


@dataclass(frozen=True)
class Job:
    """One run to do; its paths are relative to `base`, also on another machine."""

    name: str  # of its files
    protocol: str
    train: TrainSettings  # its `out_dir` is the run's alone
    out_dir: Path  # where its two files go
    boxes: Path | None  # where the tumors are; None: not measured
    resamples: int  # behind each interval
    base: Path


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is None where its files are there, else the reason."""

    name: str
    error: str | None


def do_run(job: Job, progress: Progress = silent) -> Outcome:
    """Do what is missing of a run and leave its files; its JSON comes last, so that it is the mark.

    `progress` is told of "study" from 0 to 100, and of "epoch".
    """
    code()  # before the run, whose record will tell it
    try:
        with contextlib.chdir(job.base), _alone(job.train.out_dir, job.name):
            run = read_run(job.out_dir, job.name)
            if run is None:
                run_dir = _trained(job, progress)
                _score(job, run_dir, progress)
            elif lacks_localization(job, run):
                progress("study", _TRAINING_PERCENT, 100, f"{job.name}, localising")
                _localize_again(job, run)
    except Exception as error:  # of memory, disk or numbers: it must not stop the runs that follow
        return not_done(job, error)
    progress("study", 100, 100, job.name)
    return Outcome(job.name, None)


def not_done(job: Job, error: Exception) -> Outcome:
    """The outcome of a run that failed."""
    kind = "" if isinstance(error, TumorlensError) else f"{type(error).__name__}: "
    return Outcome(job.name, f"{kind}{error}")


def lacks_localization(job: Job, run: RunFiles) -> bool:
    """Whether boxes are given now, the run was not measured so, and its checkpoint is still there.

    "So" is the layer and the method that are the default now.
    """
    if job.boxes is None or not (job.base / run.record["checkpoint"]).is_file():
        return False
    where = run.record.get("localization")
    if where is None:
        return True
    layer = MAP_LAYER if run.model in MODEL_NAMES else where.get("layer")  # else by the network
    return bool(where) and (where["layer"], where["method"]) != (layer, Way().method)


def _localize_again(job: Job, run: RunFiles) -> None:
    assert job.boxes is not None  # `lacks_localization` saw to it
    file = job.base / run.record["checkpoint"]
    if checkpoints.sha256(file) != run.record["checkpoint_sha256"]:
        raise TumorlensError(
            f"{file}: is not the checkpoint that {job.name}.json in {job.out_dir} tells of; remove "
            "one of the two."
        )
    with cpu_threads(job.train.threads):
        where = _localization(job, job.boxes, _session(job, file, run.record["split_scored"]))
    write_json(job.out_dir / f"{job.name}.json", run.record | {"localization": where})


def training_record(settings: TrainSettings, recipe: dict[str, Any]) -> dict[str, Any]:
    """All that decides how a run is trained but network, seed and fold, by flat names."""
    values = json.loads(json.dumps(_flags(settings) | recipe))  # tuples are lists, as in a file
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    for name, inner in values.items():
        if isinstance(inner, dict):
            flat |= {f"{name}.{key}": value for key, value in inner.items()}
    return flat


def _flags(settings: TrainSettings) -> dict[str, Any]:
    values = {
        name: value for name, value in primitives(settings).items() if name not in _NOT_TRAINING
    }
    # A file's name: its place may differ from machine to machine.
    named = {name: getattr(settings, name) for name in _FILES}
    files = {name: path.name if path else None for name, path in named.items()}
    return values | files | {"recipe": Path(settings.recipe).name}


def _trained(job: Job, progress: Progress) -> Path:
    """The run folder of the finished training, gone on with or started where there is none."""

    def told(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training":
            percent = _TRAINING_PERCENT * done // total
            progress("study", percent, 100, f"{job.name}, {note}")
        elif stage == "epoch":
            progress("epoch", done, total, f"{job.name}: {note}")

    settings = job.train
    left, complete = _left_over(job)
    if left is not None and complete:
        return left
    if left is not None:
        settings = TrainSettings(resume=left, device=settings.device, threads=settings.threads)
    run_dir = train(settings, told).run_dir
    # 3 times the size of the weights, and of no more use: a complete run is not resumed.
    (run_dir / "last.ckpt").unlink(missing_ok=True)
    return run_dir


def _left_over(job: Job) -> tuple[Path | None, bool]:
    """The newest run folder of a job, None if there is none; and whether it is complete."""

    def number(folder: Path) -> int:
        tail = folder.name.rsplit("-", 1)[-1]
        return int(tail) if tail.isdecimal() else -1

    for folder in sorted((job.train.out_dir / "runs").glob("*"), key=number, reverse=True):
        try:
            manifest = read_json(folder / MANIFEST)
            settings, complete = manifest["settings"], bool(manifest["complete"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for name in _FILES:
            if name in settings:
                settings[name] = Path(settings[name]).name if settings[name] else None
        other = differing(settings, _flags(job.train))
        if other is not None:
            name, value, asked = other
            raise TumorlensError(
                f"--runs_dir: {folder} was started with {name} {value}, now {asked} is asked; "
                "name another --runs_dir, or remove that folder."
            )
        if complete and not (folder / "best_model.pt").is_file():
            continue
        return folder, complete
    return None, False


def _score(job: Job, run_dir: Path, progress: Progress) -> None:
    started = time.monotonic()
    progress("study", _TRAINING_PERCENT, 100, f"{job.name}, scoring")
    best = run_dir / "best_model.pt"
    settings = job.train
    with cpu_threads(settings.threads):
        session = _session(job, best)
        report = evaluate_session(
            session,
            EvaluateSettings(
                checkpoint=best,
                data_dir=settings.data_dir,
                on_bad_image=settings.on_bad_image,
                patients=settings.patients,
                allow_patient_overlap=settings.allow_patient_overlap,
                resamples=job.resamples,
                device=settings.device,
                threads=settings.threads,
            ),
        )
        where = None if job.boxes is None else _localization(job, job.boxes, session)
    write_text(predictions_file(job.out_dir, job.name), table(report.predictions))
    with (run_dir / "metrics.csv").open(newline="", encoding="utf-8") as file:  # all its sessions
        training_seconds = sum(float(row["seconds"] or 0) for row in csv.DictReader(file))
    record = _run_record(job, session, report)
    record["localization"] = where
    record["minutes"] = {
        "training": round(training_seconds / 60, 2),
        "scoring": round((time.monotonic() - started) / 60, 2),
    }
    write_json(job.out_dir / f"{job.name}.json", record)


def _session(job: Job, checkpoint: Path, split: str = "auto") -> Session:
    """The run's checkpoint with the images of a split of its own folder."""
    settings = job.train
    return open_session(
        checkpoint,
        ImageChoice(
            data_dir=settings.data_dir,
            split=split,
            splits=settings.splits,
            fold=settings.fold,
            patients=settings.patients,
            allow_patient_overlap=settings.allow_patient_overlap,
            on_bad_image=settings.on_bad_image,
        ),
        device=pick_device(settings.device),
    )


def _run_record(job: Job, session: Session, report: Report) -> dict[str, Any]:
    settings, loaded, predictions = job.train, session.checkpoint, report.predictions
    scores = report.scores.to_dict()
    del scores["leakage_inflation"]
    subsets = {"all": predictions}
    if predictions.duplicates is not None:
        subsets["without_exact_duplicates"] = predictions.only(predictions.duplicates != "exact")
        subsets["without_near_duplicates"] = predictions.only(predictions.duplicates == "")
    tumors = {
        name: tumor_accuracy(subset, resamples=job.resamples) for name, subset in subsets.items()
    }
    data, device = loaded.data, session.device
    counts = {split: len(getattr(data, split)) for split in SPLITS} if data else {}
    return {
        "what": WHAT,
        "schema": SCHEMA,
        "name": job.name,
        "model": settings.model,
        "protocol": job.protocol,
        "fold": settings.fold,
        "seed": settings.seed,
        "training": training_record(settings, loaded.settings["recipe_resolved"]),
        "data_dir": _relative(settings.data_dir),
        "data_fingerprint": report.data.fingerprint(),
        "images": counts,
        "validation": data.protocol if data else "",
        "split_scored": report.split,
        "caveats": list(report.caveats),
        "skipped": report.data.skipped,
        "selected": loaded.selected,
        "classes": list(loaded.classes),
        "scores": scores,
        "by_site": [one.to_dict() for one in report.by_site],
        "tumor_classes_alone": {
            name: found.to_dict() if found else None for name, found in tumors.items()
        },
        "checkpoint": _relative(session.path),
        "checkpoint_sha256": checkpoints.sha256(session.path),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "machine": machine(),
        "code": code(),
        **environment(),
    }


def _localization(job: Job, boxes: Path, session: Session) -> dict[str, Any]:
    """Where its maps lie, on the scored images, else on the validation's; empty without a box."""
    annotated, data = read_boxes(boxes), session.checkpoint.data
    looked_at: Session | None = session
    if not any(path in annotated for path in session.data.paths):
        valid = data is not None and any(path in annotated for path in data.valid)
        looked_at = session.of_split("valid") if valid else None
    if looked_at is None:
        return {}
    return localize(looked_at, annotated, Way(), resamples=job.resamples).metrics


def _relative(path: Path | None) -> str | None:
    return None if path is None else Path(os.path.relpath(path)).as_posix()


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Let one process at a time work on a run; a killed one's claim ends with it."""
    try:
        import fcntl  # noqa: PLC0415 (POSIX alone has it)
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TumorlensError(
                f"--runs_dir: another process is at work on {name} in {folder}; let it finish."
            ) from None
        yield


def machine() -> str:
    """Processor and cores, such as "AMD EPYC 7763, 2 cores"; no name of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    except OSError:
        pass
    return f"{model}, {cores} cores"


@functools.cache
def code() -> dict[str, Any]:
    """The commit of tumorlens's own source tree, and whether it was changed since; {} if unknown.

    Told from git, where this very file is tracked by it, once in a process: what is committed while
    runs go on is not what they run.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return {}
    changed = _git("status", "--porcelain", "--", str(here.parents[1]))
    return {"commit": _git("rev-parse", "--short", "HEAD"), "changed_since": bool(changed)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
