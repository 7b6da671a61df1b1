"""Dividing images into folds or splits: stratified, balanced, and never a group in two of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data.dataset import load
from tumorlens.data.duplicates import THUMBNAIL, find_pairs, joined
from tumorlens.data.folder import SPLITS, refuse
from tumorlens.data.patients import Patients, units
from tumorlens.data.splits import hold_out, resolve
from tumorlens.errors import TumorlensError
from tumorlens.files import csv_text, write_text
from tumorlens.image_tables import read_groups
from tumorlens.progress import Progress, silent
from tumorlens.settings import SplitSettings

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """Which image goes where."""

    paths: tuple[str, ...]  # (N,) relative to the data folder
    classes: tuple[str, ...]  # name of each label
    labels: Indices  # (N,) indices into `classes`
    groups: Indices  # (N,) images of one group are in one split
    splits: npt.NDArray[np.str_]  # (N,) "train", "valid", "test"; or the fold, "0", "1", ..
    names: tuple[str, ...]  # the splits in order
    column: str  # what the splits file calls them, "split" or "fold"
    skipped: dict[str, str]  # path to the reason it could not be decoded and is in no split
    notes: tuple[str, ...]  # what the user should know, a sentence each
    # whom the images show, who are in one split too; None: not known
    patients: Patients | None = None

    def counts(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split, and under "groups" how many groups that split holds.

        A group is what no split divides: patients and near-duplicates.
        """
        table = {}
        for name in self.names:
            inside = self.splits == name
            found = Counter(self.classes[label] for label in self.labels[inside])
            table[name] = {label: found[label] for label in self.classes}
            table[name]["groups"] = len(np.unique(self.groups[inside]))
        return table

    def to_csv(self) -> str:
        """Columns path, split or fold, label, group, where known patient and site: for --splits.

        Labels and groups let a fold be cut into halves without dividing a group.
        """
        labels = [self.classes[label] for label in self.labels]
        columns = {"path": self.paths, self.column: self.splits, "label": labels}
        columns["group"] = self.groups
        if self.patients is not None:
            columns["patient"] = self.patients.names
            if self.patients.sites is not None:
                columns["site"] = self.patients.sites
        return csv_text(list(columns), zip(*columns.values(), strict=True))


def in_folds(labels: Indices, groups: Indices, folds: int, seed: int) -> Indices:
    """(N,) the fold of each image, 0..folds-1: stratified, of about N / folds images each.

    Args:
        labels: (N,) class indices.
        groups: (N,) images of one group go together.
        folds: how many.
        seed: decides among groups that bring the same classes.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415 - a second

    _, member = np.unique(groups, return_inverse=True)
    # Its own shuffling loses the stratification before scikit-learn 1.8: the groups are renamed.
    renamed = np.random.default_rng(seed).permutation(len(labels))[member]
    fold = np.zeros(len(labels), dtype=np.int64)
    splits = StratifiedGroupKFold(folds).split(labels, labels, renamed)
    for number, (_, inside) in enumerate(splits):
        fold[inside] = number
    return fold


def in_shares(labels: Indices, groups: Indices, shares: Sequence[float], seed: int) -> Indices:
    """(N,) the split of each image, 0..P-1: stratified, of unlike size; see also `in_folds`.

    `shares` of the images for each of P splits add up to 1. The first gets what is left.
    """
    split = np.zeros(len(labels), dtype=np.int64)
    for number in range(len(shares) - 1, 0, -1):
        rest = np.flatnonzero(split == 0)
        share = shares[number] / sum(shares[: number + 1])
        if share:
            split[rest[hold_out(labels[rest], groups[rest], share, seed)]] = number
    return split


def partition(settings: SplitSettings, progress: Progress = silent) -> Partition:
    """Split a data folder anew, whatever folders its images lie in.

    Raises:
        TumorlensError: faults of the folder, the groups file, or a class with too few groups.
    """
    root = settings.data_dir
    source = resolve(root, patients=settings.patients)
    data = load(source, THUMBNAIL, progress=progress)
    if settings.on_bad_image == "stop":
        hint = "; or leave undecodable files out with --on_bad_image skip" if data.skipped else ""
        refuse(root, [*source.folder.faults, *data.skipped.values()], hint)
    labels, count = data.labels, len(data.paths)
    # By the audit and by fingerprints alone: neither finds a near-duplicate across these groups.
    pairs = find_pairs(data.images, data.fingerprints, data.digests, np.full(count, ""), progress)
    groups = joined(pairs.groups(count), data.groups)
    groups = units(groups, data.patients)
    notes = [note for note in (data.unused, data.note) if note]
    if data.patients is not None:
        unknown = int((data.patients.names == "").sum())
        if unknown:
            notes.append(
                f"{settings.patients} does not name the patient of {unknown} of {count} images; "
                "they are grouped by near-duplicates alone."
            )
    if settings.groups is not None:
        given, note = _given(settings.groups, root, data.paths)
        groups = joined(groups, given)
        notes += note
    if settings.folds is not None:
        names = used = tuple(map(str, range(settings.folds)))
    else:
        names = SPLITS
        shares = [1 - settings.valid - settings.test, settings.valid, settings.test]
        used = tuple(name for name, share in zip(names, shares, strict=True) if share > 0)
    _enough(root, data.classes, labels, groups, len(used))
    if settings.folds is not None:
        split = in_folds(labels, groups, settings.folds, settings.seed)
    else:
        split = in_shares(labels, groups, shares, settings.seed)
    return Partition(
        paths=data.paths,
        classes=data.classes,
        labels=labels,
        groups=groups,
        splits=np.array(names)[split],
        names=used,
        column="split" if settings.folds is None else "fold",
        skipped=data.skipped,
        notes=tuple(notes),
        patients=data.patients,
    )


def write_partition(found: Partition, out: Path) -> None:
    """Write the splits file.

    Raises:
        TumorlensError: `out` is there and is no splits file.
    """
    if out.is_dir():
        raise TumorlensError(f"--out {out}: is a folder, expected a file such as splits.csv.")
    if out.is_file() and out.stat().st_size:
        with out.open("rb") as file:
            header = file.readline(200).decode("utf-8", errors="replace").strip().split(",")
        if header[0] != "path" or not {"split", "fold"} & set(header):
            raise TumorlensError(
                f"--out {out}: is there already and is no splits file, so it is left alone; name "
                "another."
            )
    write_text(out, found.to_csv())


def _given(path: Path, root: Path, paths: tuple[str, ...]) -> tuple[Indices, list[str]]:
    named = read_groups(path)
    known = sum(file in named for file in paths)
    if not known:
        raise TumorlensError(
            f"--groups {path}: none of its images is in {root}; it lists "
            f"{next(iter(named), 'nothing')}, the folder has {paths[0]}."
        )
    names = [named.get(file, f"\0{file}") for file in paths]
    note = (
        f"{path} names the group of {known} of {len(paths)} images; the others are grouped by "
        "their near-duplicates alone."
    )
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return groups, [note] if known < len(paths) else []


def _enough(
    root: Path, classes: tuple[str, ...], labels: Indices, groups: Indices, splits: int
) -> None:
    for index, name in enumerate(classes):
        count = len(np.unique(groups[labels == index]))
        if count < splits:
            raise TumorlensError(
                f"--data_dir {root}: class {name} has {count} groups of images that must stay "
                f"together, too few for {splits} splits; ask for fewer."
            )
