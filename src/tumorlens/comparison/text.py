"""What a comparison says, in plain words."""

from tumorlens.comparison.paired import Comparison, Difference, higher_is_better
from tumorlens.labels import title

_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "tumor_accuracy": "tumor-only accuracy",
}


def metric_title(metric: str) -> str:
    """A metric's name in a text: "glioma recall", "glioma taken for meningioma"."""
    if metric in _METRICS:
        return _METRICS[metric]
    if "->" in metric:
        one, other = metric.split("->")
        return f"{one} taken for {other}"
    kind, _, name = metric.partition("_")
    return f"{name} {'AUROC' if kind == 'auroc' else kind}"


def change(metric: str, difference: Difference) -> str:
    """One metric's change: "raises glioma recall by 1.2 points (95% -0.4 to +2.9)"."""
    if not difference.has_value:
        return f"has no {metric_title(metric)}"
    interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if difference.low <= -1 and difference.high >= 1:
        interval = "anything at all: too few runs"
    size = f"{abs(100 * difference.value):.1f}"
    if size == "0.0":
        return f"leaves {metric_title(metric)} where it is (95% {interval})"
    moves = "raises" if difference.value > 0 else "lowers"
    return f"{moves} {metric_title(metric)} by {size} points (95% {interval})"


def runs_in_words(found: Comparison) -> str:
    """How often each was trained: "3 seeds each, 5 folds"."""
    if found.runs < found.seeds * found.folds:  # a grid that is not finished
        return f"{found.runs} runs each (up to {found.seeds} seeds in {found.folds} folds)"
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return f"{seeds} each" + ("" if found.folds == 1 else f", {found.folds} folds")


def sentence(found: Comparison) -> str:
    """Accuracy, the recalls of the two classes that are confused, and what is significant."""
    metrics = ["accuracy", *(f"recall_{name}" for name in found.bias_pair or ())]
    changes = [change(metric, found.differences[metric]) for metric in metrics]
    listed = " and ".join(filter(None, [", ".join(changes[:-1]), changes[-1]]))
    sure = [metric for metric in metrics if found.differences[metric].significant]
    significance = (
        f"{'this is not' if len(changes) == 1 else 'none of these is'} statistically significant"
    )
    if sure:
        unsure = " and ".join(metric_title(metric) for metric in metrics if metric not in sure)
        significance = f"the change of {' and '.join(map(metric_title, sure))} is significant"
        significance += f"; that of {unsure} is not" if unsure else ""
    unit = "" if found.unit == f"{found.images} images" else f" (intervals over {found.unit})"
    return (
        f"{title(found.b)}, against {title(found.a)}, {listed}; with {runs_in_words(found)} and "
        f"{found.images:,} images{unit} {significance} (Holm's correction for {found.looked_at} "
        "metrics; the intervals are each metric's own)."
    )


def significant_changes(found: Comparison) -> str:
    """Which metrics change significantly, for better and for worse, in one sentence."""
    changed: dict[str, list[str]] = {"better": [], "worse": []}
    for name, one in found.differences.items():
        if one.significant:
            better = (one.value > 0) == higher_is_better(name)
            changed["better" if better else "worse"].append(metric_title(name))
    parts = [f"{what} in {', '.join(names)}" for what, names in changed.items() if names]
    if not parts:
        return f"Of {found.looked_at} metrics none changes significantly (Holm's correction)."
    return (
        f"Of {found.looked_at} metrics, significantly (Holm's correction): "
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
