"""Files of results/ as cells and rows of Markdown tables."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
NETWORKS = {"resnet18": "ResNet18", "se_resnet18": "SE-ResNet18"}
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "recall_glioma": "glioma recall",
    "recall_meningioma": "meningioma recall",
}
MORE = METRICS | {
    "recall_notumor": "notumor recall",
    "recall_pituitary": "pituitary recall",
    "tumor_accuracy": "accuracy, tumors alone",
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def rows_of(name: str, **only: str) -> list[dict[str, str]]:
    """Rows of a CSV, those with these values alone."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[k] == v for k, v in only.items())]


def by_metric(rows: Iterable[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Rows by the metric they are of, which older files call a figure."""
    return {row.get("metric") or row["figure"]: row for row in rows}


def read(name: str) -> Any:
    """A JSON file's content."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def number(value: Any, digits: int = 3) -> str:
    """A number with so many digits."""
    return f"{float(value):.{digits}f}"


def with_interval(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A value and its interval, or its range."""
    return f"{number(value, digits)} ({number(low, digits)}, {number(high, digits)})"


def points(row: Mapping[str, str], *, turned: bool = False) -> str:
    """A difference in percentage points; `turned`: the other way round."""
    names, sign = (
        (("difference", "high", "low"), -100) if turned else (("difference", "low", "high"), 100)
    )
    return with_interval(*(sign * float(row[name]) for name in names), digits=1)


def estimate(found: Mapping[str, Any], digits: int = 3) -> str:
    """A JSON estimate: value or median, with interval or range."""
    value = found["value"] if "value" in found else found["median"]
    ends = found.get("interval_95") or [found[k] for k in ("low", "high") if k in found]
    return with_interval(value, *(ends or (found["min"], found["max"])), digits=digits)
