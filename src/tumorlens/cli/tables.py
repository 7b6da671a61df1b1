"""Scores as tables for the terminal."""

from math import isnan

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tumorlens.cli.console import titled_table
from tumorlens.comparison.paired import Comparison
from tumorlens.comparison.text import metric_title
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.scores import Bias, Scores, Subset
from tumorlens.evaluation.subgroups import LEAST, Subgroups
from tumorlens.labels import title

_OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "log_loss": "log loss (nats)",
    "brier": "Brier (0-2)",
    "ece": "ECE",
}


def bias(found: Bias, of: Scores) -> RenderableType:
    """Class-wise bias: a paragraph, and a table with intervals."""
    table = titled_table("Class-wise bias, with 95% intervals", "", *_headings(of))
    for name, (label, estimate) in found.metrics.items():
        clean = [subset.metrics.get(name) for _, subset in _subsets(of)[1:]]
        cells = [_cell(one) if one else "" for one in (estimate, *clean)]
        table.add_row(escape(label), *cells)
    return Group(f"[bold]Bias.[/bold] {escape(found.sentence)}", table)


def scores(found: Scores) -> RenderableType:
    """Headline metrics, metrics by class, and what the near-duplicates do."""
    table = titled_table("Overall, with 95% intervals", "", *_headings(found))
    subsets = [subset for _, subset in _subsets(found)]
    for metric, label in _OVERALL.items():
        if metric in found.all.metrics:
            table.add_row(label, *(_cell(subset.metrics[metric]) for subset in subsets))
    resampled = f"Intervals resample {found.unit}."
    parts: list[RenderableType] = [table, _by_class(found), _decision(found), resampled]
    every = [one for subset in subsets for one in subset.metrics.values()]
    if any(isnan(one.value) for one in every):
        parts.append("-: has no value, as no image is of that class, or none is predicted as it.")
    return Group(*parts)


def subgroups(found: Subgroups) -> RenderableType:
    """Recall of each class in each subgroup, a row a subgroup."""
    classes = list(dict.fromkeys(one.label for one in found.rows))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in found.rows:
        mark = "*" if one.significant else " " if one.enough else "?"
        text = f"{one.recall.value:.2f} [dim]({one.recall.low:.2f}, {one.recall.high:.2f})[/dim]"
        rows.setdefault((one.column, one.subgroup), {})[one.label] = text + mark
    table = titled_table("Recall by subgroup, with 95% intervals", "", *map(escape, classes))
    for names, cells in sorted(rows.items()):
        table.add_row(escape(" ".join(names)), *(cells.get(label, "- ") for label in classes))
    return Group(
        table,
        "*: differs significantly from the class's other subgroups, Holm over "
        f"{found.tests} tests. "
        f"?: fewer than {LEAST} patients, nothing is claimed.",
    )


def differences(found: Comparison, images: str) -> RenderableType:
    """Every metric of two networks, the difference in points, and whether it is significant."""
    table = titled_table(
        f"{title(found.b)} (B) minus {title(found.a)} (A), {images}, n = {found.images:,}"
    )
    table.add_column("", no_wrap=True)
    for name in ("A", "B", "points (95%)", "p, Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric, one in found.differences.items():
        points, p = "-", "-"
        if one.has_value:
            interval = f"({100 * one.low:+.1f}, {100 * one.high:+.1f})"
            points = f"{100 * one.value:+.1f} [dim]{interval}[/dim]"
            p = f"{one.p_holm:.3f}{'[bold]*[/bold]' if one.significant else ' '}"
        table.add_row(metric_title(metric), _number(one.a), _number(one.b), points, p)
    return table


def _subsets(found: Scores) -> list[tuple[str, Subset]]:
    listed = [("all images", found.all)]
    if found.without_near_duplicates and found.without_near_duplicates.n < found.all.n:
        listed.append(("without near-duplicates", found.without_near_duplicates))
    return listed


def _headings(found: Scores) -> list[str]:
    return [f"{name}\nn = {subset.n}" for name, subset in _subsets(found)]


def _by_class(found: Scores) -> Table:
    table = titled_table("By class, all images")
    table.add_column("class")
    table.add_column("n", justify="right")
    for name in ("recall", "precision", "F1", "AUROC", "AP"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in found.classes:
        metrics = found.all.metrics
        table.add_row(
            escape(name),
            str(found.all.support[name]),
            _cell(metrics[f"recall_{name}"]),
            *(
                _number(metrics[f"{metric}_{name}"].value)
                for metric in ("precision", "f1", "auroc", "average_precision")
            ),
        )
    return table


def _decision(found: Scores) -> str:
    if found.duplicates is None:
        return (
            "Near-duplicates of training images: not known, the checkpoint keeps no fingerprints."
        )
    exact = sum(found.duplicates["exact"].values())
    near = sum(found.duplicates["near"].values())
    if exact + near == 0:
        return "No image is a near-duplicate of a training image."
    counts = (
        f"{exact + near} of {found.all.n} images are near-duplicates of a training image "
        f"({exact} byte for byte, {near} mirrored, turned or re-encoded)"
    )
    if found.without_near_duplicates is None:
        return f"{counts}: none is left to score without them."
    gains = (found.leakage_inflation[name] for name in ("accuracy", "balanced_accuracy"))
    accuracy, balanced = (
        f"{100 * gain.value:.1f} points (95% {100 * gain.low:.1f} to {100 * gain.high:.1f})"
        for gain in gains
    )
    return (
        f"{counts}. They flatter accuracy by {accuracy} and balanced accuracy, which does not "
        f"depend on the class mix that is left, by {balanced}."
    )


def _number(value: float) -> str:
    return "-" if isnan(value) else f"{value:.4f}"


def _cell(estimate: Estimate) -> str:
    if isnan(estimate.value):
        return "-"
    return f"{estimate.value:.4f} [dim]({estimate.low:.3f}, {estimate.high:.3f})[/dim]"
