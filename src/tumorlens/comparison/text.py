"""What a comparison says, in plain words."""

from tumorlens.comparison.paired import Comparison, Difference, higher_is_better

_TITLES = {"resnet18": "ResNet18", "se_resnet18": "SE-ResNet18"}
_FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "tumor_accuracy": "tumor-only accuracy",
}


def title(name: str) -> str:
    """A network's name as it is written in a text."""
    return _TITLES.get(name, name)


def figure_title(figure: str) -> str:
    """A figure's name in a text: "glioma recall", "glioma taken for meningioma"."""
    if figure in _FIGURES:
        return _FIGURES[figure]
    if "->" in figure:
        one, other = figure.split("->")
        return f"{one} taken for {other}"
    kind, _, name = figure.partition("_")
    return f"{name} {'AUROC' if kind == 'auroc' else kind}"


def points(difference: Difference) -> str:
    """The difference's size and interval: "1.2 points (95% -0.4 to +2.9)"."""
    size = f"{abs(100 * difference.value):.1f}"
    low, high = (f"{100 * end:+.1f}" for end in (difference.low, difference.high))
    empty = difference.low <= -1 and difference.high >= 1
    said = "anything at all: too few runs" if empty else f"{low} to {high}"
    return f"{size} points (95% {said})"


def change(figure: str, difference: Difference) -> str:
    """One figure's change: "raises glioma recall by 1.2 points (95% -0.4 to +2.9)"."""
    if not difference.has_value:
        return f"has no {figure_title(figure)}"
    verb = "raises" if difference.value > 0 else "lowers"
    if f"{abs(100 * difference.value):.1f}" == "0.0":
        interval = points(difference).split(" ", 2)[2]
        return f"leaves {figure_title(figure)} where it is {interval}"
    return f"{verb} {figure_title(figure)} by {points(difference)}"


def sample(found: Comparison) -> str:
    """What was compared: "with 5 seeds each and 1,311 images (intervals over 43 patients)"."""
    unit = "" if found.unit == f"{found.images} images" else f" (intervals over {found.unit})"
    return f"with {runs(found)} and {found.images:,} images{unit}"


def runs(found: Comparison) -> str:
    """How often each was trained: "3 seeds each, 5 folds"."""
    if found.runs < found.seeds * found.folds:  # a grid that is not finished
        return f"{found.runs} runs each (up to {found.seeds} seeds in {found.folds} folds)"
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return f"{seeds} each" + ("" if found.folds == 1 else f", {found.folds} folds")


def sentence(found: Comparison) -> str:
    """The answer: accuracy, the recall of the two classes that are confused, and what is chance."""
    figures = ["accuracy"]
    if found.bias_pair:
        figures += [f"recall_{name}" for name in found.bias_pair]
    named = {figure: found.differences[figure] for figure in figures}
    changes = [change(figure, one) for figure, one in named.items()]
    listed = changes[0] if len(changes) == 1 else f"{', '.join(changes[:-1])} and {changes[-1]}"
    sure = [figure_title(figure) for figure, one in named.items() if one.beyond_chance]
    each = "this" if len(changes) == 1 else "each of these"
    verdict = f"{each} could be chance"
    if sure:
        unsure = [figure_title(figure) for figure in named if figure_title(figure) not in sure]
        rest = f"; that of {' and '.join(unsure)} could be chance" if unsure else ""
        verdict = f"the change of {' and '.join(sure)} is more than chance{rest}"
    return (
        f"{title(found.b)}, against {title(found.a)}, {listed}; {sample(found)} {verdict} "
        f"(Holm's correction for {found.looked_at} figures; the intervals are each figure's own)."
    )


def whom(found: Comparison) -> str:
    """Which figures change by more than chance, for better and for worse, in one sentence."""
    sure = {name: one for name, one in found.differences.items() if one.beyond_chance}
    if not sure:
        return f"Of {found.looked_at} figures none changes by more than chance (Holm's correction)."
    better = [
        figure_title(name)
        for name, one in sure.items()
        if (one.value > 0) == higher_is_better(name)
    ]
    worse = [figure_title(name) for name in sure if figure_title(name) not in better]
    parts = [
        f"{what} in {', '.join(names)}"
        for what, names in (("better", better), ("worse", worse))
        if names
    ]
    return (
        f"Of {found.looked_at} figures, more than chance (Holm's correction): "
        f"{title(found.b)} is {'; '.join(parts)}."
    )


def confusion_sentence(found: Comparison) -> str:
    """What becomes of the confusion of the two classes, both directions by name."""
    if found.bias_pair is None:
        return ""
    one, other = found.bias_pair
    changes = [
        change(figure, found.differences[figure])
        for figure in (f"{one}->{other}", f"{other}->{one}")
    ]
    return f"{title(found.b)} {changes[0]} and {changes[1]}."
