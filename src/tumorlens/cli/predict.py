"""`tumorlens predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tumorlens.cli.flags import parse
from tumorlens.settings import PredictSettings

if TYPE_CHECKING:
    from rich.console import Console

    from tumorlens.inference.predict import Prediction

# Of more slices than these the terminal shows no row each.
_MOST_ROWS = 40


def run(argv: Sequence[str], prog: str) -> int:
    """Classify files; print a table, or JSON lines."""
    settings = parse(PredictSettings, argv, prog, positional=("paths",))
    from tumorlens.cli import DONE, FAILED_CHECK
    from tumorlens.cli.console import of_results, shown
    from tumorlens.inference.predict import UNREADABLE, predict

    rows: list[Prediction] = []

    def told(one: Prediction) -> None:
        if settings.json:
            print(json.dumps(one.to_dict(), ensure_ascii=False))
            return
        few = len(rows) < _MOST_ROWS
        if few or (one.decision == UNREADABLE and len(rows) < 2 * _MOST_ROWS):
            rows.append(one)

    with shown() as progress:
        found = predict(settings, progress, told)
    console = of_results(stderr=settings.json)
    if not settings.json:
        _print(rows, sum(found.decisions.values()), console)
    counts = ", ".join(f"{number:,} {decision}" for decision, number in found.decisions.items())
    console.print(f"{found.network}: {counts}.")
    if found.left_out:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in found.left_out.items())
        console.print(f"Not taken from folders: {reasons}.")
    if found.note:
        console.print(f"Note: {found.note}")
    if not found.calibrated:
        console.print(
            "Note: this checkpoint has no calibration, so nothing is decided: a probability of 0.9 "
            "need not come true in 9 of 10 cases. Training with validation images makes one."
        )
    for where in (settings.csv, settings.heatmaps):
        if where is not None:
            console.print(f"Written: {where}", soft_wrap=True)
    console.print("For research: not a medical device, and no diagnosis.")
    return FAILED_CHECK if found.unreadable else DONE


def _print(rows: Sequence[Prediction], total: int, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    sets = any(one.decided and one.decided.set for one in rows)
    for name in ("file", "slice", "class", "probability", "decision", *(["set"] if sets else [])):
        table.add_column(name, overflow="fold")
    for one in rows:
        answer = one.decided
        table.add_row(
            escape(one.path),
            "" if one.index is None else str(one.index),
            answer.prediction if answer else "",
            f"{answer.probabilities.max():.3f}" if answer else "",
            one.decision if answer else f"{one.decision}: {escape(one.reason)}",
            *([escape(answer.set_words) if answer else ""] if sets else []),
        )
    console.print(table)
    if total > len(rows):
        console.print(f"... {total - len(rows):,} more; --csv FILE has all of them.")
