"""The public set's patient-disjoint folds, for whoever has downloaded it: `--splits public-folds`.

`public_folds.csv` has a row for each of the 5,708 files of `Training` in the "Brain Tumor MRI
Dataset" (Masoud Nickparvar, Kaggle): its fingerprint (from which no picture can be seen), path,
which slice of the Cheng 2017 figshare set it shows and whether mirrored, the group of its copies,
and the run and fold that keep patients apart (docs/data.md). Mirrors of the set rename and resize
its files, so images are known by fingerprint first and by name second.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as remembered
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data import cache, splits
from tumorlens.data.copies import copies_in
from tumorlens.data.folder import DataFolder, scan
from tumorlens.data.folds import copy_groups, deal
from tumorlens.data.pairs import THUMBNAIL
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent

NAME = "public-folds"
FOLDS = 5
_RUNS = 10
# Bits in which a file may differ from its row when its name is the row's; other files of the same
# name are other pictures (half of 256 bits differ by chance, neighbouring slices differ by 40).
_SAME_NAME = 32

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PublicMap:
    """The rows of `public_folds.csv`, R of them.

    Attributes:
        fingerprints: (R, 32) uint8.
        paths: (R,) relative to the public set's folder.
        slices: (R,) "label-index" in the Cheng set; "" where it is none of its slices.
        mirrored: (R,) whether it is that slice flipped left-right.
        groups: (R,) same group, same picture or near-duplicate.
        runs: (R,) 0..9; -1 where the image lies too near a cut between runs to be used.
    """

    fingerprints: npt.NDArray[np.uint8]
    paths: tuple[str, ...]
    slices: tuple[str, ...]
    mirrored: npt.NDArray[np.bool_]
    groups: tuple[str, ...]
    runs: Indices


@dataclass(frozen=True)
class Known:
    """What the map knows of N images.

    Attributes:
        rows: (N,) row of the map that shows the same picture; meaningless where not `found`.
        found: (N,) whether there is one.
        by_name: (N,) whether the name decided, the fingerprint being further away.
    """

    rows: Indices
    found: npt.NDArray[np.bool_]
    by_name: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PublicParts:
    """The folder's images in the parts of one fold.

    Attributes:
        parts: path to "train", "valid" or "test"; images that are not used are not in it.
        note: how the images were known and which are left out, in sentences.
    """

    parts: dict[str, str]
    note: str


@remembered
def public_map() -> PublicMap:
    """The map as it is shipped."""
    text = resources.files("tumorlens.data").joinpath("public_folds.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    joined = bytes.fromhex("".join(row["fingerprint"] for row in rows))
    return PublicMap(
        fingerprints=np.frombuffer(joined, dtype=np.uint8).reshape(len(rows), -1),
        paths=tuple(row["path"] for row in rows),
        slices=tuple(row["slice"] for row in rows),
        mirrored=np.array([row["mirrored"] == "1" for row in rows]),
        groups=tuple(row["group"] for row in rows),
        runs=np.array([int(row["run"] or -1) for row in rows], dtype=np.int64),
    )


def known(paths: tuple[str, ...], fingerprints: npt.NDArray[np.uint8]) -> Known:
    """Find images in the map, by picture first, by name second.

    Args:
        paths: N, any folder; a name is the file's and its folder's.
        fingerprints: (N, 32) uint8.
    """
    table = public_map()
    copies = copies_in(table.fingerprints, fingerprints)
    rows, found = copies.index.copy(), copies.found.copy()
    by_name = np.zeros(len(paths), dtype=bool)
    named = {_name(path): row for row, path in enumerate(table.paths)}
    for index, path in enumerate(paths):
        row = named.get(_name(path))
        if row is None or found[index]:
            continue
        differing = int(np.unpackbits(table.fingerprints[row] ^ fingerprints[index]).sum())
        if differing <= _SAME_NAME:
            rows[index], found[index], by_name[index] = row, True, True
    return Known(rows, found, by_name)


def assignment(
    file: Path, fold: int | None, root: Path, progress: Progress = silent
) -> tuple[Mapping[str, str], str]:
    """What --splits says: a CSV (`splits.assignment`), or `public-folds`, the shipped map.

    Returns:
        Path to "train", "valid" or "test"; and what the user should know, "" if nothing.

    Raises:
        TumorlensError: see `splits.assignment` and `public_parts`.
    """
    if str(file) != NAME:
        return splits.assignment(file, fold), ""
    if fold is None:
        raise TumorlensError(f"--splits {NAME}: has {FOLDS} folds; name one with --fold 0.")
    found = public_parts(root, fold, progress)
    return found.parts, found.note


def public_parts(root: Path, fold: int, progress: Progress = silent) -> PublicParts:
    """The parts of one fold: test is fold k, validation run (k + 1) mod 5, training the rest.

    Images that the map does not know take the run of a copy that it knows. Others of a class that
    the map knows as slices of patients are left out, because their patient may be in any part; of
    other classes they are dealt to the runs, copies together.

    Raises:
        TumorlensError: no such fold, faults of the folder, or it is not the public set.
    """
    if not 0 <= fold < FOLDS:
        raise TumorlensError(
            f"--fold {fold}: {NAME} has the folds {', '.join(map(str, range(FOLDS)))}; name one."
        )
    folder = scan(root)
    paths = tuple(file.path for file in folder.files)
    cached = cache.load(root, paths, THUMBNAIL, progress)
    found = known(paths, cached.fingerprints)
    readable = np.array([path not in cached.faults for path in paths])
    found.found[~readable] = False
    if not found.found.any():
        raise TumorlensError(
            f"--splits {NAME}: knows none of the images in {root}; it is for the public Brain "
            f"Tumor MRI Dataset. Make a split of your own with `tumorlens split {root}`."
        )
    table = public_map()
    runs = np.where(found.found, table.runs[found.rows], -1)
    groups = copy_groups(cached, progress)
    by_group = _from_copies(runs, groups, ~found.found & readable)
    unknown = readable & ~found.found & ~by_group
    of_patients = _classes_of_patients(folder, found)
    labels = np.array([folder.classes.index(file.label) for file in folder.files], dtype=np.int64)
    dealt = unknown & ~np.isin(labels, of_patients)
    if dealt.any():
        runs[dealt] = deal(labels[dealt], groups[dealt], [1 / _RUNS] * _RUNS, seed=0)
    valid = (fold + 1) % FOLDS
    parts = {
        path: "test" if run % FOLDS == fold else "valid" if run == valid else "train"
        for path, run in zip(paths, runs.tolist(), strict=True)
        if run >= 0
    }
    note = (
        f"{NAME}, fold {fold}: {int((found.found & ~found.by_name).sum())} images known by their "
        f"picture, {int(found.by_name.sum())} by their name, {int(by_group.sum())} by a copy, "
        f"{int(dealt.sum())} dealt to the folds by their copies; left out: "
        f"{int((unknown & ~dealt).sum())} whose patient is not known, "
        f"{int((readable & (runs < 0) & ~unknown).sum())} too near another patient's run."
    )
    return PublicParts(parts, note)


def _from_copies(
    runs: Indices, groups: Indices, wanting: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Give each image of `wanting` the run of its group's first known image, if there is one."""
    run_of: dict[int, int] = {}
    for group, run, wants in zip(groups.tolist(), runs.tolist(), wanting.tolist(), strict=True):
        if not wants:
            run_of.setdefault(group, run)
    given = np.zeros_like(wanting)
    for index in np.flatnonzero(wanting):
        if int(groups[index]) in run_of:
            runs[index], given[index] = run_of[int(groups[index])], True
    return given


def _classes_of_patients(folder: DataFolder, found: Known) -> list[int]:
    """The classes whose known images are slices of known patients' series for the most part."""
    table = public_map()
    counts = {label: [0, 0] for label in folder.classes}
    for file, row, there in zip(folder.files, found.rows.tolist(), found.found, strict=True):
        if there:
            counts[file.label][0] += 1
            counts[file.label][1] += bool(table.slices[row])
    return [
        index
        for index, label in enumerate(folder.classes)
        if 2 * counts[label][1] > counts[label][0]
    ]


def _name(path: str) -> str:
    """The file's name and its folder's, without ending: what mirrors seldom change together."""
    return "/".join(path.lower().rsplit(".", 1)[0].split("/")[-2:])
