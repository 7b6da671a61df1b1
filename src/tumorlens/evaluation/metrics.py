"""Every metric that a classifier is decided by, for one sample or for thousands of resamples.

Each function takes weights (B, N): row b says how often image n counts in resample b. A row of ones
is the sample itself, so a metric and its interval come from the same formula. Tests hold the
unweighted metrics against scikit-learn.

A metric that has no meaning (the recall of a class without images) is NaN; means over classes skip
it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorlens.evaluation.predictions import Predictions
from tumorlens.uncertainty.calibration import expected_calibration_error

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece")
PER_CLASS = ("recall", "precision", "specificity", "f1", "auroc", "average_precision")
NOTUMOR = "notumor"


def confusion(labels: Labels, predictions: Labels, classes: int, weights: Floats) -> Floats:
    """(B, K, K) weighted counts; rows are true classes, columns predicted ones."""
    cell = np.zeros((len(labels), classes * classes))
    cell[np.arange(len(labels)), labels * classes + predictions] = 1
    return (weights @ cell).reshape(len(weights), classes, classes)


def compute(
    labels: Labels, probabilities: Floats, classes: Sequence[str], weights: Floats | None = None
) -> dict[str, Floats]:
    """All metrics by name.

    Args:
        labels: (N,) indices into `classes`.
        probabilities: (N, K), rows sum to 1; the largest is the prediction.
        classes: K names.
        weights: (B, N) counts; None: one row of ones.

    Returns:
        (B,) arrays: those of `OVERALL`; METRIC_CLASS for each of `PER_CLASS`; the rates of
        `confusion_rates`, and the recall gap of glioma and meningioma. Log loss is in nats; Brier
        is the mean over images of the summed squared differences over classes, 0 to 2 (Brier 1950).
    """
    if weights is None:
        weights = np.ones((1, len(labels)))
    count = len(classes)
    predictions = probabilities.argmax(axis=1)
    table = confusion(labels, predictions, count, weights)
    found = from_confusion(table, classes)
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.clip(probabilities[np.arange(len(labels)), labels], 1e-15, 1)
        found["log_loss"] = weights @ -np.log(own) / total
        truth = np.eye(count)[labels]
        found["brier"] = weights @ ((probabilities - truth) ** 2).sum(axis=1) / total
        found["ece"] = expected_calibration_error(labels, probabilities, weights)
        for index, name in enumerate(classes):
            area, precision = ranking(labels == index, probabilities[:, index], weights)
            found[f"auroc_{name}"] = area
            found[f"average_precision_{name}"] = precision
    return found


def from_confusion(table: Floats, classes: Sequence[str]) -> dict[str, Floats]:
    """The metrics that counts alone decide, from (B, K, K) confusion matrices."""
    found: dict[str, Floats] = {}
    diagonal = np.diagonal(table, axis1=1, axis2=2)
    actual, predicted = table.sum(axis=2), table.sum(axis=1)
    total = table.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = diagonal / actual
        # Of a class without images every prediction is wrong: that is none of the class's metrics.
        precision = np.where(actual > 0, diagonal / predicted, np.nan)
        negatives = total[:, None] - actual
        specificity = (negatives - predicted + diagonal) / negatives
        # Of a class that is there but was never predicted F1 is 0; of an absent class it is none.
        f1 = np.where(actual > 0, 2 * diagonal / (actual + predicted), np.nan)
        found["accuracy"] = diagonal.sum(axis=1) / total
        found["balanced_accuracy"] = _mean(recall)
        found["macro_f1"] = _mean(f1)
        found["mcc"] = _matthews(diagonal, actual, predicted, total)
        for index, name in enumerate(classes):
            found[f"recall_{name}"] = recall[:, index]
            found[f"precision_{name}"] = precision[:, index]
            found[f"specificity_{name}"] = specificity[:, index]
            found[f"f1_{name}"] = f1[:, index]
        for name, (row, column) in confusion_rates(classes).items():
            found[name] = table[:, row, column] / actual[:, row]
        if {"glioma", "meningioma"} <= set(classes):
            found["recall_gap_meningioma_minus_glioma"] = (
                found["recall_meningioma"] - found["recall_glioma"]
            )
    return found


def confusion_rates(classes: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Name and cell of every rate at which one class is taken for another: "a->b"."""
    return {
        f"{true}->{taken}": (row, column)
        for row, true in enumerate(classes)
        for column, taken in enumerate(classes)
        if row != column
    }


