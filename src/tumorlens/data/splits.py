"""Which image trains, which chooses the epoch, which is scored; never an image in two splits.

`resolve` answers from the flags --data_dir, --splits, --fold and --patients, before an image is
read: each file with its split, and the table of patients.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data import public_patients
from tumorlens.data.duplicates import joined
from tumorlens.data.folder import SPLIT_NAMES, DataFolder, scan
from tumorlens.data.patients import PatientTable, PublicTable, carried, read_patients
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import ByPath, read_table
from tumorlens.progress import Progress, silent

Indices = npt.NDArray[np.int64]

# The fold of images that train in every fold.
ALWAYS_TRAINS = "train"
# Share of the next fold that validates where no `run` column says which.
_NEXT_FOLD_SHARE = 0.5


def hold_out(labels: Indices, groups: Indices, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Set aside a stratified share of the images without dividing a group.

    Args:
        labels: (N,) class indices.
        groups: (N,) images of one group go together.
        fraction: of each class, as nearly as the groups allow; at least one image where a class
            has two groups.
        seed: of the choice.

    Returns:
        (N,) True where set aside.
    """
    rng = np.random.default_rng(seed)
    _, member = np.unique(groups, return_inverse=True)
    classes = int(labels.max()) + 1
    # Images of each class in each group.
    counts = np.zeros((int(member.max()) + 1, classes), dtype=np.int64)
    np.add.at(counts, (member, labels), 1)
    images = counts.sum(axis=0)
    wanted = np.where(images < 2, 0, np.maximum(1, np.round(images * fraction)))
    taken = np.zeros(classes)
    held = np.zeros(len(counts), dtype=bool)
    # In random order, take each group that leaves no class above what is wanted of it.
    for group in rng.permutation(len(counts)):
        if (taken + counts[group] <= wanted).all():
            held[group] = True
            taken += counts[group]
    return held[member]


@dataclass(frozen=True)
class SplitFolder:
    """A data folder, each of its files in a split, before an image is read."""

    folder: DataFolder  # the files that are in a split
    # the table of the patients that they show; None: not known
    patients: PatientTable | None = None
    source: str = ""  # what says the splits, for sentences; "" for the folders themselves
    # split to a sentence for each file that `source` lists and the folder has not
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    note: str = ""  # how images were known, and what `source` does not list; "" if nothing

    @property
    def missing_faults(self) -> list[str]:
        """A sentence for each file that `source` lists and the folder has not."""
        return [fault for faults in self.missing.values() for fault in faults]


def resolve(
    root: Path,
    splits: Path | None = None,
    fold: int | None = None,
    patients: Path | None = None,
    *,
    size: int = 96,
    every_file: bool = False,
    progress: Progress = silent,
) -> SplitFolder:
    """Which image of a data folder is in which split, and whom it shows, as the flags say.

    Args:
        root: the data folder.
        splits: a CSV with the columns `path, split`, or `path, fold[, run]` (see `of_fold`); or
            `public-patients` or `public-site-out`, the built-in tables; None: as the folders say.
        fold: of the splits file.
        patients: a table; None: the one that the splits file carries, if any.
        size: at which the images will be wanted, pixels: for the built-in table they are decoded.
        every_file: take images without a class folder (see `folder.scan`) or a split too.
        progress: see `cache.load`.

    Raises:
        TumorlensError: faults of the folder's layout, of a table, or no such fold.
    """
    refuse_withdrawn(splits)
    folder = scan(root, any_folder=every_file)
    table = None if patients is None else read_patients(patients)
    if splits is None:
        return SplitFolder(folder, table)
    known, source = "", f"--splits {splits}"
    if str(splits) in public_patients.NAMES:
        _check_fold(source, fold, range(public_patients.FOLDS))
        assert fold is not None
        rows, known = public_patients.rows_of(str(splits), fold, folder, size, progress)
        columns = list(public_patients.table().columns)
        table = table or PublicTable()
    else:
        rows, columns = read_table(splits, "--splits", ("path",))
        table = table or carried(splits, rows, columns)
    found = splits_in(source, rows, columns, fold)
    result = assigned(folder, found, source, table, every_file=every_file)
    return replace(result, note=f"{source}, fold {fold}: {known}") if known else result


def assigned(
    folder: DataFolder,
    assignment: Mapping[str, str],
    source: str,
    patients: PatientTable | None = None,
    besides: Collection[str] = (),
    *,
    every_file: bool = False,
) -> SplitFolder:
    """A folder with the splits of `assignment`, path to split; what either lacks is noted.

    Args:
        folder: as it is.
        assignment: path to "train", "valid" or "test".
        source, patients: see `SplitFolder`.
        besides: paths that are known and in no split.
        every_file: keep those that are in no split.

    Raises:
        TumorlensError: the folder has none of the images.
    """
    known = ByPath(assignment)
    there = ByPath({file.path: file.split for file in folder.files})
    missing: dict[str, list[str]] = {}
    for path, name in known.items():
        if path not in there:
            sentence = f"{folder.root / path}: listed, but there is no such file ({source})."
            missing.setdefault(name, []).append(sentence)
    new = Counter(there[path] for path in there.keys() - known.keys() - set(besides))
    where = ", ".join(
        f"{count:,} in {name}/" if name else f"{count:,}" for name, count in sorted(new.items())
    )
    use = "In no split" if every_file else f"Not used of {folder.root}: images in no split"
    note = f"{use} of {source} ({where})." if new else ""
    split = folder.with_splits(known, others=every_file)
    if not split.layout:
        raise TumorlensError(
            f"{source}: none of its images is in {folder.root}; it lists "
            f"{next(iter(assignment), 'nothing')}, the folder has {folder.files[0].path}. Paths "
            "are relative to --data_dir."
        )
    return SplitFolder(split, patients, source, missing, note)


