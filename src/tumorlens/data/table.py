"""A CSV that the user gives, read as it is or refused in one sentence."""

import csv
from collections.abc import Sequence
from pathlib import Path

from tumorlens.errors import TumorlensError


def read_table(
    path: Path, flag: str, needed: Sequence[str]
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and column names, without spaces around them; columns are joined by commas.

    Args:
        path: the file; UTF-8, with or without byte order mark.
        flag: that named it, for the sentence; "" for a file that is named by its place.
        needed: columns that must be there; others may be.

    Returns:
        Each row's value by column, "" where it has none; the columns in the file's order.

    Raises:
        TumorlensError: no such file, no CSV, or a column is missing.
    """
    name = f"{flag} {path}".strip()
    expected = f"expected a CSV with the columns {', '.join(needed)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [
                {key: (value or "").strip() for key, value in row.items() if key} for row in reader
            ]
    except FileNotFoundError:
        raise TumorlensError(f"{name}: there is no such file; {expected}.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TumorlensError(f"{name}: cannot be read as CSV ({error}); {expected}.") from error
    missing = [f"`{column}`" for column in needed if column not in columns]
    if missing:
        raise TumorlensError(
            f"{name}: has no column {', '.join(missing)}; found {', '.join(columns) or 'nothing'}; "
            f"{expected}."
        )
    return rows, columns
