"""Which image trains, which chooses the epoch, which is scored; never a picture in two parts."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data.folder import SPLITS
from tumorlens.data.table import read_table
from tumorlens.errors import TumorlensError

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

    With columns `path, split` as written. With columns `path, fold[, run]` and a fold k: the test
    part is fold k; the validation part is run (k + 1) mod the number of folds where there is a
    `run` column, else a half of the next fold, groups (column `group`) undivided; training is the
    rest. Images without a fold are not used.

    Raises:
        TumorlensError: no such file, a column or value that is not understood, a path twice.
    """
    rows, columns = _read(path)
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
    used = [row for row in rows if row["fold"]]
    folds = sorted({_number(path, row, "fold") for row in used})
    if fold not in folds:
        raise TumorlensError(
            f"--fold {fold}: {path} has the folds {', '.join(map(str, folds))}; name one of them."
        )
    valid = (fold + 1) % len(folds)
    if "run" in columns:
        validates = {row["path"] for row in used if _number(path, row, "run") == valid}
    else:
        validates = _half_of([row for row in used if _number(path, row, "fold") == valid])
    return {
        row["path"]: "test"
        if int(row["fold"]) == fold
        else "valid"
        if row["path"] in validates
        else "train"
        for row in used
    }


def read_groups(path: Path) -> dict[str, str]:
    """Read a CSV with columns `path, group`: path to the name of its group.

    Raises:
        TumorlensError: no such file or column, a path twice.
    """
    rows, columns = _read(path, flag="--groups")
    if "group" not in columns:
        raise TumorlensError(f"--groups {path}: has no column `group`; found {', '.join(columns)}.")
    return {row["path"]: row["group"] for row in rows if row["group"]}


def folds_in(path: Path) -> tuple[int, ...]:
    """The folds of a splits file with a column `fold`, in order.

    Raises:
        TumorlensError: no such file or column, no fold at all, or one that is no whole number.
    """
    rows, columns = _read(path)
    folds = {_number(path, row, "fold") for row in rows if row.get("fold")}
    if not folds:
        raise TumorlensError(
            f"--splits {path}: --protocol folds expects a column `fold` with whole numbers, found "
            f"{', '.join(columns)}; make such a file with `tumorlens split DATA --folds 5`, or "
            "leave --splits out for the public set."
        )
    return tuple(sorted(folds))


def runs_in(path: Path) -> dict[str, str]:
    """Path of each image to the splits file's column `run`; empty where there is none.

    Raises:
        TumorlensError: no such file.
    """
    return {row["path"]: row["run"] for row in _read(path)[0] if row.get("run")}


def _read(path: Path, flag: str = "--splits") -> tuple[list[dict[str, str]], list[str]]:
    rows, columns = read_table(path, flag, ("path",))
    for row in rows:
        row["path"] = row["path"].replace("\\", "/")
    twice = [name for name, times in Counter(row["path"] for row in rows).items() if times > 1]
    if twice:
        raise TumorlensError(f"{flag} {path}: lists {twice[0]} more than once; list it once.")
    return rows, columns


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


def _half_of(rows: list[dict[str, str]]) -> set[str]:
    names = [row.get("group") or f"\0{row['path']}" for row in rows]
    labels = [row.get("label", "") for row in rows]
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    held = hold_out(
        np.unique(labels, return_inverse=True)[1].astype(np.int64), groups, _NEXT_FOLD_SHARE, 0
    )
    return {row["path"] for row, holds in zip(rows, held, strict=True) if holds}
