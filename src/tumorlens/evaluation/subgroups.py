"""Recall of each class in subgroups of its images, such as the sites that they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.evaluation.intervals import Estimate, share_estimate
from tumorlens.evaluation.predictions import Predictions


@dataclass(frozen=True)
class SubgroupRecall:
    """Recall of one class in one subgroup.

    Attributes:
        label: the class.
        subgroup: the column's value.
        recall: with its 95% interval; `n` images.
        patients: how many are known among them.
        groups: groups of near-duplicates among the images whose patient is not known.
    """

    label: str
    subgroup: str
    recall: Estimate
    patients: int
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return {
            "class": self.label,
            "subgroup": self.subgroup,
            "recall": self.recall.to_dict(),
            "patients": self.patients,
            "groups": self.groups,
        }


def recall_by(
    predictions: Predictions,
    subgroups: Sequence[str] | None,
    *,
    hits: npt.NDArray[np.float64] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[SubgroupRecall, ...]:
    """Recall of each class in each subgroup that has images of it, by class, then by name.

    Args:
        predictions: of N images.
        subgroups: (N,) name of each image's; "" belongs to none. None: not known.
        hits: (N,) share of several networks that are right of each image; None: whether the
            predictions are.
        resamples, seed: of the intervals, over patients where they are known.
    """
    if subgroups is None:
        return ()
    names = np.array(subgroups)
    if hits is None:
        right = predictions.probabilities.argmax(axis=1) == predictions.labels
        hits = right.astype(np.float64)
    found = []
    for index, label in enumerate(predictions.classes):
        for name in sorted(set(subgroups) - {""}):
            inside = np.flatnonzero((predictions.labels == index) & (names == name))
            if not len(inside):
                continue
            part = predictions.only(inside)
            recall = share_estimate(hits[inside], part.units(), resamples=resamples, seed=seed)
            found.append(SubgroupRecall(label, name, recall, *part.unit_counts()))
    return tuple(found)