def refuse_withdrawn(splits: Path | None) -> None:
    """Refuse the folds of earlier versions, which did not keep patients apart."""
    if str(splits) == "public-folds":
        raise TumorlensError(
            "--splits public-folds: these folds are withdrawn. They were meant to keep patients "
            "apart and did not: 80 to 95% of the tumor test images of each fold showed a patient "
            f'who was in training (CHANGELOG, "Corrected"). Use --splits {public_patients.NAME}.'
        )


def _check_fold(source: str, fold: int | None, folds: Collection[int]) -> None:
    if fold not in folds:
        raise TumorlensError(
            f"{source}: has the folds {', '.join(map(str, sorted(folds)))}"
            + ("" if fold is None else f", not {fold}")
            + "; name one with --fold 0 or another."
        )


def splits_in(
    source: str, rows: Sequence[dict[str, str]], columns: Collection[str], fold: int | None
) -> dict[str, str]:
    """What a splits file says: path to "train", "valid" or "test"; not of images without either.

    Args:
        source: of the table, for sentences.
        rows, columns: with `path, split`, or `path, fold` and what `of_fold` asks for.
        fold: which one; None: as the column `split` says.

    Raises:
        TumorlensError: a column or value that is not understood, no such fold.
    """
    found = ", ".join(columns)
    if fold is None:
        if "split" not in columns:
            hint = "name one with --fold" if "fold" in columns else "expected path, split"
            raise TumorlensError(f"{source}: has the columns {found}; {hint}.")
        for row in rows:
            if row["split"].lower() not in ("", *SPLIT_NAMES):
                what = f"{row['path']} has the split `{row['split']}`"
                raise TumorlensError(f"{source}: {what}; expected train, valid, test or nothing.")
        return {row["path"]: SPLIT_NAMES[row["split"].lower()] for row in rows if row["split"]}
    if "fold" not in columns:
        raise TumorlensError(
            f"{source}: has no column `fold`, which --fold {fold} asks for; found {found}."
        )
    folds = _numbered_folds(source, rows)
    _check_fold(source, fold, folds)
    return of_fold(rows, fold, len(folds))


def of_fold(rows: Sequence[Mapping[str, str]], fold: int, folds: int) -> dict[str, str]:
    """The splits of one fold: path of each image to "train", "valid" or "test".

    Test is fold k. Validation is the block (column `run`) k + 1 modulo the number of folds; without
    blocks it is half of the next fold, with no patient or group (columns `patient`, `group`)
    divided. Training is everything else. Images of the fold `train` always train: their patient is
    not known, so that they are never scored. Images without a fold are not used.

    The rows have the columns path, fold and, where known, run, label, patient and group.
    """
    used = [row for row in rows if row["fold"]]
    valid = str((fold + 1) % folds)
    if any(row.get("run") for row in used):
        validates = {row["path"] for row in used if row.get("run") == valid}
    else:
        validates = _half_of([row for row in used if row["fold"] == valid])
    return {
        row["path"]: "test"
        if row["fold"] == str(fold)
        else "valid"
        if row["path"] in validates and row["fold"] != ALWAYS_TRAINS
        else "train"
        for row in used
    }


def folds_in(path: Path) -> tuple[tuple[int, ...], bool]:
    """The folds of a splits file with a column `fold`, in order, and whether it names patients.

    Raises:
        TumorlensError: no such file or column, no fold at all, or one that is no whole number.
    """
    rows, columns = read_table(path, "--splits", ("path",))
    folds = _numbered_folds(f"--splits {path}", rows)
    if not folds:
        raise TumorlensError(
            f"--splits {path}: --protocol patients expects a column `fold` with whole numbers, "
            f"found {', '.join(columns)}; make such a file with `tumorlens split DATA --folds 5`, "
            "or leave --splits out for the public set."
        )
    return folds, "patient" in columns


def _numbered_folds(source: str, rows: Sequence[dict[str, str]]) -> tuple[int, ...]:
    """The folds in order; in the rows, folds and blocks become plain numbers: programs write 1.0.

    Raises:
        TumorlensError: one is no whole number.
    """
    for row in rows:
        for column in ("fold", "run"):
            value = row.get(column, "")
            if value in ("", ALWAYS_TRAINS) or row.get("fold") in ("", ALWAYS_TRAINS):
                continue
            try:
                row[column] = str(int(value.removesuffix(".0")))
            except ValueError:
                raise TumorlensError(
                    f"{source}: {row['path']} has the {column} `{value}`; expected a whole number."
                ) from None
    return tuple(sorted(map(int, {row.get("fold", "") for row in rows} - {ALWAYS_TRAINS, ""})))


def _half_of(rows: list[Mapping[str, str]]) -> set[str]:
    if not rows:
        return set()
    _, labels = np.unique([row.get("label", "") for row in rows], return_inverse=True)
    groups = joined(_numbered(rows, "group"), _numbered(rows, "patient"))
    held = hold_out(labels.astype(np.int64), groups, _NEXT_FOLD_SHARE, seed=0)
    return {row["path"] for row, holds in zip(rows, held, strict=True) if holds}


def _numbered(rows: Sequence[Mapping[str, str]], column: str) -> Indices:
    """A number for each value of a column; rows without one are alone."""
    names = [row.get(column) or f"\0{row['path']}" for row in rows]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
