"""All figures with intervals: of all images, of those without a copy in training, and the gap."""

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
    """Figures of one set of images.

    Attributes:
        name: "all", "without_exact_copies" or "without_copies".
        n: images.
        groups: groups among them.
        support: images of each class.
        confusion: (K, K) counts, rows true.
        figures: by the names of `metrics.figures`.
    """

    name: str
    n: int
    groups: int
    support: dict[str, int]
    confusion: npt.NDArray[np.int64]
    figures: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return {
            "n": self.n,
            "groups": self.groups,
            "support": self.support,
            "confusion_matrix": self.confusion.tolist(),
            "figures": {name: value.to_dict() for name, value in self.figures.items()},
        }


@dataclass(frozen=True)
class Scores:
    """What `score` found.

    Attributes:
        classes: K names.
        all: every image.
        without_exact_copies: without images whose bytes are in training; None: not known.
        without_copies: without images that show a picture of training; None: not known, or none
            left.
        flattery: figure by figure, `all` minus `without_copies`, on the same resamples.
        copies: how many images are "exact" and "near" copies, by class; None: not known.
        bias_pair: the two classes whose mutual confusion is named.
        resamples: behind each interval.
        unit: what they resample, in words.
    """

    classes: tuple[str, ...]
    all: Subset
    without_exact_copies: Subset | None
    without_copies: Subset | None
    flattery: dict[str, Estimate]
    copies: dict[str, dict[str, int]] | None
    bias_pair: tuple[str, str] | None
    resamples: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        exact, clean = self.without_exact_copies, self.without_copies
        return {
            "interval": f"95%, percentile bootstrap over {self.unit}, {self.resamples} resamples; "
            "exact (Clopper-Pearson over them) for proportions with fewer than "
            f"{FEW} right or wrong",
            "unit": self.unit,
            "bias_pair": list(self.bias_pair) if self.bias_pair else None,
            "copies_in_training": self.copies,
            "all": self.all.to_dict(),
            "without_exact_copies": exact.to_dict() if exact else None,
            "without_copies": clean.to_dict() if clean else None,
            "flattery": {name: value.to_dict() for name, value in self.flattery.items()},
        }


def score(
    labels: npt.NDArray[np.int64],
    probabilities: Floats,
    classes: Sequence[str],
    *,
    groups: npt.NDArray[np.int64] | None = None,
    unit: str | None = None,
    copies: npt.NDArray[np.str_] | None = None,
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
        copies: (N,) "", "exact" or "near": does training have the image? None: not known.
        seed: of the resamples.
        resamples: behind each interval.
    """
    if groups is None:
        groups = np.arange(len(labels))
    masks = {"all": np.ones(len(labels), dtype=bool)}
    if copies is not None:
        masks |= {"without_exact_copies": copies != "exact", "without_copies": copies == ""}
    masks = {name: mask for name, mask in masks.items() if mask.any()}

    def figures(weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for name, mask in masks.items():
            part = metrics.figures(labels[mask], probabilities[mask], classes, weights[:, mask])
            found |= {f"{name}/{figure}": values for figure, values in part.items()}
        return found

    with np.errstate(invalid="ignore", divide="ignore"):
        point = {
            name: float(value[0]) for name, value in figures(np.ones((1, len(labels)))).items()
        }
        resampled = bootstrap(figures, groups, resamples, seed)
    subsets = {
        name: _subset(name, mask, labels, probabilities, classes, groups, point, resampled)
        for name, mask in masks.items()
    }
    clean = subsets.get("without_copies")
    return Scores(
        classes=tuple(classes),
        all=subsets["all"],
        without_exact_copies=subsets.get("without_exact_copies"),
        without_copies=clean,
        flattery=_flattery(subsets["all"], clean, resampled)
        if clean and clean.n < len(labels)
        else {},
        copies=None if copies is None else _count_copies(labels, classes, copies),
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
        labels, probabilities, classes: see `metrics.right_among_tumors`.
        groups: (N,) images of one group are resampled together.
        resamples, seed: of the interval.
    """
    if not metrics.tells_tumors(classes):
        return None
    tumor, right = metrics.right_among_tumors(labels, probabilities, classes)
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
        subset, figure = key.split("/", 1)
        if subset != name:
            continue
        low, high = percentile_interval(resampled[key])
        counted = _counted(figure, labels, predictions, classes)
        if counted is not None:
            low, high = proportion_interval(value, resampled[key], groups[mask & counted])
        elif value == 1.0 and figure != "balanced_accuracy":
            low, high = with_width(value, (low, high), _rarest(labels[mask], groups[mask]))
        if figure == "ece":
            # Resampling adds noise to every bin and so raises ECE: reflect its spread about the
            # value (Efron and Tibshirani 1993, sec. 13.4) instead of taking it as it is.
            low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
        n = int(mask.sum() if counted is None else (mask & counted).sum())
        estimates[figure] = Estimate(value, low, high, n)
    balanced = estimates["balanced_accuracy"]
    if balanced.low == balanced.high:  # one answer to everything, or every answer right
        recalls = [
            one
            for figure, one in estimates.items()
            if figure.startswith("recall_") and figure.removeprefix("recall_") in classes and one.n
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
        figures=estimates,
    )


def _counted(
    figure: str,
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    classes: Sequence[str],
) -> npt.NDArray[np.bool_] | None:
    """(N,) the images that a figure is a share of; None: it is no share of images."""
    if figure == "accuracy":
        return np.ones(len(labels), dtype=bool)
    if "->" in figure:
        marked: npt.NDArray[np.bool_] = labels == list(classes).index(figure.split("->", 1)[0])
        return marked
    kind, _, name = figure.partition("_")
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


def _flattery(whole: Subset, clean: Subset, resampled: dict[str, Floats]) -> dict[str, Estimate]:
    found = {}
    for figure, value in whole.figures.items():
        left = clean.figures[figure]
        low, high = percentile_interval(
            resampled[f"all/{figure}"] - resampled[f"without_copies/{figure}"]
        )
        if low == high:  # no resample differed; then as far apart as the two intervals let them
            low, high = value.low - left.high, value.high - left.low
        found[figure] = Estimate(value.value - left.value, low, high, clean.n)
    return found


def _count_copies(
    labels: npt.NDArray[np.int64], classes: Sequence[str], copies: npt.NDArray[np.str_]
) -> dict[str, dict[str, int]]:
    return {
        kind: {
            name: int(((copies == kind) & (labels == index)).sum())
            for index, name in enumerate(classes)
        }
        for kind in ("exact", "near")
    }
