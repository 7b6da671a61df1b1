"""The story of a study in one figure."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from tumorlens.evaluation.comparison_words import figure_title, title
from tumorlens.evaluation.plots import COLOURS
from tumorlens.studies.seen import PUBLISHED, Seen

_FIGURES = ("accuracy", "recall_glioma", "recall_meningioma")
_VIEWS = {
    "official": "Testing, as\neverybody\nscores it",
    "official_without_copies": "Testing,\nwithout copies",
    "folds": "patients\napart",
}
_MARKERS = {"resnet18": "o", "se_resnet18": "s"}


def story(seen: Sequence[Seen]) -> Figure:
    """Both networks: Testing as everybody scores it, without copies, patients apart; 95% intervals.

    Args:
        seen: the report's views; those that are not there leave their place empty.
    """
    drawn = Figure(figsize=(10.5, 4.2), layout="constrained")
    panels = drawn.subplots(1, len(_FIGURES), sharey=True)
    lowest = 1.0
    for panel, figure in zip(panels, _FIGURES, strict=True):
        for index, model in enumerate(PUBLISHED):
            colour = COLOURS[index]
            shift = 0.24 * index - 0.12
            panel.plot(
                [shift - 0.08, shift + 0.08],
                [PUBLISHED[model][figure]] * 2,
                color=colour,
                linestyle=":",
                linewidth=2,
                label=f"{title(model)}, published" if figure == _FIGURES[0] else None,
            )
            lowest = min(lowest, PUBLISHED[model][figure])
            for place, view in enumerate(_VIEWS):
                one = next((s for s in seen if s.view.name == view and s.model == model), None)
                if one is None or figure not in one.figures:
                    continue
                value = one.figures[figure]
                if value.value != value.value:
                    continue
                lowest = min(lowest, value.low)
                panel.errorbar(
                    place + shift,
                    value.value,
                    yerr=[
                        [max(0.0, value.value - value.low)],
                        [max(0.0, value.high - value.value)],
                    ],
                    fmt=_MARKERS[model],
                    color=colour,
                    capsize=3,
                )
                panel.annotate(
                    f"{value.value:.3f}",
                    (place + shift, value.value),
                    xytext=(5 if index else -5, 4),
                    textcoords="offset points",
                    ha="left" if index else "right",
                    fontsize=7,
                    color=colour,
                )
            panel.plot(
                [],
                [],
                _MARKERS[model],
                color=colour,
                label=f"{title(model)}, ours" if figure == _FIGURES[0] else None,
            )
        panel.set_xticks(range(len(_VIEWS)), list(_VIEWS.values()), fontsize=8)
        panel.set_xlim(-0.6, len(_VIEWS) - 0.4)
        panel.set_title(figure_title(figure), fontsize=10)
        panel.grid(axis="y", color="#dddddd")
        panel.set_axisbelow(True)
    panels[0].set_ylim(max(0.0, lowest - 0.04), 1.005)
    panels[0].legend(fontsize=7, loc="lower left")
    counts = "; ".join(
        f"{_VIEWS[view].replace(chr(10), ' ')}: "
        + ", ".join(
            f"{title(one.model)} {one.runs} run{'s' if one.runs > 1 else ''}, n = {one.images:,}"
            for one in seen
            if one.view.name == view
        )
        for view in _VIEWS
        if any(one.view.name == view for one in seen)
    )
    drawn.supxlabel(
        f"means over runs with 95% intervals over images and seeds\n{counts}", fontsize=7
    )
    return drawn
