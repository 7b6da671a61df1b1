"""Each run in a folder of its own, never overwritten; what is in one can be resumed."""

import gzip
import itertools
import json
import pickle
import shutil
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.data.dataset import Dataset
from tumorlens.errors import TumorlensError
from tumorlens.files import MANIFEST, read_json, replacing, write_manifest, write_text
from tumorlens.settings import TrainSettings, primitives

# What a resumed run takes from the command line; everything else is the run's own, or its result
# would not be that of an uninterrupted run.
_FROM_COMMAND_LINE = ("device", "threads")
# Settings that are paths, but for `out_dir`, which is where the run folder is.
_PATHS = ("data_dir", "splits", "patients", "outlines")
# Of the images that a run began with: path to split and digest.
_IMAGES = "images.json.gz"


def new_run_folder(settings: TrainSettings) -> Path:
    """Make `runs/MODEL-seedS-N` in `settings.out_dir`, N the first free number from 1."""
    runs = settings.out_dir / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = runs / f"{settings.model}-seed{settings.seed}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            facts = {"settings": primitives(settings), "started_in": str(Path.cwd())}
            write_manifest(folder, "train", complete=False, **facts)
            return folder
    except OSError as error:
        raise TumorlensError(
            f"--out_dir {settings.out_dir}: cannot be written ({error.strerror}); name a folder "
            "that can."
        ) from error
    raise AssertionError("itertools.count does not end")


def finish_run_folder(folder: Path, **facts: Any) -> None:
    """Mark the run as complete in its manifest, which keeps the command that started it."""
    kept = {
        name: value
        for name, value in _manifest(folder).items()
        if name in ("arguments", "settings", "started_in")
    }
    write_manifest(folder, "train", complete=True, **kept, **facts)


def settings_of_run(folder: Path, given: TrainSettings) -> TrainSettings:
    """The settings that `folder` was started with, device and threads as `given`.

    Relative paths in them are those of the directory in which the run was started.

    Raises:
        TumorlensError: not a run folder, or its run is complete.
    """
    manifest = _manifest(folder)
    if manifest.get("complete"):
        raise TumorlensError(
            f"--resume {folder}: this run is complete; start a new one without --resume."
        )
    stored = manifest["settings"]
    values: dict[str, Any] = {}
    for item in fields(TrainSettings):
        value = stored.get(item.name, item.default)
        if item.name in _PATHS and value is not None:
            # As it is where it means the same here, or is the name of a built-in table.
            there = Path(manifest.get("started_in", ""), value)
            as_it_is = Path(manifest.get("started_in", "")) == Path.cwd() or not there.exists()
            value = Path(value) if as_it_is else there
        values[item.name] = value
    out_dir, here = folder.resolve().parents[1], Path.cwd()
    values["out_dir"] = out_dir.relative_to(here) if out_dir.is_relative_to(here) else out_dir
    values |= {name: getattr(given, name) for name in _FROM_COMMAND_LINE}
    return replace(given, **(values | {"resume": None}))


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest["tool"] == "tumorlens" and manifest["command"] == "train":
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise TumorlensError(
        f"--resume {folder}: not a run folder; expected one that train.py made, such as "
        "model/runs/se_resnet18-seed0-1."
    )


def last_state(folder: Path) -> Path | None:
    """`last.ckpt` of a run folder; None: no epoch was finished.

    Raises:
        TumorlensError: it is there and cannot be read.
    """
    path = folder / "last.ckpt"
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as parts:
            whole = parts.testzip() is None  # checksums, which torch.load leaves unread
        if whole and "callbacks" in torch.load(path, mmap=True, weights_only=True):
            return path
    except (OSError, RuntimeError, TypeError, zipfile.BadZipFile, pickle.UnpicklingError):
        pass
    raise TumorlensError(
        f"--resume {folder}: last.ckpt there ({path.stat().st_size:,} bytes) is cut off or "
        "damaged, expected the state that train saved; restore it, or remove it and the run "
        "starts over from its first epoch."
    )


def begin(settings: TrainSettings, data: Dataset, resumed: Path | None, last: Path | None) -> Path:
    """The folder of a run, which says what images the run begins with.

    Args:
        settings, data: of the run.
        resumed: its folder where it was begun before.
        last: its state where it has finished an epoch; the images must be the same ones then.

    Raises:
        TumorlensError: since then an image was changed, removed, added or put in another split.
    """
    folder = resumed or new_run_folder(settings)
    known = zip(data.paths, data.splits.tolist(), data.digests, strict=True)
    images = {path: [split, digest.tobytes().hex()] for path, split, digest in known}
    if last:
        _refuse_other_images(folder, data.root, images)
    else:
        write_text(folder / _IMAGES, json.dumps(images))
    for left in folder.glob(".*"):  # by a process that was killed while it wrote
        left.unlink()
    return folder


def _refuse_other_images(folder: Path, root: Path, now: dict[str, list[str]]) -> None:
    try:
        before = json.loads(gzip.decompress((folder / _IMAGES).read_bytes()))
    except (OSError, EOFError, ValueError):  # a run of an earlier version has none
        return
    both = before.keys() & now.keys()
    found = {
        "missing": before.keys() - now.keys(),
        "new": now.keys() - before.keys(),
        "changed": {path for path in both if before[path][1] != now[path][1]},
        "in another split": {path for path in both if before[path][0] != now[path][0]},
    }
    told = [f"{len(paths)} {what} ({min(paths)})" for what, paths in found.items() if paths]
    if told:
        raise TumorlensError(
            f"--resume {folder}: the images in {root} are not those that the run began with, "
            f"found {', '.join(told)}; put them back, or start a new run without --resume."
        )


def published_run(published: Path) -> str | None:
    """Which run's checkpoint lies at `published`; None if nothing does.

    Raises:
        TumorlensError: a file that tumorlens did not write is in its place.
    """
    if not published.exists():
        return None
    try:
        return str(checkpoints.load(published).settings.get("run", "")) or None
    except TumorlensError as error:
        raise TumorlensError(
            f"--out_dir {published.parent}: {published.name} there was not written by tumorlens, "
            "or is damaged, and is not overwritten; name another --out_dir, or move it."
        ) from error


def publish(best: Path, published: Path) -> str | None:
    """Copy a run's best checkpoint and its JSON to `published`; return whose place it took."""
    replaced = published_run(published)
    for suffix in (best.suffix, ".json"):
        with replacing(published.with_suffix(suffix)) as beside:
            shutil.copyfile(best.with_suffix(suffix), beside)
    return replaced
