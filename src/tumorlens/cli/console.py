"""Where the verbs print their results, and the look of their tables."""

import os

from rich import box
from rich.console import Console
from rich.table import Table

# Columns of a file or pipe, where nobody's window ends: tables are not cut to 80.
_UNBOUNDED = 200


def of_results(*, stderr: bool = False) -> Console:
    """The console for results, as wide as the terminal, or as the tables need."""
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
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
