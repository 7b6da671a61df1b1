"""Two networks' answers to the same images, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tumorlens.data.patients import PatientTable
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.proportions import Mask


@dataclass(frozen=True)
class Pair:
    """Two networks' answers to the same images, in the same order.

    Attributes:
        a, b: the answers; differences are b minus a.
        fold, seed: of the two runs; None where that is not known or has no meaning.
    """

    a: Predictions
    b: Predictions
    fold: int | None = None
    seed: int | None = None

    def only(self, keep: Mask) -> "Pair":
        """The images that `keep` marks."""
        return replace(self, a=self.a.only(keep), b=self.b.only(keep))

    def grouped(self, named: Mapping[str, str]) -> "Pair":
        """The same with the groups of `named`, by path; who is not named there is alone."""
        return replace(self, a=self.a.grouped(named), b=self.b.grouped(named))

    def of_patients(self, table: PatientTable) -> "Pair":
        """The same with the patients of a table, which knows images by path."""
        return replace(self, a=self.a.of_patients(table), b=self.b.of_patients(table))


def pair_up(
    a: Predictions, b: Predictions, fold: int | None = None, seed: int | None = None
) -> Pair:
    """Put two networks' answers side by side.

    Raises:
        TumorlensError: the images, their labels or the classes differ.
    """
    strangers = sorted(set(a.paths) ^ set(b.paths))
    if strangers:
        shared = len(set(a.paths) & set(b.paths))
        raise TumorlensError(
            f"{a.source} and {b.source}: differ in {len(strangers)} images ({strangers[0]} is in "
            f"one of them alone; {shared} are in both), and networks are compared on the same "
            "images; score both on the same part."
        )
    if set(a.classes) != set(b.classes):
        raise TumorlensError(
            f"{a.source} and {b.source}: have the classes {', '.join(a.classes)} and "
            f"{', '.join(b.classes)}; networks are compared on the same classes."
        )
    place = {path: index for index, path in enumerate(b.paths)}
    ordered = b.only(np.array([place[path] for path in a.paths], dtype=np.int64))
    columns = [b.classes.index(name) for name in a.classes]
    back = np.array([a.classes.index(name) for name in b.classes], dtype=np.int64)
    ordered = replace(
        ordered,
        classes=a.classes,
        labels=back[ordered.labels],
        probabilities=ordered.probabilities[:, columns],
    )
    differing = np.flatnonzero(ordered.labels != a.labels)
    if len(differing):
        raise TumorlensError(
            f"{a.source} and {b.source}: give {a.paths[differing[0]]} different labels; networks "
            "are compared on the same labels."
        )
    return Pair(a, ordered, fold, seed)
