"""Progress on the terminal: a bar with the time left; in a log file a line now and then."""

import contextlib
import sys
import time
from collections.abc import Iterator

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

from tumorlens.progress import Progress as Listener

_SECONDS_BETWEEN_LINES = 30.0
# Steps of these stages are news in themselves, printed above the bar.
_NEWS = ("epoch",)


@contextlib.contextmanager
def shown() -> Iterator[Listener]:
    """A listener that draws on standard error for as long as the context lasts."""
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
