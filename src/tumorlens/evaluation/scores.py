"""All metrics with intervals: of all images, and of those without a training near-duplicate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.patients import unit_words
from tumorlens.evaluation import metrics
from tumorlens.evaluation.intervals import (
    FEW,
    Estimate,
    bootstrap,
    percentile_interval,
    proportion_interval,
    share_estimate,
    with_width,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subset:
    """Metrics of one set of images.

    Attributes:
        name: "all", "without_exact_duplicates" or "without_near_duplicates".
        n: images.
        groups: groups among them.
        support: images of each class.
        confusion: (K, K) counts, rows true.
        metrics: by the names of `metrics.metrics`.
    """

    name: str
    n: int
    groups: int
    support: dict[str, int]
    confusion: npt.NDArray[np.int64]
    metrics: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return {
            "n": self.n,
            "groups": self.groups,
            "support": self.support,
            "confusion_matrix": self.confusion.tolist(),
            "metrics": {name: value.to_dict() for name, value in self.metrics.items()},
        }


@dataclass(frozen=True)
class Scores:
    """What `score` found.

    Attributes:
        classes: K names.
        all: every image.
        without_exact_duplicates: without images whose bytes are in training; None: not known.
        without_near_duplicates: without images that show an image of training; None: not known, or
            none left.
        leakage_inflation: metric by metric, `all` minus `without_near_duplicates`, on the same
            resamples.
        duplicates: how many images are "exact" and "near" near-duplicates, by class; None: not
            known.
        bias_pair: the two classes whose mutual confusion is named.
        resamples: behind each interval.
        unit: what they resample, in words.
    """

    classes: tuple[str, ...]
    all: Subset
    without_exact_duplicates: Subset | None
    without_near_duplicates: Subset | None
    leakage_inflation: dict[str, Estimate]
    duplicates: dict[str, dict[str, int]] | None
    bias_pair: tuple[str, str] | None
    resamples: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        exact, clean = self.without_exact_duplicates, self.without_near_duplicates
        return {
            "interval": f"95%, percentile bootstrap over {self.unit}, {self.resamples} resamples; "
            "exact (Clopper-Pearson over them) for proportions with fewer than "
            f"{FEW} right or wrong",
            "unit": self.unit,
            "bias_pair": list(self.bias_pair) if self.bias_pair else None,
            "duplicates_in_training": self.duplicates,
            "all": self.all.to_dict(),
            "without_exact_duplicates": exact.to_dict() if exact else None,
            "without_near_duplicates": clean.to_dict() if clean else None,
            "leakage_inflation": {
                name: value.to_dict() for name, value in self.leakage_inflation.items()
            },
        }


def score(
    labels: npt.NDArray[np.int64],
    probabilities: Floats,
    classes: Sequence[str],
    *,
    groups: npt.NDArray[np.int64] | None = None,
    unit: str | None = None,
    duplicates: npt.NDArray[np.str_] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Scores:
    """Score predictions.

    Args:
        labels: (N,) indices into `classes`.
        probabilities: (N, K), rows sum to 1.
        classes: K names.
        groups: (N,) images of one group are resampled together; None: each image for itself.
        unit: what the groups are, in words; None: as `patients.unit_words` has it of groups.
        duplicates: (N,) "", "exact" or "near": does training have the image? None: not known.
        seed: of the resamples.
        resamples: behind each interval.
    """
    if groups is None:
        groups = np.arange(len(labels))
    masks = {"all": np.ones(len(labels), dtype=bool)}
    if duplicates is not None:
        masks |= {
            "without_exact_duplicates": duplicates != "exact",
            "without_near_duplicates": duplicates == "",
        }
    masks = {name: mask for name, mask in masks.items() if mask.any()}

    def values_of(weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for name, mask in masks.items():
            part = metrics.compute(labels[mask], probabilities[mask], classes, weights[:, mask])
            found |= {f"{name}/{metric}": values for metric, values in part.items()}
        return found

    with np.errstate(invalid="ignore", divide="ignore"):
        point = {
            name: float(value[0]) for name, value in values_of(np.ones((1, len(labels)))).items()
        }
        resampled = bootstrap(values_of, groups, resamples, seed)
    subsets = {
        name: _subset(name, mask, labels, probabilities, classes, groups, point, resampled)
        for name, mask in masks.items()
    }
    clean = subsets.get("without_near_duplicates")
    return Scores(
        classes=tuple(classes),
        all=subsets["all"],
        without_exact_duplicates=subsets.get("without_exact_duplicates"),
        without_near_duplicates=clean,
        leakage_inflation=_leakage_inflation(subsets["all"], clean, resampled)
        if clean and clean.n < len(labels)
        else {},
        duplicates=None if duplicates is None else _count_duplicates(labels, classes, duplicates),
        bias_pair=metrics.bias(subsets["all"].confusion.astype(np.float64), classes),
        resamples=resamples,
        unit=unit or unit_words(0, len(np.unique(groups)), len(labels)),
    )


def tumor_accuracy(
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
        labels, probabilities, classes: see `metrics.correct_among_tumors`.
        groups: (N,) images of one group are resampled together.
        resamples, seed: of the interval.
    """
    if not metrics.tells_tumors(classes):
        return None
    tumor, right = metrics.correct_among_tumors(labels, probabilities, classes)
    if not tumor.any():
        return None
    hits = right[tumor].astype(np.float64)
    return share_estimate(hits, groups[tumor], resamples=resamples, seed=seed)


