"""A study in two figures: its story, and where their maps lie."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tumorlens.comparison.text import metric_title
from tumorlens.evaluation.plots import COLOURS
from tumorlens.labels import title
from tumorlens.studies.summary import PUBLISHED, Seen, networks_of
from tumorlens.studies.summary_by_class import CENTRE, Look

_METRICS = ("accuracy", "recall_glioma", "recall_meningioma")
_VIEWS = {
    "official": "all test\nimages",
    "official_without_near_duplicates": "without\nnear-duplicates",
    "patients": "unseen\npatients",
    "folds": "folds",
}
_MARKERS = "osD^v<>"
_LOOKS = {
    "energy_ratio": "energy-based pointing game,\nratio to the area share",
    "pointing_game": "pointing game: share of hits",
}


def story(seen: Sequence[Seen], *, published: bool) -> Figure:
    """Both networks: all test images, without near-duplicates, unseen patients; 95% intervals.

    `published`: all test images are the public set's `Testing`: draw the published metrics too.
    """
    shown = [view for view in _VIEWS if any(one.view.name == view for one in seen)]
    names = _VIEWS | ({"official": "Testing, as\neverybody\nscores it"} if published else {})
    drawn = Figure(figsize=(10.5, 4.2), layout="constrained")
    there = {metric for one in seen for metric in one.metrics}
    metrics = [name for name in _METRICS if name in there]
    if len(metrics) < len(_METRICS):  # other classes than the public set's
        metrics = ["accuracy", *sorted(name for name in there if name.startswith("recall_"))][:5]
    panels = drawn.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    lowest = 1.0
    models = networks_of([*(one.model for one in seen), *(PUBLISHED if published else ())])
    for panel, metric in zip(panels, metrics, strict=True):
        for index, model in enumerate(models):
            shift = 0.24 * (index - (len(models) - 1) / 2)
            if published and model in PUBLISHED:
                height = PUBLISHED[model][metric]
                ends = [shift - 0.08, shift + 0.08]
                panel.plot(ends, [height] * 2, color=COLOURS[index], linestyle=":", linewidth=2)
                lowest = min(lowest, height)
            for place, view in enumerate(shown):
                one = next((s for s in seen if s.view.name == view and s.model == model), None)
                if one is None or metric not in one.metrics:
                    continue
                if one.metrics[metric].value == one.metrics[metric].value:
                    lowest = min(lowest, _mean_and_runs(panel, one, metric, place + shift, index))
        panel.set_xticks(range(len(shown)), [names[view] for view in shown], fontsize=8)
        panel.set_xlim(-0.6, len(shown) - 0.4)
        panel.set_title(metric_title(metric), fontsize=10)
        panel.grid(axis="y", color="#dddddd")
        panel.set_axisbelow(True)
    bottom = max(0.0, lowest - 0.04)
    panels[0].set_ylim(bottom, 1 + 0.06 * (1 - bottom))  # room for "1.000" above its point
    _legend(drawn, models, published=published)
    counts = "\n".join(
        f"{names[view].replace(chr(10), ' ')}: "
        + ", ".join(
            f"{title(one.model)} {one.runs} run{'s' if one.runs > 1 else ''}, n = {one.images:,}"
            for one in seen
            if one.view.name == view
        )
        for view in shown
    )
    drawn.supxlabel(
        "means over runs with 95% intervals over patients (else groups) and seeds, a dot a run\n"
        + counts,
        fontsize=7,
    )
    return drawn


def _mean_and_runs(panel: Axes, one: Seen, metric: str, place: float, index: int) -> float:
    """Draw a network's mean with its interval and a dot for each run; return the lowest of it."""
    value = one.metrics[metric]
    runs = one.values[metric] if one.runs > 1 else ()
    colour = COLOURS[index]
    panel.plot([place] * len(runs), runs, ".", color=colour, alpha=0.5)
    panel.errorbar(
        place,
        value.value,
        yerr=[[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]],
        fmt=_MARKERS[index],
        color=colour,
        capsize=3,
    )
    panel.annotate(
        f"{value.value:.3f}",
        (place, value.value),
        xytext=(5 if index else -5, 4),
        textcoords="offset points",
        ha="left" if index else "right",
        fontsize=7,
        color=colour,
    )
    return min(value.low, *runs) if runs else value.low


def _legend(drawn: Figure, models: Sequence[str], *, published: bool) -> None:
    handles = []
    for index, model in enumerate(models):
        colour, ours = COLOURS[index], f"{title(model)}{', ours' if published else ''}"
        mark = Line2D([], [], color=colour, linestyle="", marker=_MARKERS[index], label=ours)
        handles.append(mark)
        if published and model in PUBLISHED:
            theirs = f"{title(model)}, published"
            handles.append(Line2D([], [], color=colour, linestyle=":", linewidth=2, label=theirs))
    drawn.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)


def attribution_by_class(found: Sequence[Look]) -> Figure:
    """Networks and centre prior in each class: means, and a small dot for each fold."""
    labels = list(dict.fromkeys(one.label for one in found))
    whos = list(dict.fromkeys(one.who for one in found if not one.difference))
    networks = [who for who in whos if who != CENTRE]
    style = {who: (_MARKERS[index], COLOURS[index]) for index, who in enumerate(networks)}
    style[CENTRE] = ("D", "#666666")
    first = found[0]
    drawn = Figure(figsize=(9.5, 3.9), layout="constrained")
    for axes, (name, words) in zip(drawn.subplots(1, len(_LOOKS)), _LOOKS.items(), strict=True):
        for index, who in enumerate(whos):
            marker, colour = style[who]
            for one in found:
                mean = one.metrics.get(name)
                if one.who != who or mean is None:
                    continue
                place = labels.index(one.label) + 0.22 * (index - (len(whos) - 1) / 2)
                axes.plot([place] * len(mean.folds), mean.folds, ".", color=colour, alpha=0.5)
                axes.plot(place, mean.value, marker, color=colour, markersize=8)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_title(words, fontsize=10)
        axes.grid(axis="y", color="#dddddd")
        axes.set_axisbelow(True)
        if name == "energy_ratio":
            axes.set_yscale("log")
            axes.set_yticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
            axes.minorticks_off()
            axes.axhline(
                1, color="#000000", linewidth=1, linestyle=":"
            )  # a map that is the same everywhere
        else:
            axes.set_ylim(0, 1)
    drawn.legend(
        handles=[
            Line2D([], [], marker=style[who][0], color=style[who][1], linestyle="", label=who)
            for who in whos
        ],
        loc="outside lower center",
        ncols=len(whos),
        fontsize=9,
    )
    drawn.suptitle(
        f"Where the maps of the true class lie, {first.protocol}, boxed {first.split} images: "
        "means over folds, a dot a fold",
        fontsize=10,
    )
    return drawn
