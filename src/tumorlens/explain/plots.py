"""Figures of what is measured of maps: metrics by subset, curves, similarities. No torch."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorlens.evaluation.plots import COLOURS

_GREY = "#666666"
_MARKERS = ("o", "s", "^", "D")
_LINES = ("-", "--", "-.", ":")
_FONT = 9
_WRAP = 26
_LOCALIZATION = (
    ("energy_pointing_game", "box_area_share", "energy-based pointing game, share of the map"),
    ("pointing_game", "pointing_area_share", "pointing game, share of images"),
    ("average_precision", "box_area_share", "average precision of the pixels, 0 to 1"),
)
_ATTRIBUTION = (
    ("outside_head", "outside_head_area", "outside the head, share of the map"),
    ("border", "border_area", "at the image's border, share of the map"),
    ("skull", "skull_area", "on skull and scalp, share of the map"),
    ("entropy", None, "entropy, 0 to 1 (the same everywhere)"),
)
Estimate = Mapping[str, float]
Table = Mapping[str, Mapping[str, Estimate]]


def localization(networks: Mapping[str, Table], centre: Table, title: str) -> Figure:
    """Three metrics of localisation by subset: each network, the centre prior, the area share.

    A table is subset to metric to value, low, high, as in `Localization.metrics`.
    """
    return _panels({**networks, "centre prior": centre}, _LOCALIZATION, title)


def attribution(networks: Mapping[str, Table], title: str) -> Figure:
    """How much of the maps lies where no tumor is, by class, beside the area share."""
    kept = {
        name: {subset: row for subset, row in table.items() if "minus" not in subset}
        for name, table in networks.items()
    }
    return _panels(kept, _ATTRIBUTION, title)


def _panels(
    tables: Mapping[str, Table], panels: Sequence[tuple[str, str | None, str]], title: str
) -> Figure:
    first = next(iter(tables.values()))
    subsets = list(dict.fromkeys(name for table in tables.values() for name in table))
    figure = _figure(2.4 + 2.9 * len(panels), 1.7 + 0.45 * len(subsets), title)
    row = figure.subplots(1, len(panels), sharey=True)
    for axes, (metric, area, label) in zip(row, panels, strict=True):
        for number, (name, table) in enumerate(tables.items()):
            there = [at for at, subset in enumerate(subsets) if subset in table]
            value, error = _spans([table[subsets[at]][metric] for at in there])
            baseline = name == "centre prior"
            axes.errorbar(
                value,
                np.array(there) + (number - (len(tables) - 1) / 2) * 0.2,
                xerr=error,
                fmt=_MARKERS[number % len(_MARKERS)],
                color=_GREY if baseline else COLOURS[number % len(COLOURS)],
                markersize=5,
                markerfacecolor="white" if baseline else None,
                label=textwrap.fill(name, 2 * _WRAP),
            )
        for at, subset in enumerate(subsets if area else ()):
            if subset in first:
                share = first[subset][str(area)]["value"]
                label_once = "area share (no knowledge)" if at == 0 else None
                axes.plot([share] * 2, [at - 0.4, at + 0.4], ":", color="black", label=label_once)
        axes.set_xlabel(textwrap.fill(label, _WRAP), fontsize=_FONT)
        axes.set_xlim(left=0)
        _plain(axes)
    counts = [
        int(next(iter(first[name].values()))["n"]) if name in first else 0 for name in subsets
    ]
    names = [
        f"{textwrap.fill(name, _WRAP)}  n = {count}"
        for name, count in zip(subsets, counts, strict=True)
    ]
    row[0].set_yticks(range(len(subsets)), names, fontsize=_FONT)
    row[0].invert_yaxis()
    _legend_below(figure, row[0])
    return figure


def _spans(found: Sequence[Estimate]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(S,) values and (2, S) distances to the ends of their intervals."""
    value, low, high = (np.array([one[key] for one in found]) for key in ("value", "low", "high"))
    # A subset of one group has no interval of its own; the value may lie outside by rounding.
    return value, np.nan_to_num(np.maximum(0, np.stack([value - low, high - value])))


def curves(
    lines: Mapping[str, tuple[npt.NDArray[np.float64], str]],
    panels: Mapping[str, Sequence[str]],
    at: npt.NDArray[np.float64],
    labels: tuple[str, str],
    title: str,
) -> Figure:
    """Mean curves with their area.

    Args:
        lines: key to (T,) values and words for the legend.
        panels: title of each panel to the keys that it shows.
        at: (T,) where the values stand, 0..1.
    """
    figure = _figure(4.2 * len(panels), 4.4, title)
    row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, keys) in zip(row, panels.items(), strict=True):
        for number, key in enumerate(keys):
            values, words = lines[key]
            axes.plot(
                at,
                values,
                color=COLOURS[number % len(COLOURS)],
                linestyle=_LINES[number % len(_LINES)],
                linewidth=1.7,
                label=words,
            )
        axes.set_title(textwrap.fill(name, 2 * _WRAP), fontsize=10)
        axes.set_xlabel(labels[0], fontsize=_FONT)
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False, fontsize=_FONT, loc="upper center", bbox_to_anchor=(0.5, -0.18))
        _plain(axes)
    row[0].set_ylabel(labels[1], fontsize=_FONT)
    return figure


def steps(tables: Table, floors: Mapping[str, float], label: str, title: str) -> Figure:
    """Similarities along named steps, with intervals, and the floor of each.

    Args:
        tables: measure to step to value, low, high.
        floors: measure to what maps of different images have.
    """
    names = list(dict.fromkeys(step for table in tables.values() for step in table))
    figure = _figure(max(6.0, 2.4 + 0.62 * len(names)), 4.2, title)
    axes = figure.subplots()
    for number, (measure, table) in enumerate(tables.items()):
        value, error = _spans([table[name] for name in names])
        axes.errorbar(
            np.arange(len(names)) + 0.06 * number,
            value,
            yerr=error,
            color=COLOURS[number],
            marker=_MARKERS[number],
            linestyle=_LINES[number % 2],
            label=measure,
        )
        axes.axhline(
            floors[measure],
            color=COLOURS[number],
            linestyle=":",
            label=f"{measure}, maps of different images",
        )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=_FONT)
    axes.set_xlim(-0.5, len(names) - 0.4)
    axes.set_ylabel(label, fontsize=_FONT)
    _plain(axes)
    _legend_below(figure, axes)
    return figure


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, int(9 * width)), fontsize=12)
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(),
        frameon=False,
        fontsize=_FONT,
        loc="outside lower center",
        ncols=2,
    )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=_FONT)