def _subset(
    name: str,
    mask: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    probabilities: Floats,
    classes: Sequence[str],
    groups: npt.NDArray[np.int64],
    point: dict[str, float],
    resampled: dict[str, Floats],
) -> Subset:
    predictions = probabilities.argmax(axis=1)
    table = metrics.confusion(
        labels[mask], predictions[mask], len(classes), np.ones((1, int(mask.sum())))
    )[0].astype(np.int64)
    estimates = {}
    for key, value in point.items():
        subset, metric = key.split("/", 1)
        if subset != name:
            continue
        low, high = percentile_interval(resampled[key])
        counted = _counted(metric, labels, predictions, classes)
        if counted is not None:
            low, high = proportion_interval(value, resampled[key], groups[mask & counted])
        elif value == 1.0 and metric != "balanced_accuracy":
            low, high = with_width(value, (low, high), _rarest(labels[mask], groups[mask]))
        if metric == "ece":
            # Resampling adds noise to every bin and so raises ECE: reflect its spread about the
            # value (Efron and Tibshirani 1993, sec. 13.4) instead of taking it as it is.
            low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
        n = int(mask.sum() if counted is None else (mask & counted).sum())
        estimates[metric] = Estimate(value, low, high, n)
    balanced = estimates["balanced_accuracy"]
    if balanced.low == balanced.high:  # one answer to everything, or every answer right
        recalls = [
            one
            for metric, one in estimates.items()
            if metric.startswith("recall_") and metric.removeprefix("recall_") in classes and one.n
        ]
        low, high = (
            float(np.mean([getattr(one, end) for one in recalls])) for end in ("low", "high")
        )
        estimates["balanced_accuracy"] = replace(balanced, low=low, high=high)
    return Subset(
        name=name,
        n=int(mask.sum()),
        groups=len(np.unique(groups[mask])),
        support={label: int((labels[mask] == index).sum()) for index, label in enumerate(classes)},
        confusion=table,
        metrics=estimates,
    )


def _counted(
    metric: str,
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    classes: Sequence[str],
) -> npt.NDArray[np.bool_] | None:
    """(N,) the images that a metric is a share of; None: it is no share of images."""
    if metric == "accuracy":
        return np.ones(len(labels), dtype=bool)
    if "->" in metric:
        marked: npt.NDArray[np.bool_] = labels == list(classes).index(metric.split("->", 1)[0])
        return marked
    kind, _, name = metric.partition("_")
    if name not in classes:
        return None
    index = list(classes).index(name)
    asked: dict[str, npt.NDArray[np.bool_]] = {
        "recall": labels == index,
        "specificity": labels != index,
        "precision": predictions == index,
    }
    return asked.get(kind)


def _rarest(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> int:
    """Groups of the class that has fewest."""
    return min(len(np.unique(groups[labels == index])) for index in np.unique(labels))


def _leakage_inflation(
    whole: Subset, clean: Subset, resampled: dict[str, Floats]
) -> dict[str, Estimate]:
    found = {}
    for metric, value in whole.metrics.items():
        left = clean.metrics[metric]
        low, high = percentile_interval(
            resampled[f"all/{metric}"] - resampled[f"without_near_duplicates/{metric}"]
        )
        if low == high:  # no resample differed; then as far apart as the two intervals let them
            low, high = value.low - left.high, value.high - left.low
        found[metric] = Estimate(value.value - left.value, low, high, clean.n)
    return found


def _count_duplicates(
    labels: npt.NDArray[np.int64], classes: Sequence[str], duplicates: npt.NDArray[np.str_]
) -> dict[str, dict[str, int]]:
    return {
        kind: {
            name: int(((duplicates == kind) & (labels == index)).sum())
            for index, name in enumerate(classes)
        }
        for kind in ("exact", "near")
    }
