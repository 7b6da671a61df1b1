"""Which image trains, which chooses the epoch, which is scored; never an image in two splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data import cache, public_patients
from tumorlens.data.folder import SPLITS, scan
from tumorlens.data.patients import joined, read_rows
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent

# The fold of images that train in every fold.
ALWAYS_TRAINS = "train"
# Share of the next fold that validates where no `run` column says which.
_NEXT_FOLD_SHARE = 0.5


def hold_out(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
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
    # How many images of each class a group brings; mixed groups bring several classes.
    brings = np.zeros((int(member.max()) + 1, classes), dtype=np.int64)
    np.add.at(brings, (member, labels), 1)
    wanted = np.maximum(1, np.round(np.bincount(labels, minlength=classes) * fraction))
    wanted[np.bincount(labels, minlength=classes) < 2] = 0
    taken = np.zeros(classes)
    held = np.zeros(len(brings), dtype=bool)
    # In random order, take each group that brings no class above what is wanted of it.
    for group in rng.permutation(len(brings)):
        if (taken + brings[group] <= wanted).all():
            held[group] = True
            taken += brings[group]
    return held[member]


def assignment(path: Path, fold: int | None = None) -> dict[str, str]:
    """Read a splits file: path of each image to "train", "valid" or "test".

    With columns `path, split` as written. With columns `path, fold[, run]` and a fold k: see
    `of_fold`. Images without a fold are not used.

    Raises:
        TumorlensError: no such file, a column or value that is not understood, a path twice.
    """
    rows, columns = read_rows(path, "--splits")
    if fold is None:
        if "split" not in columns:
            hint = "name one with --fold" if "fold" in columns else "expected path, split"
            raise TumorlensError(f"--splits {path}: has the columns {', '.join(columns)}; {hint}.")
        return {row["path"]: _split_name(path, row) for row in rows if row["split"]}
    if "fold" not in columns:
        raise TumorlensError(
            f"--splits {path}: has no column `fold`, which --fold {fold} asks for; found "
            f"{', '.join(columns)}."
        )
    folds = _folds_of(path, rows)
    if fold not in folds:
        raise TumorlensError(
            f"--fold {fold}: {path} has the folds {', '.join(map(str, folds))}; name one of them."
        )
    if "run" in columns:
        for row in rows:
            if row["fold"] not in ("", ALWAYS_TRAINS):
                _number(path, row, "run")
    return of_fold(rows, fold, len(folds))


def of_fold(rows: Sequence[Mapping[str, str]], fold: int, folds: int) -> dict[str, str]:
    """The splits of one fold: path of each image to "train", "valid" or "test".

    Test is fold k. Validation is the block (column `run`) k + 1 modulo the number of folds; without
    blocks it is half of the next fold, with no patient or group (columns `patient`, `group`)
    divided. Training is everything else. Images of the fold `train` always train: their patient is
    not known, so that they are never scored. Images without a fold are not used.

    Args:
        rows: with columns path, fold and, where known, run, label, patient and group.
        fold: k.
        folds: how many there are.
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


def resolve(
    name: Path, fold: int | None, root: Path, size: int, progress: Progress = silent
) -> tuple[dict[str, str], str]:
    """What --splits says: a CSV (`assignment`), or `public-patients`, the built-in table.

    Args:
        name: as given.
        fold: as given.
        root: the data folder.
        size: at which its images will be wanted, pixels; for the built-in table they are decoded.
        progress: see `cache.load`.

    Returns:
        Path to "train", "valid" or "test"; and how images were known, "" for a CSV.

    Raises:
        TumorlensError: see `assignment`; no fold, or the folder is not the public set.
    """
    public_patients.refuse_withdrawn(str(name))
    if str(name) != public_patients.NAME:
        return assignment(name, fold), ""
    folds = public_patients.FOLDS
    if fold is None or not 0 <= fold < folds:
        raise TumorlensError(
            f"--splits {name}: has the folds {', '.join(map(str, range(folds)))}"
            + ("" if fold is None else f", not {fold}")
            + "; name one with --fold 0."
        )
    files = [file.path for file in scan(root).files]
    cached = cache.load(root, files, size, progress)
    readable = np.array([path not in cached.faults for path in files], dtype=bool)
    paths = [path for path in files if path not in cached.faults]
    rows, note = public_patients.rows_of(paths, cached.fingerprints[readable])
    return of_fold(rows, fold, folds), f"{name}, fold {fold}: {note}"


def read_groups(path: Path) -> dict[str, str]:
    """Read a CSV with columns `path, group`: path to the name of its group.

    Raises:
        TumorlensError: no such file or column, a path twice.
    """
    rows, columns = read_rows(path, "--groups")
    if "group" not in columns:
        raise TumorlensError(f"--groups {path}: has no column `group`; found {', '.join(columns)}.")
    return {row["path"]: row["group"] for row in rows if row["group"]}


def folds_in(path: Path) -> tuple[int, ...]:
    """The folds of a splits file with a column `fold`, in order.

    Raises:
        TumorlensError: no such file or column, no fold at all, or one that is no whole number.
    """
    rows, columns = read_rows(path, "--splits")
    folds = _folds_of(path, rows)
    if not folds:
        raise TumorlensError(
            f"--splits {path}: --protocol patients expects a column `fold` with whole numbers, "
            f"found {', '.join(columns)}; make such a file with `tumorlens split DATA --folds 5`, "
            "or leave --splits out for the public set."
        )
    return folds


def _folds_of(path: Path, rows: Sequence[dict[str, str]]) -> tuple[int, ...]:
    used = [row for row in rows if row.get("fold") not in ("", None, ALWAYS_TRAINS)]
    return tuple(sorted({_number(path, row, "fold") for row in used}))


def _split_name(path: Path, row: dict[str, str]) -> str:
    if row["split"] not in SPLITS:
        raise TumorlensError(
            f"--splits {path}: {row['path']} has the split `{row['split']}`; expected "
            f"{', '.join(SPLITS)} or nothing."
        )
    return row["split"]


def _number(path: Path, row: dict[str, str], column: str) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise TumorlensError(
            f"--splits {path}: {row['path']} has the {column} `{row[column]}`; expected a whole "
            "number."
        ) from None


def _half_of(rows: list[Mapping[str, str]]) -> set[str]:
    if not rows:
        return set()
    labels = [row.get("label", "") for row in rows]
    groups = joined(*(_numbered(rows, column) for column in ("group", "patient")))
    held = hold_out(
        np.unique(labels, return_inverse=True)[1].astype(np.int64), groups, _NEXT_FOLD_SHARE, 0
    )
    return {row["path"] for row, holds in zip(rows, held, strict=True) if holds}


def _numbered(rows: Sequence[Mapping[str, str]], column: str) -> npt.NDArray[np.int64]:
    """A number for each value of a column; rows without one are alone."""
    names = [row.get(column) or f"\0{row['path']}" for row in rows]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
