"""Where decisions lie: an offset for each class's log-probability, fitted on validation images.

An offset moves predictions between classes after training, without another network (Menon et al.
2021, "Long-tail learning via logit adjustment", section 4.1, where it is -tau log of the class's
share; here it is searched for). What it costs is known before it is chosen: the frontier of
accuracy against the recall of the worst class.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tumorlens.evaluation.intervals import resampled_weights

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# What is wanted: how much the worst class's recall counts, the rest is accuracy or the mean recall.
GOALS = {"accuracy": (0.0, False), "balanced_accuracy": (0.0, True), "worst_class": (0.99, False)}
_PRICE = 1e-3  # what an offset of 1 must gain to be taken
_SWEEPS = 20  # over the classes; a fit settles in five or six
# Shares of the fitted offsets that are tried on the patients left out; of equal ones the first.
_PARTS = (1.0, 0.75, 0.5, 0.25, 0.0)
_DRAWS = 20  # resamples of the patients whose offsets are averaged


@dataclass(frozen=True)
class OperatingPoint:
    """Offsets, and what they do on the images that they were fitted on."""

    goal: str  # one of `GOALS`, "none", or the share of the worst class in what was wanted
    offsets: tuple[float, ...]  # (K,) added to the log-probabilities, nats; their mean is 0
    recall: tuple[float, ...]  # (K,) of each class
    # accuracy, worst_class: share of the images that is right, and the lowest recall
    accuracy: float
    worst_class: float
    # held_out_recall, held_out_accuracy, held_out_worst_class: the same, each image with the
    # offsets of the resamples that left its patient out
    held_out_recall: tuple[float, ...]
    held_out_accuracy: float
    held_out_worst_class: float

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def fit_offsets(
    labels: Labels, log_probabilities: Floats, groups: Labels, goal: str, *, seed: int = 0
) -> OperatingPoint:
    """The offsets that serve `goal` best, averaged over resamples of the patients.

    The average moves less with a few patients than the best offsets of one sample do. Of it that
    share is taken which serves the patients left out of the resamples best; it may be none.

    Args:
        labels: (N,) of images that the network did not learn from; every class is among them.
        log_probabilities: (N, K).
        groups: (N,) images of one group, such as a patient, are resampled together.
        goal: one of `GOALS`, "none", or a number from 0, accuracy alone, to 1, the worst class's
            recall alone.
    """
    count = log_probabilities.shape[1]
    truth = np.eye(count)[labels]
    shares = truth.mean(axis=0)
    worst, balanced = (0.0, False) if goal == "none" else GOALS.get(goal) or (float(goal), False)
    wanted = np.full(count, 1 / count) if balanced else shares
    drawn, found = np.concatenate(list(resampled_weights(groups, _DRAWS, seed))), []
    for weights in drawn:
        mine = weights > 0
        weighted = truth[mine] * weights[mine, None]
        fitted = _climb(weighted, log_probabilities[mine], wanted, worst)
        found.append(fitted if goal != "none" else np.zeros(count))
    # Each image with the mean of the offsets that were fitted without its group.
    out = (drawn == 0).astype(np.float64).T
    seen = truth * (out.sum(axis=1, keepdims=True) > 0)
    without = out @ np.array(found) / np.maximum(out.sum(axis=1, keepdims=True), 1)
    hits = [(seen * _predicted(log_probabilities + part * without)).sum(axis=0) for part in _PARTS]
    with np.errstate(invalid="ignore"):  # NaN: no resample left a group of the class out
        every = np.array(hits) / seen.sum(axis=0)
    best = int(_value(np.nan_to_num(every, nan=1.0), wanted, worst).argmax())
    mean, held_out = _PARTS[best] * np.mean(found, axis=0), every[best]
    right = truth.astype(bool) & _predicted(log_probabilities + mean)
    recall = right.sum(axis=0) / truth.sum(axis=0)
    return OperatingPoint(
        goal,
        tuple(mean.tolist()),
        tuple(recall.tolist()),
        float(recall @ shares),
        float(recall.min()),
        tuple(held_out.tolist()),
        float(held_out @ shares),
        float(held_out.min()),
    )


def _predicted(scores: Floats) -> npt.NDArray[np.bool_]:
    """(N, K) whether each class is the one with the highest score."""
    found: npt.NDArray[np.bool_] = np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]
    return found


def _value(recall: Floats, shares: Floats, worst: float) -> Floats:
    """(M, K) recalls to (M,): `worst` times the lowest, the rest the mean by `shares`."""
    found: Floats = (1 - worst) * recall @ shares + worst * recall.min(axis=1)
    return found


def _climb(weights: Floats, scores: Floats, shares: Floats, worst: float) -> Floats:
    """One class's offset after another is set to the best there is, until none moves.

    The offsets that differ lie between one image's change of class and the next's. `weights` (N, K)
    count an image in the column of its class; `worst` is the weight of the lowest recall, 1 - worst
    that of the mean by `shares`.
    """
    total, offsets = weights.sum(axis=0), np.zeros(scores.shape[1])
    for _ in range(_SWEEPS):
        before = offsets.copy()
        for label in range(len(offsets)):
            others = scores + offsets
            others[:, label] = -np.inf
            needed = others.max(axis=1) - scores[:, label]  # to be predicted as this class
            order = np.argsort(needed)
            needed, without = needed[order], weights * _predicted(others)
            change = -without[order]
            change[:, label] += weights[order, label]
            hits = without.sum(axis=0) + np.cumsum(np.insert(change, 0, 0, axis=0), axis=0)
            ends = np.unique(needed.round(9))
            tried = np.append((ends[1:] + ends[:-1]) / 2, [0.0, offsets[label]])
            reached = hits[np.searchsorted(needed, tried)]
            recall = np.where(total > 0, reached / np.maximum(total, 1e-300), 1.0)
            value = _value(recall, shares, worst) - _PRICE * abs(tried)
            offsets[label] = tried[value.argmax()]
        if (offsets == before).all():
            break
    centred: Floats = offsets - offsets.mean()
    return centred


def frontier(labels: Labels, log_probabilities: Floats, groups: Labels) -> list[OperatingPoint]:
    """Operating points without offsets, for each of `GOALS`, and from accuracy to worst class."""
    goals = ["none", *GOALS, "0.2", "0.4", "0.6", "0.8"]
    return [fit_offsets(labels, log_probabilities, groups, goal) for goal in goals]


def frontier_figure(points: Sequence[OperatingPoint], title: str) -> Figure:
    """Accuracy against the worst class's recall: held-out patients, and those of the fit."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, colour, marker in (("held_out_", "#0072B2", "o"), ("", "#666666", "x")):
        across = [100 * getattr(one, f"{name}worst_class") for one in points]
        up = [100 * getattr(one, f"{name}accuracy") for one in points]
        label = "left out of the fit" if name else "of the fit"
        axes.scatter(across, up, color=colour, marker=marker, label=label)
        for one, x, y in zip(points, across, up, strict=True):
            if name and (one.goal in GOALS or one.goal == "none"):
                words = "no offsets" if one.goal == "none" else one.goal.replace("_", " ")
                axes.annotate(words, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9)
    axes.set_xlabel("recall of the worst class, %")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=9)
    return figure
