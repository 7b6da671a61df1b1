"""What the commands print: results, tables, and how far the work is."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tumorlens.progress import Progress as Listener

# Columns of a file or pipe, where nobody's window ends: tables are not cut to 80.
_UNBOUNDED, _LEAST = 200, 10
_SECONDS_BETWEEN_LINES = 30.0
# Steps of these stages are news in themselves, printed above the bar.
_NEWS = ("class", "network", "epoch")


def of_results(*, stderr: bool = False) -> Console:
    """The console for results, as wide as the terminal, or as the tables need."""
    console = Console(highlight=False, stderr=stderr)
    # COLUMNS=0, as some containers have it, would show nothing at all.
    if not (console.is_terminal or "COLUMNS" in os.environ) or console.width < _LEAST:
        console.width = _UNBOUNDED
    return console


def titled_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


@contextlib.contextmanager
def shown() -> Iterator[Listener]:
    """A listener that draws on standard error: bars with the time left, or lines in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage in _NEWS:
            self.bars.console.print(f"{stage} {done:>3}/{total}  {note}", highlight=False)
            return
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total, note=note)
        self.bars.update(self.tasks[stage], completed=done, total=total, note=note)


class _Lines:
    def __init__(self) -> None:
        self.started: dict[str, tuple[float, int]] = {}
        self.last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if stage in _NEWS:
            print(f"{stage} {done:>3}/{total}  {note}", file=sys.stderr, flush=True)
            return
        began, first = self.started.setdefault(stage, (now, done - 1))
        if now - self.last < _SECONDS_BETWEEN_LINES:
            return
        self.last = now
        left = (now - began) / max(1, done - first) * (total - done)
        print(
            f"{stage} {done}/{total}, {left / 60:.1f} min left  {note}", file=sys.stderr, flush=True
        )
