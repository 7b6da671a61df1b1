"""The same images under named, graded changes of display and acquisition: what do they cost?

The changes are made on the square that the network is shown, before its preprocessing.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from tumorlens.checkpoint.session import Session, describe
from tumorlens.data.display_changes import CHANGES, EVERYDAY, DisplayChange
from tumorlens.evaluation.intervals import (
    Estimate,
    percentile_interval,
    proportion_interval,
    resampled_weights,
)
from tumorlens.evaluation.predictions import Predictions, unit_words

Floats = npt.NDArray[np.float64]
_ALL_UP_TO = 500  # images; of more, every second is changed


@dataclass(frozen=True)
class Stressed:
    """Images under one change at one grade."""

    change: str  # its name in `display_changes.CHANGES`
    grade: int  # 1 to 5
    value: float  # of the change, in its unit
    unit: str
    accuracy: Estimate  # with a 95% interval over patients or groups
    loss: Estimate  # accuracy of the unchanged images minus `accuracy`, on the same resamples
    recall: dict[str, float]  # by class, those that have images
    flipped: float  # share of the images whose predicted class changed
    # Of images that were right and are now wrong, the share that is not called "confident", and of
    # all images those that are wrong and "confident"; None: nothing is lost, or there is no rule.
    noticed: float | None
    confident_errors: float | None

    @property
    def everyday(self) -> bool:
        """Whether display and resizing do this every day."""
        return self.grade <= EVERYDAY


@dataclass(frozen=True)
class Stress:
    """What changes of display cost a network."""

    unchanged: Estimate  # accuracy of the same images as they are
    rows: tuple[Stressed, ...]  # each change and grade
    resampled: str  # what the intervals resample
    images: int  # how many there are
    of: int  # and of how many they were taken

    @property
    def worst_everyday(self) -> Stressed:
        """The change up to grade 3 that costs most accuracy."""
        return min((row for row in self.rows if row.everyday), key=lambda row: row.accuracy.value)

    @property
    def sentence(self) -> str:
        """The worst, in words."""
        worst = self.worst_everyday
        some = "" if self.images == self.of else f" ({self.images:,} of {self.of:,} images)"
        return (
            f"Stress{some}: of everyday changes of display, {worst.change} costs most: accuracy "
            f"{self.unchanged.value:.3f} -> {worst.accuracy.value:.3f} "
            f"({worst.accuracy.low:.3f}-{worst.accuracy.high:.3f}); {worst.flipped:.0%} of the "
            "predictions change."
        )

    def to_dict(self) -> dict[str, Any]:
        """As primitives, for stress.json."""
        worst = self.worst_everyday
        return {
            "images": self.images,
            "of": self.of,
            "resampled": self.resampled,
            "everyday_grades": list(range(1, EVERYDAY + 1)),
            "unchanged": self.unchanged.to_dict(),
            "worst_everyday": {"change": worst.change, "grade": worst.grade},
            "changes": [asdict(row) | {"everyday": row.everyday} for row in self.rows],
        }


def stress(
    session: Session,
    predictions: Predictions,
    *,
    quick: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Stress:
    """Score a session's images under every change and grade; of more than 500, every second.

    `quick`: the highest everyday grade alone, of every fourth image of each class.
    """
    every = len(session.data.labels)
    keep = _every(4 if quick else 1 if every <= _ALL_UP_TO else 2, session.data.labels)
    some, units = session.only(keep), predictions.units[keep]
    plan = [
        (name, change, grade, value)
        for name, change in CHANGES.items()
        for grade, value in change.grades.items()
        if not quick or grade == EVERYDAY
    ]
    answers = []
    for done, (_, change, _, value) in enumerate(plan):
        answers.append(_answers(some, change, value))
        session.progress("changing display", done + 1, len(plan))
    labels, before = some.data.labels, session.logits[keep].argmax(axis=1)
    right = np.stack([before == labels, *(one[0] == labels for one in answers)], axis=1)
    shares = right.astype(np.float64)
    weights = resampled_weights(units, resamples, seed)
    drawn = np.concatenate([w @ shares / w.sum(axis=1)[:, None] for w in weights])

    def estimate(column: int, minus: int | None = None) -> Estimate:
        value, spread = float(shares[:, column].mean()), drawn[:, column]
        if minus is None:
            return Estimate(value, *proportion_interval(value, spread, units), len(labels))
        value, spread = value - float(shares[:, minus].mean()), spread - drawn[:, minus]
        return Estimate(value, *percentile_interval(spread), len(labels))

    there = [(name, labels == at) for at, name in enumerate(some.data.classes)]
    unit = unit_words([predictions.only(keep)])
    decides = some.checkpoint.uncertainty_threshold is not None
    rows = []
    for at, ((name, change, grade, value), answer) in enumerate(zip(plan, answers, strict=True), 1):
        predicted, sure = answer
        hit, lost = right[:, at], right[:, 0] & ~right[:, at]
        rows.append(
            Stressed(
                name,
                grade,
                value,
                change.unit,
                accuracy=estimate(at),
                loss=estimate(0, minus=at),
                recall={label: float(hit[mask].mean()) for label, mask in there if mask.any()},
                flipped=float((predicted != before).mean()),
                noticed=float((~sure[lost]).mean()) if decides and lost.any() else None,
                confident_errors=float((sure & ~hit).mean()) if decides else None,
            )
        )
    return Stress(estimate(0), tuple(rows), unit, len(labels), every)


def _every(step: int, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Every `step`-th image of each class, in the images' order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[::step] for k in np.unique(labels)]))


def _answers(
    session: Session, change: DisplayChange, value: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(N,) predicted classes of changed images, and which of them are confident."""
    rule = session.checkpoint.decision()
    logits, features = describe(
        session.network,
        change.before(session.checkpoint.preprocessing, value),
        session.data.images,
        device=session.device,
        batch_size=session.batch_size,
    )
    sure = [one.decision == "confident" for one in rule.decide(logits, features)]
    return logits.argmax(axis=1), np.array(sure, dtype=bool)


