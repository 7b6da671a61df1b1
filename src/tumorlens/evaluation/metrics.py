"""How good are predictions? Every figure of a classification, as scikit-learn defines them.

What is undefined is NaN, and null in JSON: the recall of a class without images, the AUROC where
one side is missing, the precision of a class that was never predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)

from tumorlens.evaluation.calibration import expected_calibration_error

HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece")
PER_CLASS = ("precision", "recall", "specificity", "f1", "auroc", "average_precision")
# The pair whose confusion this project is about.
BIAS_PAIR = ("glioma", "meningioma")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassMetrics:
    """One class against all others.

    Attributes:
        name: of the class.
        support: images of it.
        precision: share of the images predicted as it that are it.
        recall: share of its images predicted as it (sensitivity).
        specificity: share of the other images not predicted as it.
        f1: harmonic mean of precision and recall; 0 if never right, NaN without images of it.
        auroc: chance that an image of it scores above another one, ties counting half.
        average_precision: precision averaged over the ranks of its images (not interpolated).
    """

    name: str
    support: int
    precision: float
    recall: float
    specificity: float
    f1: float
    auroc: float
    average_precision: float


@dataclass(frozen=True)
class Bias:
    """How differently two classes fare, and how often each is taken for the other.

    Attributes:
        first, second: class names: glioma and meningioma where the data have both, else the pair
            most often taken for each other.
        by_name: False where the pair was picked because it is the worst on these images, which
            makes its figures look worse than new images will.
        first_recall, second_recall: 0..1.
        gap: second_recall - first_recall; above 0 the first class is missed more often.
        first_as_second: share of the first class's images predicted as the second.
        second_as_first: share of the second class's images predicted as the first.
    """

    first: str
    second: str
    by_name: bool
    first_recall: float
    second_recall: float
    gap: float
    first_as_second: float
    second_as_first: float


@dataclass(frozen=True)
class Metrics:
    """Every figure of one set of predictions.

    Attributes:
        classes: names, in the order of the confusion matrix.
        n: images.
        accuracy: share of right predictions.
        balanced_accuracy: mean recall of the classes that have images.
        macro_f1: mean F1 of the classes that have images.
        mcc: Matthews' correlation for any number of classes (Gorodkin 2004), -1..1; NaN when all
            images are of one class, 0 when all predictions are.
        log_loss: mean -ln(probability of the true class), in nats.
        brier: mean over images of the sum over classes of (probability - truth)^2, 0..2
            (Brier 1950).
        ece: expected calibration error, 15 equal-width bins (`calibration`).
        per_class: in the order of `classes`.
        confusion: (K, K) int64, rows are true classes, columns predictions.
        bias: of the pair in question; None with fewer than two classes.
    """

    classes: tuple[str, ...]
    n: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    mcc: float
    log_loss: float
    brier: float
    ece: float
    per_class: tuple[ClassMetrics, ...]
    confusion: Ints
    bias: Bias | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: primitives; what is undefined is None."""
        figures: dict[str, Any] = {"n": self.n}
        figures |= {name: _or_none(getattr(self, name)) for name in HEADLINE}
        figures["per_class"] = {
            each.name: {
                "support": each.support,
                **{name: _or_none(getattr(each, name)) for name in PER_CLASS},
            }
            for each in self.per_class
        }
        figures["confusion"] = self.confusion.tolist()
        bias = None if self.bias is None else vars(self.bias)
        figures["bias"] = bias and {key: _or_none(value) for key, value in bias.items()}
        return figures


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, classes: Sequence[str]
) -> Metrics:
    """Every figure of `probabilities` against `labels`. The prediction is the likeliest class.

    Args:
        labels: (N,) class numbers, N >= 1.
        probabilities: (N, K), rows sum to 1.
        classes: K names.

    Raises:
        ValueError: shapes, labels or probabilities that cannot be.
    """
    truth, likelihood = checked(labels, probabilities, len(classes))
    numbers = range(len(classes))
    predicted = likelihood.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, labels=numbers).astype(np.int64)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=numbers, zero_division=np.nan
    )
    present = support > 0
    several = np.count_nonzero(present) > 1
    specificity = specificities(confusion)
    per_class = []
    for number, name in enumerate(classes):
        ranked = (truth == number, likelihood[:, number])
        both = 0 < support[number] < len(truth)
        per_class.append(
            ClassMetrics(
                name=name,
                support=int(support[number]),
                precision=float(precision[number]),
                recall=float(recall[number]),
                specificity=float(specificity[number]),
                # scikit-learn gives 0 to a class without images that was predicted
                f1=float(f1[number]) if present[number] else math.nan,
                auroc=float(roc_auc_score(*ranked)) if both else math.nan,
                average_precision=float(average_precision_score(*ranked)) if both else math.nan,
            )
        )
    return Metrics(
        classes=tuple(classes),
        n=len(truth),
        accuracy=float(np.mean(predicted == truth)),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        mcc=float(matthews_corrcoef(truth, predicted)) if several else math.nan,
        log_loss=float(log_losses(truth, likelihood).mean()),
        brier=float(brier_scores(truth, likelihood).mean()),
        ece=expected_calibration_error(truth, likelihood),
        per_class=tuple(per_class),
        confusion=confusion,
        bias=_bias(confusion, classes),
    )


