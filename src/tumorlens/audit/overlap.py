"""Patients who are in a split that is scored and in one that it must not share them with."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.patients import Patients, overlaps

# A split that is scored or that chooses, and the split that its images must not be in.
LEAKS = (("test", "train"), ("valid", "train"), ("test", "valid"))

Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class PatientCounts:
    """Images of one split and class whose patient is in another split too.

    Attributes:
        images: all of them.
        known: those whose patient is known.
        shared: those whose patient the other split has.
        patients: how many patients that is.
    """

    images: int
    known: int
    shared: int
    patients: int


@dataclass(frozen=True)
class PatientOverlap:
    """Two splits that share patients.

    Attributes:
        split: the one that is scored or that chooses.
        other: the one that must not have its patients.
        by_class: counts of each class of `split`.
        whole: counts of all classes.
    """

    split: str
    other: str
    by_class: dict[str, PatientCounts]
    whole: PatientCounts


def patient_overlap(names: Names, splits: Names, labels: Names) -> list[PatientOverlap]:
    """Splits of `LEAKS` that share patients, and how many images that is.

    Args:
        names: (N,) patient of each image; "" where not known.
        splits: (N,) "train", "valid", "test" or "".
        labels: (N,) class.
    """

    def counted(inside: npt.NDArray[np.bool_], other: str) -> PatientCounts:
        known = inside & (names != "")
        shared = known & np.isin(names, names[splits == other])
        return PatientCounts(
            images=int(inside.sum()),
            known=int(known.sum()),
            shared=int(shared.sum()),
            patients=len(np.unique(names[shared])),
        )

    found = []
    for split, other in LEAKS:
        inside = splits == split
        whole = counted(inside, other)
        if whole.shared:
            classes = sorted(set(labels[inside].tolist()))
            rows = {label: counted(inside & (labels == label), other) for label in classes}
            found.append(PatientOverlap(split, other, rows, whole))
    return found


def patient_facts(
    patients: Patients, splits: Names, found: Sequence[PatientOverlap]
) -> dict[str, Any]:
    """The patients of N images as primitives.

    Args:
        patients: of the N images.
        splits: (N,) of each.
        found: by `patient_overlap`, of these.
    """
    names = patients.names
    return {
        "source": patients.source,
        "patients": len(set(names.tolist()) - {""}),
        "images_of_known_patients": int((names != "").sum()),
        "patients_in_several_splits": len(overlaps(names, splits)),
        "overlap": [
            {
                "split": one.split,
                "in": one.other,
                **asdict(one.whole),
                "by_class": {label: asdict(row) for label, row in one.by_class.items()},
            }
            for one in found
        ],
    }
