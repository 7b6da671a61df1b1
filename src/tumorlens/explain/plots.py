"""Figures of localisation: estimates beside chance, curves, and a ranked gallery. No torch."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorlens.evaluation.plots import COLOURS
from tumorlens.explain.overlay import blend, full_heat, heat_scale, on_image
from tumorlens.explain.regions import Outline

_GREY = "#666666"
_MARKERS = ("o", "s", "^", "D")
_FIT_PANELS = (
    ("energy_pointing_game", "box_area_share", "share of the map in the box"),
    ("pointing_game", "pointing_area_share", "pointing game, share of hits"),
    ("average_precision", "box_area_share", "average precision of the pixels"),
)
_LOOKING_PANELS = (
    ("outside_head", "outside_head_area", "share of the map outside the head"),
    ("border", "border_area", "share on the image's border"),
    ("skull", "skull_area", "share on skull and scalp"),
    ("entropy", None, "entropy, 1: the same everywhere"),
)
Table = Mapping[str, Mapping[str, Mapping[str, float]]]


def fits(networks: Mapping[str, Table], centre: Table, title: str) -> Figure:
    """Three figures of localisation by subset: each network, the centre prior, chance.

    Args:
        networks: name to subset to figure to value, low, high, as in `Localization.figures`.
        centre: the baseline's, likewise.
        title: above all.
    """
    return _panels({**networks, "centre prior": centre}, _FIT_PANELS, title)


def looking(networks: Mapping[str, Table], title: str) -> Figure:
    """How much of the maps lies where no tumor is, by class, beside the area's share."""
    kept = {
        name: {subset: row for subset, row in table.items() if "minus" not in subset}
        for name, table in networks.items()
    }
    return _panels(kept, _LOOKING_PANELS, title)


def _panels(
    tables: Mapping[str, Table],
    panels: Sequence[tuple[str, str | None, str]],
    title: str,
) -> Figure:
    subsets = list(dict.fromkeys(name for table in tables.values() for name in table))
    figure = Figure(
        figsize=(2.2 + 2.9 * len(panels), 1.5 + 0.42 * len(subsets)), layout="constrained"
    )
    _title(figure, title)
    row = figure.subplots(1, len(panels), sharey=True)
    for axes, (figure_name, chance, label) in zip(row, panels, strict=True):
        for number, (name, table) in enumerate(tables.items()):
            offset = (number - (len(tables) - 1) / 2) * 0.2
            baseline = name == "centre prior"
            _dots(axes, table, subsets, figure_name, offset, number, name, baseline=baseline)
        if chance is not None:
            _chance(axes, next(iter(tables.values())), subsets, chance)
        axes.set_xlabel(textwrap.fill(label, 26), fontsize=9)
        axes.set_xlim(left=0)
        _plain(axes)
    row[0].set_yticks(range(len(subsets)), _with_counts(subsets, next(iter(tables.values()))))
    row[0].invert_yaxis()
    figure.legend(
        *row[0].get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        loc="outside lower center",
        ncols=4,
    )
    return figure


def _dots(
    axes: Axes,
    table: Table,
    subsets: Sequence[str],
    figure_name: str,
    offset: float,
    number: int,
    name: str,
    *,
    baseline: bool,
) -> None:
    there = [at for at, subset in enumerate(subsets) if subset in table]
    found = [table[subsets[at]][figure_name] for at in there]
    value = np.array([one["value"] for one in found])
    spans = np.array([[one["low"], one["high"]] for one in found]).T
    axes.errorbar(
        value,
        np.array(there) + offset,
        # A subset of one group has no interval of its own; the value may lie outside by rounding.
        xerr=np.nan_to_num(np.maximum(0, np.stack([value - spans[0], spans[1] - value]))),
        fmt=_MARKERS[number % len(_MARKERS)],
        color=_GREY if baseline else COLOURS[number % len(COLOURS)],
        markersize=4.5,
        markerfacecolor="white" if baseline else None,
        elinewidth=1.1,
        label=name,
    )


def _chance(axes: Axes, table: Table, subsets: Sequence[str], chance: str) -> None:
    for at, subset in enumerate(subsets):
        if subset in table:
            axes.plot(
                [table[subset][chance]["value"]] * 2,
                [at - 0.4, at + 0.4],
                color="black",
                linewidth=1.2,
                linestyle=":",
                label="a map that knows nothing" if at == 0 else None,
            )


def _with_counts(subsets: Sequence[str], table: Table) -> list[str]:
    counts = [
        next(iter(table[subset].values()))["n"] if subset in table else 0 for subset in subsets
    ]
    return [f"{name}  n = {count}" for name, count in zip(subsets, counts, strict=True)]