def bias(table: Floats, classes: Sequence[str]) -> tuple[str, str] | None:
    """The two classes whose mutual confusion is reported by name.

    Glioma and meningioma where there are images of both; else the pair, with images of both, that
    has the largest sum of the two rates at which one is taken for the other; None without any.

    `table` has (K, K) counts, rows true.
    """
    actual = table.sum(axis=1)
    there = [name for name, count in zip(classes, actual, strict=True) if count]
    if {"glioma", "meningioma"} <= set(there):
        return "glioma", "meningioma"
    rates = table / np.maximum(actual[:, None], 1) * (actual > 0)
    mutual = np.triu(rates + rates.T, k=1)
    if not mutual.any():
        return None
    row, column = np.unravel_index(int(mutual.argmax()), mutual.shape)
    return classes[int(row)], classes[int(column)]


def tells_tumors(classes: Sequence[str]) -> bool:
    """Whether there is a class without tumor and at least two with one."""
    return NOTUMOR in classes and len(classes) > 2


def correct_among_tumors(
    labels: Labels, probabilities: Floats, classes: Sequence[str]
) -> tuple[Mask, Mask]:
    """(N,) which images show a tumor; (N,) of which of them the likeliest tumor class is true.

    In the public set the images without tumor come from other sources altogether, so that part of
    their recall is recognising the source. What is left without them, `notumor` rows and its
    probability removed, is the harder and more honest question.
    """
    absent = classes.index(NOTUMOR)
    tumor = labels != absent
    without = probabilities.copy()
    without[:, absent] = -1.0
    return tumor, tumor & (without.argmax(axis=1) == labels)


def share(metric: str, shown: Predictions) -> tuple[Mask, Mask] | None:
    """A metric that is a share of images: (N,) of which, and (N,) which of these count.

    Args:
        metric: "accuracy", "tumor_accuracy", "recall_CLASS", "precision_CLASS",
            "specificity_CLASS" or "TRUE->PREDICTED"; None is returned for any other.
        shown: the N images.
    """
    labels, predicted, classes = shown.labels, shown.predicted, shown.classes
    if metric == "accuracy":
        return np.ones(len(labels), dtype=bool), predicted == labels
    if metric == "tumor_accuracy" and tells_tumors(classes):
        return correct_among_tumors(labels, shown.probabilities, classes)
    kind, _, name = metric.partition("_")
    if name in classes:
        index = classes.index(name)
        actual, taken = labels == index, predicted == index
        if kind == "recall":
            return actual, actual & taken
        if kind == "precision":
            return taken, actual & taken
        return (~actual, ~actual & ~taken) if kind == "specificity" else None
    cell = confusion_rates(classes).get(metric)
    if cell is None:
        return None
    actual = labels == cell[0]
    return actual, actual & (predicted == cell[1])


def ranking(positive: Mask, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """One-vs-rest (B,) area under the ROC curve and average precision, ties counted as one step.

    Args:
        positive: (N,) whether each image is of the class.
        scores: (N,) its probability.
        weights: (B, N) counts.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    ordered = weights[:, order]
    hits = np.cumsum(ordered * positive[order], axis=1)[:, ends]
    alarms = np.cumsum(ordered * ~positive[order], axis=1)[:, ends]
    all_hits, all_alarms = hits[:, -1], alarms[:, -1]
    new_hits = np.diff(hits, axis=1, prepend=0)
    new_alarms = np.diff(alarms, axis=1, prepend=0)
    # A step adds the alarms it brings times the hits before it and half of those it brings.
    area = (new_alarms * (hits - new_hits / 2)).sum(axis=1) / (all_hits * all_alarms)
    seen = np.maximum(hits + alarms, 1e-300)
    precision = (new_hits * hits / seen).sum(axis=1) / all_hits
    return area, precision


def _mean(values: Floats) -> Floats:
    there = np.isfinite(values)
    summed = np.where(there, values, 0).sum(axis=1)
    return np.where(there.any(axis=1), summed / np.maximum(there.sum(axis=1), 1), np.nan)


def _matthews(diagonal: Floats, actual: Floats, predicted: Floats, total: Floats) -> Floats:
    # Gorodkin 2004, R_K; 0 where truth or prediction is one class alone, as scikit-learn has it.
    right = diagonal.sum(axis=1)
    covariance = right * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (actual**2).sum(axis=1))
    return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 1e-300)), 0.0)
