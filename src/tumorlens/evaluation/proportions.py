"""Figures that are shares of images: which images each asks, and which of those it counts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorlens.evaluation import tumor_classes
from tumorlens.evaluation.predictions import Predictions

Mask = npt.NDArray[np.bool_]


def proportions(
    answers: Predictions, confusions: Sequence[tuple[str, str]] = ()
) -> dict[str, tuple[Mask, Mask]]:
    """Figure to (N,) asked and (N,) counted: accuracy, recalls, tumor-only accuracy, confusions.

    Args:
        answers: to N images.
        confusions: classes, true and answered, whose "TRUE->ANSWERED" is wanted too.
    """
    classes, labels = answers.classes, answers.labels
    predicted = answers.probabilities.argmax(axis=1)
    right = predicted == labels
    found = {"accuracy": (np.ones(len(labels), dtype=bool), right)}
    if tumor_classes.asked(classes):
        found["tumor_accuracy"] = tumor_classes.right_among_tumors(
            labels, answers.probabilities, classes
        )
    for index, name in enumerate(classes):
        found[f"recall_{name}"] = (labels == index, right & (labels == index))
    for one, other in confusions:
        asked = labels == classes.index(one)
        found[f"{one}->{other}"] = (asked, asked & (predicted == classes.index(other)))
    return found