@dataclass(frozen=True)
class Found:
    """One image of the gallery.

    Attributes:
        grey: (H, W) uint8.
        outline: of its tumor.
        words: above the image.
        maps: network to (h, w) raw map.
        energies: network to the share of its map in the box.
        sizes: network to the side of the square that its map lies over, pixels.
    """

    grey: npt.NDArray[np.uint8]
    outline: Outline | None
    words: str
    maps: Mapping[str, npt.NDArray[np.float32]]
    energies: Mapping[str, float]
    sizes: Mapping[str, int]


def ranked(count: int, energies: Sequence[float]) -> dict[str, list[int]]:
    """Which images are best, in the middle and worst, up to `count` each, none twice."""
    order = [int(index) for index in np.argsort(-np.asarray(energies), kind="stable")]
    each = max(1, min(count, len(order) // 3))
    middle = (len(order) - each) // 2
    chosen = {
        "best": order[:each],
        "median": order[middle : middle + each],
        "worst": order[-each:],
    }
    seen: set[int] = set()
    return {
        name: [index for index in rows if not (index in seen or seen.add(index))]  # type: ignore[func-returns-value]
        for name, rows in chosen.items()
    }


def gallery(rows: Mapping[str, Sequence[Found]], title: str) -> Figure:
    """Rows of images with the tumor's outline; each network's map on a scale of its own.

    Args:
        rows: "best", "median", "worst" to their images.
        title: above all.
    """
    shown = [(name, found) for name, found in rows.items() if found]
    views = 1 + len(shown[0][1][0].maps)
    across = max(len(found) for _, found in shown) * views
    figure = Figure(figsize=(1.55 * across + 0.6, 2.1 * len(shown) + 0.6), layout="constrained")
    _title(figure, title)
    grid = figure.subplots(len(shown), across, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for (name, found), line in zip(shown, grid, strict=True):
        line[0].text(
            -0.08,
            0.5,
            name,
            rotation=90,
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=10,
            fontweight="bold",
        )
        for number, one in enumerate(found):
            _draw(line[number * views : (number + 1) * views], one)
    heat_scale(figure, grid)
    return figure


def _draw(axes: npt.NDArray[np.object_], one: Found) -> None:
    height, width = one.grey.shape
    axes[0].imshow(one.grey, cmap="gray", vmin=0, vmax=255)
    axes[0].set_title(one.words, fontsize=6.5)
    for view, (name, relevance) in zip(axes[1:], one.maps.items(), strict=True):
        placed = on_image(relevance, height, width, one.sizes[name])
        view.imshow(blend(one.grey, placed, full_heat([placed])))
        where = one.outline.word if one.outline else "box"
        view.set_title(f"{name}\n{one.energies[name]:.0%} in the {where}", fontsize=6.5)
    for view in axes:
        if one.outline is not None:
            one.outline.draw(view, height, width)


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
        labels: of the axes.
        title: above all.
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    _title(figure, title)
    row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, keys) in zip(row, panels.items(), strict=True):
        for number, key in enumerate(keys):
            values, words = lines[key]
            axes.plot(
                at,
                values,
                color=COLOURS[number % len(COLOURS)],
                linestyle=("-", "--", "-.", ":")[number % 4],
                linewidth=1.7,
                label=words,
            )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(labels[0], fontsize=9)
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False, fontsize=8)
        _plain(axes)
    row[0].set_ylabel(labels[1], fontsize=9)
    return figure


def steps(
    tables: Mapping[str, Mapping[str, Mapping[str, float]]],
    floors: Mapping[str, float],
    label: str,
    title: str,
) -> Figure:
    """Similarities along named steps, with intervals, and the floor of each.

    Args:
        tables: measure to step to value, low, high.
        floors: measure to what maps of different images have.
        label: of the vertical axis.
        title: above all.
    """
    names = list(dict.fromkeys(step for table in tables.values() for step in table))
    figure = Figure(figsize=(2.4 + 0.62 * len(names), 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (measure, table) in enumerate(tables.items()):
        value = np.array([table[name]["value"] for name in names])
        spans = np.array([[table[name]["low"], table[name]["high"]] for name in names]).T
        colour = COLOURS[number]
        axes.errorbar(
            np.arange(len(names)) + 0.06 * number,
            value,
            yerr=np.nan_to_num(np.maximum(0, np.stack([value - spans[0], spans[1] - value]))),
            color=colour,
            marker=_MARKERS[number],
            linestyle=("-", "--")[number % 2],
            label=measure,
        )
        axes.axhline(
            floors[measure],
            color=colour,
            linestyle=":",
            linewidth=1,
            label=f"{measure}, maps of different images",
        )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_ylabel(label, fontsize=9)
    _title(figure, title)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    _plain(axes)
    return figure


def _title(figure: Figure, title: str) -> None:
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=10)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def words_of(row: Mapping[str, Any]) -> str:
    """The caption of an image in the gallery."""
    decision = "right" if row["right"] else f"said {row['prediction']}"
    return f"{row['label']}, {decision}\ntumor {row['box_area_share']:.1%} of the image"
