"""How well the tumors are told from one another: `notumor` rows and its probability removed.

In the public set the images without tumor come from other sources altogether, so that part of their
recall is recognising the source. What is left without them is the harder and more honest question.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorlens.evaluation.intervals import (
    Estimate,
    bootstrap,
    proportion_interval,
)

Floats = npt.NDArray[np.float64]

NOTUMOR = "notumor"


def asked(classes: Sequence[str]) -> bool:
    """Whether there is a class without tumor and at least two with one."""
    return NOTUMOR in classes and len(classes) > 2


def right_among_tumors(
    labels: npt.NDArray[np.int64], probabilities: Floats, classes: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which images show a tumor, and of which the likeliest tumor class is the true one.

    Args:
        labels: (N,) indices into `classes`.
        probabilities: (N, K).
        classes: K names, one of them "notumor".

    Returns:
        (N,) has a tumor; (N,) right, False where there is no tumor.
    """
    absent = list(classes).index(NOTUMOR)
    tumor = labels != absent
    without = probabilities.copy()
    without[:, absent] = -1.0
    return tumor, tumor & (without.argmax(axis=1) == labels)


def accuracy(
    labels: npt.NDArray[np.int64],
    probabilities: Floats,
    classes: Sequence[str],
    groups: npt.NDArray[np.int64],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate | None:
    """Accuracy over the tumor classes alone, with its 95% interval; None where it isn't asked.

    Args:
        labels, probabilities, classes: see `right_among_tumors`.
        groups: (N,) images of one group are resampled together.
        resamples, seed: of the interval.
    """
    if not asked(classes):
        return None
    tumor, right = right_among_tumors(labels, probabilities, classes)
    if not tumor.any():
        return None
    hits = right[tumor].astype(np.float64)
    value = float(hits.mean())
    drawn = bootstrap(
        lambda weights: {"": weights @ hits / weights.sum(axis=1)}, groups[tumor], resamples, seed
    )
    low, high = proportion_interval(value, drawn[""], groups[tumor])
    return Estimate(value, low, high, len(hits))
