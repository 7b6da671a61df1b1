"""Sets of classes that hold the true one as often as was asked, for every class. No torch.

A set has each class whose probability is at least what images of that class have, all but a share
of them (Mondrian conformal prediction: Vovk 2012, "Conditional validity of inductive conformal
predictors"). The images of a patient are one observation among patients (Lee, Barber and Willett
2023, "Distribution-free inference with hierarchical data", section 3.1): what is promised is
promised of an image of a patient who was not there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.errors import TumorlensError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conformal:
    """How probable their own class was for the calibration images of each of K classes.

    Attributes:
        unit: what is independent, "patients" or "groups of near-duplicates".
        counts: (K,) how many of them.
        probabilities: (K,) of the images of each class, ascending.
        weights: (K,) of the same images; 1 / (count + 1) for each unit, divided among its images.

    Raises:
        ValueError: they do not fit one another.
    """

    unit: str
    counts: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        lists = zip(self.counts, self.probabilities, self.weights, strict=True)
        if not all(len(one) == len(other) >= count >= 0 for count, one, other in lists):
            raise ValueError("calibration scores of a class do not fit one another")

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Conformal":
        """From what a checkpoint or an exported file keeps, `vars` of one."""
        return cls(
            str(content["unit"]),
            tuple(map(int, content["counts"])),
            *(
                tuple(tuple(map(float, one)) for one in content[name])
                for name in ("probabilities", "weights")
            ),
        )

    def least(self, coverage: float, classes: Sequence[str]) -> tuple[float, ...]:
        """(K,) the least probability with which a class is in a set.

        Args:
            coverage: share of the images of each class whose set has it, above 0, below 1.
            classes: K names.

        Raises:
            TumorlensError: a class has too few patients for that.
        """
        found = []
        for index, name in enumerate(classes):
            reached = np.cumsum(self.weights[index][::-1])
            at = int(np.searchsorted(reached, coverage - 1e-9))
            count = self.counts[index]
            if at == len(reached):
                needed = int(np.ceil(coverage / (1 - coverage) - 1e-9))
                most = np.floor(100 * count / (count + 1)) / 100
                raise TumorlensError(
                    f"--coverage {coverage:g}: needs {needed} calibration {self.unit} of each "
                    f"class, {name} has {count}; ask for {most:g} or less, or calibrate with more "
                    "validation images (`tumorlens calibrate`)."
                )
            found.append(self.probabilities[index][::-1][at])
        return tuple(found)


def scores_of(
    labels: npt.NDArray[np.int64],
    probabilities: Floats,
    units: npt.NDArray[np.int64],
    *,
    known: bool,
) -> Conformal:
    """What calibration images tell.

    Args:
        labels: (N,) of images that the network did not learn from, every class among them.
        probabilities: (N, K), as they will be predicted.
        units: (N,) patient of each image, or group of near-duplicates.
        known: whether patients are.
    """
    unit = "patients" if known else "groups of near-duplicates"
    counts, ordered, weights = [], [], []
    for label in range(probabilities.shape[1]):
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(probabilities[mine, label])]
        _, member, images = np.unique(units[mine], return_inverse=True, return_counts=True)
        counts.append(len(images))
        ordered.append(tuple(probabilities[mine, label].tolist()))
        weights.append(tuple((1 / (len(images) + 1) / images[member]).tolist()))
    return Conformal(unit, tuple(counts), tuple(ordered), tuple(weights))


def in_sets(probabilities: Floats, least: Sequence[float]) -> npt.NDArray[np.bool_]:
    """(N, K) probabilities to which classes each image's set has.

    The most probable class is always in it: that can only add to the coverage.
    """
    found: npt.NDArray[np.bool_] = probabilities >= np.array(least)
    found[np.arange(len(found)), probabilities.argmax(axis=1)] = True
    return found
