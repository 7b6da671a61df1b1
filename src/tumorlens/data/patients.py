"""Which patient each image shows: one table, read in one place.

A table has a row for each image: `path` (relative to the data folder), `patient` (empty where not
known) and, where known, `site`, `group`, `run` (the block of patients that validates), `fold` and
other categorical columns. A splits file may carry them itself. `public` is the built-in table of
the public set (`data.public_patients`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data import public_patients
from tumorlens.data.duplicates import joined
from tumorlens.data.folder import SPLITS
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import read_table, rows_for

PUBLIC = "public"
# Columns of an image that are no property of it.
NOT_OF_THE_IMAGE = ("path", "hash", "label", "split", "fold", "run", "group", "patient")
_NAMED_IN_REFUSAL = 3

Indices = npt.NDArray[np.int64]
Names = npt.NDArray[np.str_]
Hashes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Patients:
    """Whom N images show."""

    source: str  # the table, for sentences
    names: Names  # (N,) patient of each image; "" where it is not known
    # the table's other columns, (N,) each; "" where the table says nothing
    columns: dict[str, Names] = field(default_factory=dict)

    @property
    def sites(self) -> Names | None:
        """(N,) site of each image, "" where not known; None: the table has no such column."""
        return self.columns.get("site")

    def only(self, keep: Indices | npt.NDArray[np.bool_]) -> "Patients":
        """Those of the images that `keep` names, by mask or by index."""
        columns = {name: values[keep] for name, values in self.columns.items()}
        return Patients(self.source, self.names[keep], columns)

    def properties(self) -> dict[str, Names]:
        """The categorical columns that describe an image, such as site and plane."""
        return {
            name: values
            for name, values in self.columns.items()
            if name not in NOT_OF_THE_IMAGE and (values != "").any()
        }


@dataclass(frozen=True)
class FileTable:
    """A user's table: images are known by path."""

    source: str  # the file, for sentences
    rows: Mapping[str, Mapping[str, str]]  # path to the values of its row by column
    columns: tuple[str, ...]  # their names

    def of(self, paths: Sequence[str], hashes: Hashes | None) -> Patients:  # noqa: ARG002
        """Whom N images show, see `PublicTable.of`; no hash is needed.

        Raises:
            TumorlensError: it knows none of the images.
        """
        found = rows_for(paths, self.rows, f"--patients {self.source}")
        return _patients(self.source, found, self.columns)


@dataclass(frozen=True)
class PublicTable:
    """The built-in table of the public set: images are known by perceptual hash, then by name."""

    source: str = PUBLIC

    def of(self, paths: Sequence[str], hashes: Hashes | None) -> Patients:
        """Whom N images show.

        Args:
            paths: N, relative to the data folder.
            hashes: (N, 32) uint8, `hashing.fingerprint` of each; None: not known.

        Raises:
            TumorlensError: it knows none of the images.
        """
        table = public_patients.table()
        found = public_patients.match(paths, hashes)
        if len(paths) and not found.known.any():
            raise TumorlensError(
                f"--patients {PUBLIC}: knows none of the images; it is for the public Brain Tumor "
                "MRI Dataset. Name a CSV with the columns path, patient."
            )
        rows = [
            table.rows[row] if known else {}
            for row, known in zip(found.rows.tolist(), found.known.tolist(), strict=True)
        ]
        return _patients(PUBLIC, rows, table.columns)


PatientTable = FileTable | PublicTable


def read_patients(name: Path) -> PatientTable:
    """The table that --patients names: a CSV file, or `public`.

    Raises:
        TumorlensError: no such file, no column `path` or `patient`, a path twice.
    """
    if str(name) == PUBLIC:
        return PublicTable()
    found = carried(name, *read_table(name, "--patients", ("path",)))
    if found is None:
        raise TumorlensError(
            f"--patients {name}: has no column `patient`; expected a CSV with the columns path, "
            f"patient (and, where known, site, group, run, fold), or `{PUBLIC}`."
        )
    if not any(row["patient"] for row in found.rows.values()):
        raise TumorlensError(f"--patients {name}: its column `patient` is empty; fill it in.")
    return found


