"""metrics.json as rows of tables, with and without near-duplicates of training images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]

OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mcc": "Matthews correlation",
}
CALIBRATION = {
    "ece": "expected calibration error, 15 bins",
    "log_loss": "log loss, nats",
    "brier": "Brier score, 0 to 2",
}
PER_CLASS = {
    "recall": "recall",
    "precision": "precision",
    "specificity": "specificity",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
}

LOCALISATION = {
    "energy_ratio": "energy-based pointing game, ratio to the area share",
    "pointing_game": "pointing game, share of images",
    "average_precision": "average precision of the pixels",
}


@dataclass(frozen=True)
class Cell:
    """A metric and its 95% interval; None where it has no meaning."""

    # value, low, high: as in metrics.json
    value: float | None
    low: float | None
    high: float | None
    n: int | None  # images behind it

    @property
    def text(self) -> str:
        """The value, four digits."""
        return "-" if self.value is None else f"{self.value:.4f}"

    @property
    def interval(self) -> str:
        """The ends of the interval, three digits."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.3f} to {self.high:.3f}"

    @property
    def bar(self) -> tuple[float, float, float] | None:
        """Start, width and value in percent of the range 0..1; None where it does not fit."""
        ends = (self.value, self.low, self.high)
        if any(end is None or not 0 <= end <= 1 for end in ends):
            return None
        value, low, high = (float(end) for end in ends if end is not None)
        return 100 * low, 100 * (high - low), 100 * value


@dataclass(frozen=True)
class Row:
    """One metric: of all images, and of those that show no training image."""

    name: str
    all: Cell
    clean: Cell | None


def cell(record: Record | None) -> Cell:
    """From {value, low, high, n}; anything else than a number is None."""
    record = record or {}
    numbers = [record.get(key) for key in ("value", "low", "high")]
    value, low, high = (
        float(number) if isinstance(number, int | float) else None for number in numbers
    )
    n = record.get("n")
    return Cell(value, low, high, int(n) if isinstance(n, int | float) else None)


def clean_subset(metrics: Record) -> Record | None:
    """The subset without near-duplicates, where it differs from all images."""
    clean = metrics.get("without_near_duplicates")
    return clean if clean and clean["n"] < metrics["all"]["n"] else None


def rows(metrics: Record, names: dict[str, str]) -> list[Row]:
    """The metrics called `names`, those that there are."""
    every, clean = metrics["all"]["metrics"], clean_subset(metrics)
    return [
        Row(label, cell(every[name]), cell(clean["metrics"].get(name)) if clean else None)
        for name, label in names.items()
        if name in every
    ]


def by_class(metrics: Record) -> Iterator[tuple[str, int, list[Cell]]]:
    """Each class, its images and its metrics in the order of `PER_CLASS`."""
    values = metrics["all"]["metrics"]
    for name in metrics["classes"]:
        cells = [cell(values.get(f"{metric}_{name}")) for metric in PER_CLASS]
        yield name, int(metrics["all"]["support"].get(name, 0)), cells


def localised(explained: Record | None, classes: list[str]) -> list[tuple[str, str, list[Cell]]]:
    """How maps fit marked tumors: network or baseline, tumors, metrics as in `LOCALISATION`.

    Subsets by size or decision are left out.
    """
    measured = (explained or {}).get("localization", {})
    tables = {name: found["network"] for name, found in measured.items()}
    for found in measured.values():
        tables["centre prior"] = found["centre_prior"]  # that of the images, whatever the network
    return [
        (name, subset, [cell(table[subset].get(metric)) for metric in LOCALISATION])
        for subset in ("all", *classes)
        for name, table in tables.items()
        if subset in table
    ]


def bias(metrics: Record) -> list[Row]:
    """Class-wise bias; empty for an evaluation of an earlier version."""
    clean = (clean_subset(metrics) or {}).get("metrics", {})
    return [
        Row(one["label"], cell(one), cell(clean[name]) if name in clean else None)
        for name, one in metrics.get("bias", {}).get("metrics", {}).items()
    ]


def leakage_sentence(metrics: Record) -> str:
    """In a sentence: how many scored images show a training image, and what that is worth."""
    duplicates = metrics.get("duplicates_in_training")
    if duplicates is None:
        return "Whether these images show training images is not known."
    exact, near = (sum(duplicates[kind].values()) for kind in ("exact", "near"))
    n = metrics["all"]["n"]
    if exact + near == 0:
        return "None of these images is a near-duplicate of a training image."
    near_duplicates = (
        f"{exact + near:,} of these {n:,} images are near-duplicates of a training image "
        f"({exact:,} byte for byte, {near:,} mirrored, turned or re-encoded)"
    )
    gain = cell(metrics.get("leakage_inflation", {}).get("accuracy"))
    if gain.value is None or gain.low is None or gain.high is None:
        return f"{near_duplicates}; none is left to score without them."
    return (
        f"{near_duplicates}. They inflate accuracy by {100 * gain.value:.1f} points (95% "
        f"{100 * gain.low:.1f} to {100 * gain.high:.1f})."
    )


def wrong(metrics: Record) -> int:
    """Images predicted wrong."""
    table = metrics["all"]["confusion_matrix"]
    return int(sum(map(sum, table)) - sum(table[index][index] for index in range(len(table))))
