"""Each run in a folder of its own, never overwritten; what is in one can be resumed."""

import gzip
import itertools
import json
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.own_code import refuse_unknown
from tumorlens.data.dataset import Dataset
from tumorlens.errors import TumorlensError
from tumorlens.files import MANIFEST, read_json, replacing, write_manifest, write_text
from tumorlens.labels import in_file_name
from tumorlens.settings import RECIPE_FLAGS, TrainSettings, primitives
from tumorlens.settings.recipe_files import write_recipe
from tumorlens.training.recipes import Recipe, keys_of, resolve

# What a resumed run takes from the command line; everything else is the run's own, or its result
# would not be that of an uninterrupted run.
_FROM_COMMAND_LINE = ("device", "threads")
# Settings that are paths, but for `out_dir`, which is where the run folder is.
_PATHS = ("data_dir", "splits", "patients", "outlines", "init")
# What repeats the run, see `settings.recipe_files`.
RECIPE = "recipe.toml"
# Of the images that a run began with: path to split and digest.
_IMAGES = "images.json.gz"
# Entries of the manifest that a run began with.
_OF_START = ("arguments", "settings", "started_in", "starting_network")


def new_run_folder(settings: TrainSettings, told: Sequence[str] = ()) -> Path:
    """Make `runs/MODEL-seedS-N` in `settings.out_dir`, N the first free number from 1."""
    runs, model = settings.out_dir / "runs", in_file_name(str(settings.model))
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = runs / f"{model}-seed{settings.seed}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            facts = {"settings": primitives(settings), "starting_network": list(told)}
            facts["started_in"] = str(Path.cwd())
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
    kept = {name: value for name, value in _manifest(folder).items() if name in _OF_START}
    write_manifest(folder, "train", complete=True, **kept, **facts)


def settings_of_run(folder: Path, given: TrainSettings) -> TrainSettings:
    """The settings that `folder` was started with, device, threads and more epochs as `given`.

    Relative paths in them are those of the directory in which the run was started.

    Raises:
        TumorlensError: not a run folder; its run is complete; or it cannot be lengthened.
    """
    manifest = _manifest(folder)
    if given.epochs is None and manifest.get("complete"):
        raise TumorlensError(
            f"--resume {folder}: this run is complete; start a new one without --resume, or "
            "lengthen it by --epochs."
        )
    stored = manifest["settings"]
    refuse_unknown(str(stored.get("model")))
    values: dict[str, Any] = {}
    for item in fields(TrainSettings):
        value = stored.get(item.name, item.default)
        if item.name in _PATHS and value is not None:
            # As it is where it means the same here, or is the name of a built-in table.
            there = Path(manifest.get("started_in", ""), value)
            as_it_is = Path(manifest.get("started_in", "")) == Path.cwd() or not there.exists()
            value = Path(value) if as_it_is else there
        if item.name == "recipe" and str(value).endswith(".toml"):
            value = str(folder / RECIPE)  # as it was, whatever has become of the file
        values[item.name] = tuple(value) if isinstance(value, list) else value
    out_dir, here = folder.resolve().parents[1], Path.cwd()
    values["out_dir"] = out_dir.relative_to(here) if out_dir.is_relative_to(here) else out_dir
    values |= {name: getattr(given, name) for name in _FROM_COMMAND_LINE}
    before = replace(given, **(values | {"resume": None}))
    return before if given.epochs is None else _lengthened(folder, manifest, before, given.epochs)


def _lengthened(
    folder: Path, manifest: dict[str, Any], before: TrainSettings, epochs: int
) -> TrainSettings:
    """A run's settings with more epochs: it ends as a run of so many from the start would.

    Raises:
        TumorlensError: it would not; or it has as many.
    """
    recipe, ran = resolve(before), manifest.get("epochs")
    instead = f"start a new run from its weights by --init {folder / 'best_model.pt'}"
    if recipe.schedule != "constant":
        raise TumorlensError(
            f"--epochs {epochs}: the learning rate of {folder} follows the schedule "
            f"{recipe.schedule} over {recipe.epochs} epochs, which would have been another over "
            f"{epochs}; {instead}."
        )
    if ran is not None and ran < recipe.epochs:
        raise TumorlensError(
            f"--epochs {epochs}: {folder} stopped early after {ran} of {recipe.epochs} epochs "
            f"(--patience {recipe.patience}), and would again; {instead}."
        )
    if epochs <= recipe.epochs:
        raise TumorlensError(
            f"--epochs {epochs}: {folder} has {recipe.epochs} already; expected more, the number "
            "of all its epochs."
        )
    if manifest.get("complete") and last_state(folder) is None:
        raise TumorlensError(
            f"--epochs {epochs}: the state of {folder}'s last epoch, last.ckpt, is gone; {instead}."
        )
    return replace(before, epochs=epochs)


def told_at_start(folder: Path) -> list[str]:
    """What was unusual about the network when the run began."""
    return list(_manifest(folder).get("starting_network", []))


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


def begin(
    settings: TrainSettings,
    recipe: Recipe,
    data: Dataset,
    resumed: Path | None,
    last: Path | None,
    told: Sequence[str] = (),
) -> Path:
    """The folder of a run, which says what images the run begins with.

    Args:
        settings, recipe, data: of the run.
        resumed: its folder where it was begun before.
        last: its state where it has finished an epoch; the images must be the same ones then.
        told: what is unusual about its network.

    Raises:
        TumorlensError: since then an image was changed, removed, added or put in another split.
    """
    folder = resumed or new_run_folder(settings, told)
    known = zip(data.paths, data.splits.tolist(), data.digests, strict=True)
    images = {path: [split, digest.tobytes().hex()] for path, split, digest in known}
    if last:
        _refuse_other_images(folder, data.root, images)
        manifest = _manifest(folder)
        if manifest["settings"].get("epochs") != settings.epochs:  # lengthened
            kept = {name: manifest[name] for name in _OF_START if name in manifest}
            kept["settings"] |= {"epochs": settings.epochs}
            write_manifest(folder, "train", complete=False, **kept)
    else:
        write_text(folder / _IMAGES, json.dumps(images))
        write_text(folder / RECIPE, write_recipe(keys_of(recipe), _beside(settings)))
    for left in folder.glob(".*"):  # by a process that was killed while it wrote
        left.unlink()
    return folder


def _beside(settings: TrainSettings) -> dict[str, Any]:
    """What repeats a run beside its recipe: the flags that were given, but for where it goes."""
    left_out = ("recipe", "set", "out_dir", "resume", "device", "threads", *RECIPE_FLAGS)
    given = primitives(settings)
    return {
        item.name: given[item.name]
        for item in fields(settings)
        if item.name not in left_out and getattr(settings, item.name) != item.default
    }


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
