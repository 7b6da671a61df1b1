"""The images of an evaluation and of a training run.

Every function returns a matplotlib figure and touches no global state; colours are of the
Okabe-Ito palette, which colour-blind readers can tell apart.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_auc_score, roc_curve

from tumorlens.evaluation.intervals import exact_interval
from tumorlens.evaluation.subgroups import LEAST, Subgroups
from tumorlens.files import replacing
from tumorlens.uncertainty.calibration import BINS, expected_calibration_error
from tumorlens.uncertainty.calibration import reliability as reliability_bins

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_GREY = "#666666"


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG in one step; names with dollar signs are drawn as they are."""
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math("\\mathdefault" in text.get_text())  # matplotlib's own numbers
    with replacing(path) as beside:
        figure.savefig(beside, dpi=dpi, format="png", facecolor="white")


def confusion_matrix(
    counts: npt.NDArray[np.int64], classes: Sequence[str], *, title: str = ""
) -> Figure:
    """(K, K) counts, rows true: each cell shows its count and its share of the row."""
    size = max(4.6, 1.05 * len(classes) + 1.6)
    figure = Figure(figsize=(size + 1.6, size), layout="constrained")
    axes = figure.subplots()
    totals = counts.sum(axis=1)
    share = counts / np.maximum(totals[:, None], 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        axes.text(
            column,
            row,
            f"{counts[row, column]}\n{share[row, column]:.1%}" if totals[row] else "-",
            ha="center",
            va="center",
            color="white" if share[row, column] > 0.55 else "black",
            fontweight="bold" if row == column else "normal",
            fontsize=11,
        )
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(
        range(len(classes)),
        [f"{name}\n(n = {total})" for name, total in zip(classes, totals, strict=True)],
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    return figure


def roc_curves(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    classes: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """One curve a class against the rest; classes without images or without others are left out."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", label="chance")
    for index, name in enumerate(classes):
        truth = labels == index
        if truth.all() or not truth.any():
            continue
        false_alarms, hits, _ = roc_curve(truth, probabilities[:, index])
        area = roc_auc_score(truth, probabilities[:, index])
        axes.plot(
            false_alarms,
            hits,
            color=COLOURS[index % len(COLOURS)],
            linestyle=_LINES[index % len(_LINES)],
            linewidth=1.8,
            label=f"{name}, AUROC {area:.3f}",
        )
    axes.set_xlabel("1 - specificity (false-positive rate)")
    axes.set_ylabel("recall (true-positive rate)")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.set_title(title, fontsize=11)
    _plain(axes)
    return figure


def reliability(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    *,
    title: str = "",
    how_sure: str = "probability",
) -> Figure:
    """Accuracy against confidence in 15 bins, and how many images each bin holds.

    Whiskers: exact 95% intervals, each image for itself. `how_sure` names the probabilities.
    """
    bins = reliability_bins(labels, probabilities)
    ece = float(expected_calibration_error(labels, probabilities)[0])
    figure = Figure(figsize=(5.2, 5.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    filled = bins.count > 0
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", label="as promised")
    share, count = bins.accuracy[filled], bins.count[filled].astype(int)
    right = np.rint(share * count).astype(int)
    ends = np.array(
        [exact_interval(*pair) for pair in zip(right.tolist(), count.tolist(), strict=True)]
    ).T
    upper.errorbar(
        bins.confidence[filled],
        share,
        yerr=np.maximum(0, np.stack([share - ends[0], ends[1] - share])),
        color=COLOURS[1],
        fmt="o-",
        markersize=4,
        elinewidth=0.9,
        capsize=2,
        label=f"these images (ECE {ece:.3f})",
    )
    upper.set_ylabel("share predicted right")
    upper.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside upper center", frameon=False, fontsize=9, ncols=2)
    upper.set_title(title, fontsize=11)
    centres = (np.arange(BINS) + 0.5) / BINS
    lower.bar(centres, bins.count, width=0.9 / BINS, color=COLOURS[1])
    lower.set_xlabel(f"predicted class: {how_sure}", fontsize=9)
    lower.set_ylabel("images")
    lower.set_xlim(0, 1)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    for axes in (upper, lower):
        _plain(axes)
    return figure


def subgroups(found: Subgroups, *, title: str = "") -> Figure:
    """Recall in each subgroup with its 95% interval, a panel a class.

    Diamond: differs significantly; open: too few patients for a claim.
    """
    classes = list(dict.fromkeys(one.label for one in found.rows))
    names = list(dict.fromkeys((one.column, one.subgroup) for one in found.rows))
    size = (max(7.0, 2.6 + 2.4 * len(classes)), 1.9 + 0.3 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    for panel, label in zip(
        np.atleast_1d(figure.subplots(1, len(classes), sharey=True)), classes, strict=True
    ):
        for one in (one for one in found.rows if one.label == label):
            colour = COLOURS[0] if one.significant else COLOURS[1] if one.enough else _GREY
            value, place = one.recall, names.index((one.column, one.subgroup))
            panel.plot([value.low, value.high], [place, place], color=colour, linewidth=1.6)
            face = colour if one.enough else "white"
            mark = "D" if one.significant else "o"
            panel.plot(value.value, place, mark, color=colour, markerfacecolor=face, markersize=7)
        for place in range(1, len(names)):
            if names[place][0] != names[place - 1][0]:
                panel.axhline(place - 0.5, color=_GREY, linewidth=0.8)
        panel.set_title(label, fontsize=11)
        panel.set_xlim(-0.03, 1.03)
        panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        panel.set_yticks(range(len(names)), [" ".join(pair) for pair in names])
        panel.set_ylim(len(names) - 0.5, -0.5)
        _plain(panel)
    figure.suptitle(title, fontsize=13)
    figure.supxlabel(
        f"recall, 95% interval. Diamond: significant (Holm). Open: fewer than {LEAST} patients.",
        fontsize=10,
    )
    return figure


def error_gallery(
    images: Sequence[npt.NDArray[np.uint8]],
    labels: Sequence[str],
    predictions: Sequence[str],
    probabilities: npt.NDArray[np.float64],
    paths: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """The errors shown, with true and predicted class, the probability and the file.

    `images` are (H, W) uint8 each, of any sizes; there may be none.
    """
    count = len(images)
    columns = min(4, max(1, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(max(5.0, 2.5 * columns), 3.0 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels:
        axes.set_axis_off()
    for index in range(count):
        axes = panels[index]
        axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
        axes.set_title(
            f"true: {labels[index]}\nsaid: {predictions[index]}, {probabilities[index]:.2f}",
            fontsize=9,
        )
        axes.text(
            0.5,
            -0.03,
            _short(paths[index]),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=7,
            color=_GREY,
        )
    if count == 0:
        panels[0].text(0.5, 0.5, "no errors", ha="center", va="center", fontsize=14)
    return figure


def training_curves(rows: Sequence[Mapping[str, float]], monitor: str = "valid_macro_f1") -> Figure:
    """Loss, validation metrics and learning rate, epoch by epoch.

    Args:
        rows: one an epoch with the keys epoch, train_loss and lr, and, where there are validation
            images, valid_loss, valid_accuracy and valid_macro_f1.
        monitor: by which of the last three the epoch was chosen; of a loss the lowest is best.
    """
    validated = "valid_loss" in rows[-1]
    panels = {
        "Cross-entropy loss": [("train_loss", "training (augmented)", COLOURS[0], "-")],
        "Validation metrics": [
            ("valid_accuracy", "accuracy", COLOURS[2], "-"),
            ("valid_macro_f1", "macro F1", COLOURS[1], "--"),
        ],
        "Learning rate at the epoch's end": [("lr", "", COLOURS[6], "-")],
    }
    if validated:
        panels["Cross-entropy loss"].append(("valid_loss", "validation", COLOURS[1], "--"))
    else:
        del panels["Validation metrics"]
    figure = Figure(figsize=(3.7 * len(panels), 3.6), layout="constrained")
    shown = dict(zip(panels, figure.subplots(1, len(panels)), strict=True))
    for title, axes in shown.items():
        for name, label, colour, line in panels[title]:
            axes.plot(
                [row["epoch"] for row in rows],
                [row[name] for row in rows],
                color=colour,
                linestyle=line,
                marker="o" if len(rows) < 30 else "",
                markersize=3,
                label=label,
            )
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axes)
    loss = shown["Cross-entropy loss"]
    loss.set_ylim(bottom=0)
    loss.legend(frameon=False, fontsize=9)
    if validated:
        _mark_best(list(shown.values()), shown["Validation metrics"], rows, monitor)
    return figure


def _mark_best(
    panels: Sequence[Axes], score: Axes, rows: Sequence[Mapping[str, float]], monitor: str
) -> None:
    best = (min if monitor == "valid_loss" else max)(rows, key=lambda row: row[monitor])
    for axes in panels:
        axes.axvline(best["epoch"], color=_GREY, linewidth=0.8, linestyle=":")
    score.legend(frameon=False, fontsize=9, loc="lower right")
    score.annotate(
        f"epoch {best['epoch']:.0f}: {best['valid_macro_f1']:.3f}",
        (best["epoch"], best["valid_macro_f1"]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_GREY,
    )
    score.margins(y=0.12)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _short(path: str, length: int = 38) -> str:
    return path if len(path) <= length else "..." + path[-(length - 3) :]
