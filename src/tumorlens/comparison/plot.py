"""Every metric's difference with its interval, as a plot."""

import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure

from tumorlens.comparison.paired import Comparison
from tumorlens.comparison.text import metric_title, runs, title
from tumorlens.evaluation.plots import COLOURS

_MARKERS = "osD^"
_SUBSETS = {
    "all": "all images",
    "without_near_duplicates": "without near-duplicates of training images",
}


def differences(subsets: Mapping[str, Comparison]) -> Figure:
    """A row a metric, b minus a in points; filled where it is more than chance.

    Args:
        subsets: name of the images to the comparison on them; the first decides the rows.
    """
    first = next(iter(subsets.values()))
    rows = [name for name, one in first.differences.items() if one.has_value]
    drawn = Figure(figsize=(7.6, 1.6 + 0.34 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    axes.axvline(0, color="#666666", linewidth=1)
    for index, (name, found) in enumerate(subsets.items()):
        colour = COLOURS[(1, 0, 2, 3)[index % 4]]
        shift = 0.24 * (index - (len(subsets) - 1) / 2)
        for row, metric in enumerate(rows):
            one = found.differences.get(metric)
            if one is None or not one.has_value:
                continue
            axes.errorbar(
                100 * one.value,
                row + shift,
                xerr=[
                    [100 * max(0.0, one.value - one.low)],
                    [100 * max(0.0, one.high - one.value)],
                ],
                fmt=_MARKERS[index % len(_MARKERS)],
                color=colour,
                markerfacecolor=colour if one.significant else "white",
                capsize=2,
                markersize=5,
            )
        label = f"{_SUBSETS.get(name, name)}, n = {found.images:,}"
        axes.plot([], [], _MARKERS[index % len(_MARKERS)], color=colour, label=label)
    axes.set_yticks(range(len(rows)), [metric_title(metric) for metric in rows])
    axes.invert_yaxis()
    drawn.supxlabel(
        f"{_lines(f'{title(first.b)} minus {title(first.a)}')}\npoints, with 95% intervals, each "
        f"metric's own; filled: more than chance after Holm's correction for {len(rows)} metrics",
        fontsize=9,
    )
    names = _lines(f"{title(first.b)} against {title(first.a)}", 60)
    axes.set_title(f"{names}\n{runs(first)}", fontsize=10)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="best")
    return drawn


def _lines(text: str, width: int = 80) -> str:
    """Names are paths at times."""
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))
