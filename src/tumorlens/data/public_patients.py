"""The public set's patients, for whoever has downloaded it: `--patients public`.

`public_patients.csv` has a row for each of 7,019 files of the "Brain Tumor MRI Dataset" (Masoud
Nickparvar, Kaggle): a perceptual hash, from which no image can be seen, its path, and whom it
shows. Patients and examinations are those of the Cheng 2017 figshare set (doi
10.6084/m9.figshare.1512427, CC BY 4.0; PUBLIC_PATIENTS.txt beside the table has the attribution).
Mirrors of the public set rename and re-encode its files, so that images are known by hash first and
by name second.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as remembered
from importlib import resources

import numpy as np
import numpy.typing as npt

from tumorlens.data import cache
from tumorlens.data.duplicates import NEAR_DUPLICATE_BITS, near_duplicates_in
from tumorlens.data.folder import DataFolder
from tumorlens.data.hashing import TRANSFORMS, transformed
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress

Counts = dict[str, dict[str, int]]

# Images by version, split and class.
KNOWN_COUNTS: dict[int, Counts] = {
    1: {
        "Training": {"glioma": 1321, "meningioma": 1339, "notumor": 1595, "pituitary": 1457},
        "Testing": {"glioma": 300, "meningioma": 306, "notumor": 405, "pituitary": 300},
    }
}

NAME = "public-patients"
# The same folds, but no network is shown a glioma of the site that nearly all other classes come
# from: the id style of digits. Each such glioma is a test image of its own fold alone.
SITE_OUT = "public-site-out"
NAMES = (NAME, SITE_OUT)
FOLDS = 5
# Bits in which a file may differ from its row when its name is the row's; other files of the same
# name are other images (half of 256 bits differ by chance, neighbouring slices differ by 40).
_SAME_NAME = 32


@dataclass(frozen=True, eq=False)
class Table:
    """The built-in table: R rows by column, and their hashes, (R, 32) uint8."""

    hashes: npt.NDArray[np.uint8]
    rows: tuple[Mapping[str, str], ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Match:
    """What the table knows of N images."""

    rows: npt.NDArray[np.int64]  # (N,) row of each image; meaningless where not `known`
    known: npt.NDArray[np.bool_]  # (N,) whether there is one
    by_name: npt.NDArray[np.bool_]  # (N,) whether the name decided, the hash being further away


def is_testing(labels: Iterable[str]) -> bool:
    """Whether these are the images' classes of the public set's whole `Testing`, as known here."""
    counted = Counter(labels)
    return any(counted == splits["Testing"] for splits in KNOWN_COUNTS.values())


@remembered
def table() -> Table:
    """The table as it is shipped."""
    text = resources.files("tumorlens.data").joinpath("public_patients.csv").read_text("utf-8")
    rows = tuple(csv.DictReader(text.splitlines()))
    joined = bytes.fromhex("".join(row["hash"] for row in rows))
    hashes = np.frombuffer(joined, dtype=np.uint8).reshape(len(rows), -1)
    return Table(hashes, rows, tuple(rows[0]))


def match(paths: Sequence[str], hashes: npt.NDArray[np.uint8] | None) -> Match:
    """Find images in the table.

    The row of the same name where the two are near-duplicates; else the nearest row among
    near-duplicates; else the row of the same name where the images may be the same, re-encoded.

    Args:
        paths: N, any folder; a name is the file's and its folder's.
        hashes: (N, 32) uint8; None: not known, names alone decide.
    """
    shipped = table()
    named = {_name(row["path"]): index for index, row in enumerate(shipped.rows)}
    if hashes is None:
        found = np.array([named.get(_name(path), -1) for path in paths], dtype=np.int64)
        return Match(found, found >= 0, found >= 0)
    nearest = near_duplicates_in(shipped.hashes, hashes)
    rows, known = nearest.index.copy(), nearest.found.copy()
    by_name = np.zeros(len(paths), dtype=bool)
    for index, path in enumerate(paths):
        row = named.get(_name(path))
        if row is None:
            continue
        bits = [
            transformed(shipped.hashes[row][None], name)[0] ^ hashes[index] for name in TRANSFORMS
        ]
        differing = min(int(np.bitwise_count(one).sum()) for one in bits)
        if differing <= (NEAR_DUPLICATE_BITS if known[index] else _SAME_NAME):
            by_name[index] = not known[index]
            rows[index], known[index] = row, True
    return Match(rows, known, by_name)


def rows_of(
    name: str, fold: int, folder: DataFolder, size: int, progress: Progress
) -> tuple[list[dict[str, str]], str]:
    """The table's rows for a folder's images, under the folder's own paths.

    Args:
        name: one of `NAMES`.
        fold: that is asked for.
        folder: whose images are decoded, to hash them.
        size: at which they will be wanted, pixels.
        progress: see `cache.load`.

    Returns:
        A row for each image that is known; and how they were known, in words.

    Raises:
        TumorlensError: none is known.
    """
    cached = cache.load(folder.root, [file.path for file in folder.files], size, progress)
    keep = np.array([file.path not in cached.faults for file in folder.files], dtype=bool)
    paths = [file.path for file in folder.files if file.path not in cached.faults]
    found = match(paths, cached.fingerprints[keep])
    if not found.known.any():
        raise TumorlensError(
            f"--splits {name}: knows none of the images; it is for the public Brain Tumor MRI "
            "Dataset. Make a split of your own with `tumorlens split --patients`."
        )
    shipped = table()
    rows = [
        {**shipped.rows[row], "path": path}
        for path, row, known in zip(paths, found.rows.tolist(), found.known.tolist(), strict=True)
        if known
    ]
    mislabelled = sum(not row["fold"] for row in rows)
    left_out = [
        row
        for row, at in zip(rows, found.rows[found.known].tolist(), strict=True)
        if name == SITE_OUT and row["fold"] != str(fold) and is_of_site(shipped.rows[at])
    ]
    for row in left_out:
        row["fold"] = ""
    note = (
        f"{int((found.known & ~found.by_name).sum())} images known by their hash, "
        f"{int(found.by_name.sum())} by their name; not used: {int((~found.known).sum())} that the "
        f"table does not know, {mislabelled} that are mislabelled in the public set"
        + (f", {len(left_out)} gliomas of the site that is left out." if left_out else ".")
    )
    return rows, note


def is_of_site(row: Mapping[str, str]) -> bool:
    """Whether a row of the table is a glioma of the id style of digits, with a fold."""
    return row["site"] == "digits" and "/glioma/" in row["path"] and bool(row["fold"])


def _name(path: str) -> str:
    """The file's name and its folder's, without ending: what mirrors seldom change together."""
    return "/".join(path.lower().rsplit(".", 1)[0].split("/")[-2:])
