"""Recall of each class in subgroups of its images, such as the sites that they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorlens.evaluation.intervals import Estimate, bootstrap, proportion_interval
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
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[SubgroupRecall, ...]:
    """Recall of each class in each subgroup that has images of it, by class, then by name.

    Args:
        predictions: of N images.
        subgroups: (N,) name of each image's; "" belongs to none. None: not known.
        resamples, seed: of the intervals, over patients where they are known.
    """
    if subgroups is None:
        return ()
    names = np.array(subgroups)
    predicted = predictions.probabilities.argmax(axis=1)
    found = []
    for index, label in enumerate(predictions.classes):
        for name in sorted(set(subgroups) - {""}):
            inside = np.flatnonzero((predictions.labels == index) & (names == name))
            if not len(inside):
                continue
            part = predictions.only(inside)
            hits = (predicted[inside] == index).astype(np.float64)
            units = part.units()
            drawn = bootstrap(
                lambda weights, hits=hits: {"": weights @ hits / weights.sum(axis=1)},  # type: ignore[misc]
                units,
                resamples,
                seed,
            )
            value = float(hits.mean())
            low, high = proportion_interval(value, drawn[""], units)
            patients, groups = part.unit_counts()
            found.append(
                SubgroupRecall(
                    label, name, Estimate(value, low, high, len(inside)), patients, groups
                )
            )
    return tuple(found)