def record(paths: Sequence[str], patients: Patients) -> FileTable:
    """A table of N images and the `patients` that they show, to keep where their paths are kept."""
    columns = {"patient": patients.names, **patients.columns}
    rows = {
        path: {name: str(values[index]) for name, values in columns.items()}
        for index, path in enumerate(paths)
    }
    return FileTable(patients.source, rows, tuple(columns))


def carried(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> FileTable | None:
    """The table that the rows of another, such as a splits file, carry; None: they name nobody."""
    if "patient" not in columns:
        return None
    kept = tuple(column for column in columns if column not in ("path", "label", "split"))
    return FileTable(path.as_posix(), {row["path"]: row for row in rows}, kept)


def _patients(source: str, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Patients:
    def column(name: str) -> Names:
        return np.array([row.get(name, "") for row in rows], dtype=np.str_)

    others = {name: column(name) for name in columns if name not in ("path", "hash", "patient")}
    return Patients(source, column("patient"), others)


def units(groups: Indices, patients: Patients | None) -> Indices:
    """What is independent among N images, and so is resampled or divided as a whole.

    Images of one patient, and near-duplicates: a group that shows a patient belongs to that
    patient. An image of an unknown patient counts with its near-duplicates alone.

    Args:
        groups: (N,) near-duplicate group of each image.
        patients: of the N images; None: not known.
    """
    if patients is None:
        return joined(groups)
    known = patients.names != ""
    _, member = np.unique(patients.names, return_inverse=True)
    alone = np.arange(len(groups)) + int(member.max(initial=-1)) + 1
    return joined(groups, np.where(known, member, alone).astype(np.int64))


@dataclass(frozen=True)
class Overlap:
    """A patient who is in more than one split, with the number of images in each that has some."""

    patient: str
    images: dict[str, int]


def overlaps(names: Names, splits: Names) -> list[Overlap]:
    """The patients who are in more than one split, most images first.

    Args:
        names: (N,) patient of each image; "" where not known, and then in no overlap.
        splits: (N,) "train", "valid" or "test".
    """
    counts: dict[str, Counter[str]] = {}
    for name, split in zip(names.tolist(), splits.tolist(), strict=True):
        if name:
            counts.setdefault(name, Counter())[split] += 1
    found = [
        Overlap(name, {split: inside[split] for split in SPLITS if inside[split]})
        for name, inside in counts.items()
        if len(inside) > 1
    ]
    return sorted(found, key=lambda one: (-sum(one.images.values()), one.patient))


def _overlap_sentence(found: Sequence[Overlap], splits: Names) -> str:
    """How many patients and images overlap, the largest by name."""
    parts = []
    for split in ("valid", "test"):
        also = sum(one.images.get(split, 0) for one in found)
        if also:
            parts.append(f"{also} of {int((splits == split).sum())} {split} images")
    examples = [
        f"{one.patient} ({', '.join(f'{count} {name}' for name, count in one.images.items())})"
        for one in found[:_NAMED_IN_REFUSAL]
    ]
    more = f" and {len(found) - len(examples)} more" if len(found) > len(examples) else ""
    who = f"{len(found)} patient{' is' if len(found) == 1 else 's are'}"
    shown = f"{', '.join(examples)}{more}"
    return f"{who} in more than one split, by {' and '.join(parts)}: {shown}"


def check_overlap(names: Names, splits: Names, source: str, *, allowed: bool) -> str:
    """Refuse a split with a patient on both sides, or say it.

    Args:
        names, splits: see `overlaps`.
        source: the patients table.
        allowed: --allow_patient_overlap.

    Returns:
        A sentence for every output; "" where no patient overlaps.

    Raises:
        TumorlensError: one does, and that is not allowed.
    """
    found = overlaps(names, splits)
    if not found:
        return ""
    said = _overlap_sentence(found, splits)
    if not allowed:
        raise TumorlensError(
            f"--patients {source}: {said}. Scores of such a split are not of unseen patients; make "
            "one with `tumorlens split --patients`, or pass --allow_patient_overlap, which every "
            "output then tells."
        )
    return f"Patients overlap (--allow_patient_overlap): {said}."