def checked(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, num_classes: int
) -> tuple[Ints, Floats]:
    """`labels` as (N,) int64 and `probabilities` as (N, K) float64, if they can be scored.

    Raises:
        ValueError: no images, or shapes, labels or probabilities that cannot be.
    """
    truth = np.asarray(labels).astype(np.int64)
    likelihood = np.asarray(probabilities, dtype=np.float64)
    if likelihood.shape != (len(truth), num_classes) or not likelihood.size:
        raise ValueError(
            f"probabilities have shape {likelihood.shape}, expected ({len(truth)}, {num_classes}) "
            "and at least one image"
        )
    if truth.min() < 0 or truth.max() >= num_classes:
        raise ValueError(f"labels reach {truth.min()}..{truth.max()}, there are {num_classes}")
    if not np.isfinite(likelihood).all() or likelihood.min() < 0:
        bad = int((~np.isfinite(likelihood) | (likelihood < 0)).any(axis=1).sum())
        raise ValueError(f"probabilities of {bad} images are negative or not finite")
    if np.abs(likelihood.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("probabilities do not sum to 1 in each row")
    return truth, likelihood


def log_losses(labels: Ints, probabilities: Floats) -> Floats:
    """(N,) -ln(probability of the true class); one of 0 counts as 2.2e-16, as in scikit-learn."""
    of_truth = probabilities[np.arange(len(labels)), labels]
    losses: Floats = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    return losses


def brier_scores(labels: Ints, probabilities: Floats) -> Floats:
    """(N,) sum over classes of (probability - truth)^2, 0..2."""
    truth = np.eye(probabilities.shape[1])[labels]
    scores: Floats = ((probabilities - truth) ** 2).sum(axis=1)
    return scores


def specificities(confusion: npt.NDArray[Any]) -> Floats:
    """(..., K, K) confusion matrices to (..., K) true negative rates."""
    total = confusion.sum(axis=(-2, -1))[..., None]
    truly, said = confusion.sum(axis=-1), confusion.sum(axis=-2)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return ratio(total - truly - said + right, total - truly)


def ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """`part` / `whole`, NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    undefined = np.full(part.shape, np.nan)
    quotient: Floats = np.divide(part, whole, out=undefined, where=whole != 0)
    return quotient


def bias_pair(confusion: Ints, classes: Sequence[str]) -> tuple[int, int, bool] | None:
    """Which two classes the bias figures are about, and whether they were chosen by name.

    Glioma and meningioma where `classes` has both; else the two with the highest sum of the rates
    at which each is taken for the other, the first pair where several are equal.
    """
    if len(classes) < 2:
        return None
    if set(BIAS_PAIR) <= set(classes):
        return classes.index(BIAS_PAIR[0]), classes.index(BIAS_PAIR[1]), True
    rates = np.nan_to_num(ratio(confusion, confusion.sum(axis=1, keepdims=True)))
    mutual = np.triu(rates + rates.T, k=1)
    mutual[np.tril_indices(len(classes))] = -1
    first, second = np.unravel_index(int(mutual.argmax()), mutual.shape)
    return int(first), int(second), False


def confusion_rates(confusion: npt.NDArray[Any]) -> Floats:
    """(..., K, K) counts to the share of each true class's images; rows sum to 1 or are NaN."""
    return ratio(confusion, confusion.sum(axis=-1, keepdims=True))


def _bias(confusion: Ints, classes: Sequence[str]) -> Bias | None:
    pair = bias_pair(confusion, classes)
    if pair is None:
        return None
    first, second, by_name = pair
    rates = confusion_rates(confusion)
    return Bias(
        first=classes[first],
        second=classes[second],
        by_name=by_name,
        first_recall=float(rates[first, first]),
        second_recall=float(rates[second, second]),
        gap=float(rates[second, second] - rates[first, first]),
        first_as_second=float(rates[first, second]),
        second_as_first=float(rates[second, first]),
    )
