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


def change(figure: str, difference: Difference) -> str:
    """One figure's change: "raises glioma recall by 1.2 points (95% -0.4 to +2.9)"."""
    if not difference.has_value:
        return f"has no {figure_title(figure)}"
    interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if difference.low <= -1 and difference.high >= 1:
        interval = "anything at all: too few runs"
    size = f"{abs(100 * difference.value):.1f}"
    if size == "0.0":
        return f"leaves {figure_title(figure)} where it is (95% {interval})"
    verb = "raises" if difference.value > 0 else "lowers"
    return f"{verb} {figure_title(figure)} by {size} points (95% {interval})"


def runs(found: Comparison) -> str:
    """How often each was trained: "3 seeds each, 5 folds"."""
    if found.runs < found.seeds * found.folds:  # a grid that is not finished
        return f"{found.runs} runs each (up to {found.seeds} seeds in {found.folds} folds)"
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return f"{seeds} each" + ("" if found.folds == 1 else f", {found.folds} folds")


def sentence(found: Comparison) -> str:
    """The answer: accuracy, the recall of the two classes that are confused, and what is chance."""
    figures = ["accuracy", *(f"recall_{name}" for name in found.bias_pair or ())]
    changes = [change(figure, found.differences[figure]) for figure in figures]
    listed = " and ".join(filter(None, [", ".join(changes[:-1]), changes[-1]]))
    sure = [figure for figure in figures if found.differences[figure].beyond_chance]
    verdict = f"{'this' if len(changes) == 1 else 'each of these'} could be chance"
    if sure:
        unsure = " and ".join(figure_title(figure) for figure in figures if figure not in sure)
        verdict = f"the change of {' and '.join(map(figure_title, sure))} is more than chance"
        verdict += f"; that of {unsure} could be chance" if unsure else ""
    unit = "" if found.unit == f"{found.images} images" else f" (intervals over {found.unit})"
    return (
        f"{title(found.b)}, against {title(found.a)}, {listed}; with {runs(found)} and "
        f"{found.images:,} images{unit} {verdict} (Holm's correction for {found.looked_at} "
        "figures; the intervals are each figure's own)."
    )


def whom(found: Comparison) -> str:
    """Which figures change by more than chance, for better and for worse, in one sentence."""
    changed: dict[str, list[str]] = {"better": [], "worse": []}
    for name, one in found.differences.items():
        if one.beyond_chance:
            better = (one.value > 0) == higher_is_better(name)
            changed["better" if better else "worse"].append(figure_title(name))
    parts = [f"{what} in {', '.join(names)}" for what, names in changed.items() if names]
    if not parts:
        return f"Of {found.looked_at} figures none changes by more than chance (Holm's correction)."
    return (
        f"Of {found.looked_at} figures, more than chance (Holm's correction): "
        f"{title(found.b)} is {'; '.join(parts)}."
    )


def confusion_sentence(found: Comparison) -> str:
    """What becomes of the confusion of the two classes, both directions by name."""
    if found.bias_pair is None:
        return ""
    one, other = found.bias_pair
    forth, back = (
        change(name, found.differences[name]) for name in (f"{one}->{other}", f"{other}->{one}")
    )
    return f"{title(found.b)} {forth} and {back}."