def stress_figure(found: Stress, title: str) -> Figure:
    """A row a change, a column a grade: accuracy in each cell, the costliest change on top.

    `title` names the network and the images.
    """
    cells: dict[str, dict[int, Stressed]] = {}
    for row in found.rows:
        cells.setdefault(row.change, {})[row.grade] = row
    names = sorted(
        cells,
        key=lambda name: min(c.accuracy.value for c in cells[name].values() if c.everyday),
    )
    grades = sorted({row.grade for row in found.rows})
    table = np.full((len(names), len(grades)), np.nan)
    for row in found.rows:
        table[names.index(row.change), grades.index(row.grade)] = row.accuracy.value
    figure = Figure(figsize=(8.2, 6.6), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#dddddd")  # a change without that grade
    low = min(0.5, float(np.nanmin(table)))
    image = axes.imshow(table, cmap="cividis", vmin=low, vmax=1, aspect="auto")
    for (at, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = (value - low) / (1 - low) < 0.55
            axes.text(
                column,
                at,
                f"{value:.0%}",
                ha="center",
                va="center",
                fontsize=11,
                color="white" if dark else "black",
            )
    axes.set_yticks(range(len(names)), names, fontsize=11)
    several = len(grades) > 1
    shown = [str(grade) for grade in grades] if several else []
    axes.set_xticks(range(len(shown)), shown, fontsize=11)
    words = "strength of the change" if several else "one everyday change of each kind"
    axes.set_xlabel(words, fontsize=11)
    if grades[-1] > EVERYDAY:
        axes.axvline(grades.index(EVERYDAY) + 0.5, color="white", linewidth=4)
        axes.secondary_xaxis("top").set_xticks(
            [grades.index(EVERYDAY) / 2, (grades.index(EVERYDAY) + len(grades)) / 2],
            ["every day", "unusual"],
            fontsize=11,
        )
    what = f"{title} (n = {found.images}): accuracy {found.unchanged.value:.0%} unchanged"
    axes.set_title(what, fontsize=12)
    figure.colorbar(image, ax=axes, label="accuracy under the change", fraction=0.05, pad=0.02)
    return figure


def examples_figure(image: npt.NDArray[np.uint8]) -> Figure:
    """One (S, S) image under each change at the highest everyday grade."""
    grey = torch.from_numpy(image).float()[None] / 255
    shown = {"unchanged": grey} | {
        name: change.apply(grey, change.grades[EVERYDAY]) for name, change in CHANGES.items()
    }
    figure = Figure(figsize=(10.4, 6.2), layout="constrained")
    for axes, (name, changed) in zip(
        figure.subplots(3, 6).ravel(), [*shown.items(), (None, None)], strict=True
    ):
        axes.axis("off")
        if changed is not None:
            axes.imshow(changed[0].numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(str(name), fontsize=11)
    figure.suptitle("One image under everyday changes of display", fontsize=12)
    return figure
