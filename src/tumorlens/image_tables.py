"""Tables of images, such as splits, patients and boxes, as programs and spreadsheets write them.

`Tabular` results have one to give away.

Columns are separated by commas, semicolons or tabs; the text is UTF-8, UTF-16 with its mark or
Windows-1252; the columns known here may be in capitals or have another name; empty rows and empty
columns are passed over. Anything else is refused with the line it is in.
"""

import contextlib
import csv
import gzip
import io
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tumorlens.errors import TumorlensError

# Columns in small letters, and other names of some.
_COLUMNS = {"person": "patient", "exam": "examination"} | {
    name: name
    for name in (
        *("path", "label", "split", "fold", "run", "patient", "examination", "site", "group"),
        *("hash", "outline", "plane", "box_x0", "box_y0", "box_x1", "box_y1"),
    )
}
_MOST_BYTES = 100_000_000  # about a million images
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Value = TypeVar("Value")


class Tabular:
    """A result that is a table too, of text and numbers."""

    def table(self) -> dict[str, list[Any]]:
        """Column to its values, of each row one."""
        raise NotImplementedError

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame.

        Raises:
            TumorlensError: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415 (no dependency of ours)
        except ImportError:
            raise TumorlensError(
                "to_frame needs pandas, which is not installed: `pip install pandas`, or take "
                "table()."
            ) from None
        return pandas.DataFrame(self.table())


def transposed(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Column to its values."""
    return {name: [row[at] for row in rows] for at, name in enumerate(header)}


def composed(path: str) -> str:
    """`path` in the composed form of Unicode (NFC), by which paths are compared: disks differ."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


class ByPath(dict[str, Value]):
    """What is known by path, whichever form of Unicode the path comes in."""

    def __init__(self, content: Mapping[str, Value]) -> None:
        super().__init__({composed(path): value for path, value in content.items()})

    def __getitem__(self, path: str) -> Value:
        return super().__getitem__(composed(path))

    def __contains__(self, path: object) -> bool:
        return super().__contains__(composed(str(path)))

    def get(self, path: str, default: Any = None) -> Any:
        """Value of a path, or `default`."""
        return super().get(composed(path), default)


def read_table(
    path: Path, flag: str, needed: Sequence[str], *, repeated: bool = False
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and column names; paths come back relative, composed, with forward slashes.

    Args:
        path: the file; compressed if it ends in .gz.
        flag: that named it, for the sentence; "" for a file that is named by its place.
        needed: columns that must be there, `path` among them; others may be.
        repeated: whether an image may have several rows.

    Returns:
        Each row's value by column, without spaces around it, "" where it has none; the columns in
        the file's order.

    Raises:
        TumorlensError: no such file, no table, a column that is missing or there twice, a value
            without a column, a path that is absolute or comes twice.
    """
    name = f"{flag} {path}".strip()
    expected = f"expected a CSV with the columns {', '.join(needed)}"
    header, *lines = _lines(_text(path, name, expected), name, expected)
    columns = [_COLUMNS.get(column.lower(), column) for column in header[1]]
    found = [column for column in columns if column]
    missing = [f"`{column}`" for column in needed if column not in columns]
    if missing:
        raise TumorlensError(
            f"{name}: has no column {', '.join(missing)}; found {', '.join(found) or 'nothing'}; "
            f"{expected}."
        )
    twice = [column for column, count in Counter(found).items() if count > 1]
    if twice:
        raise TumorlensError(
            f"{name}: has the column `{twice[0]}` twice, by this or another name; keep one."
        )
    rows = []
    for number, values in lines:
        row = dict(zip(columns, values + [""] * len(columns), strict=False))
        if row.pop("", "") or any(values[len(columns) :]):
            raise TumorlensError(
                f"{name}: line {number} has a value without a column; expected "
                f"{', '.join(found)}, and quotation marks around a value with a comma in it."
            )
        row["path"] = _relative(row["path"], f"{name}: line {number}")
        rows.append(row)
    again = [one for one, count in Counter(row["path"] for row in rows).items() if count > 1]
    if again and not repeated:
        raise TumorlensError(f"{name}: lists {again[0]} more than once; list it once.")
    return rows, found


def rows_for(
    paths: Sequence[str], rows: Mapping[str, Mapping[str, str]], name: str
) -> list[Mapping[str, str]]:
    """What a table, called `name`, says of each image by path; nothing where it has no row.

    Raises:
        TumorlensError: it has none of the images.
    """
    known = ByPath(rows)
    if paths and not any(path in known for path in paths):
        raise TumorlensError(
            f"{name}: lists none of the images; it has {next(iter(rows), 'no row')}, the data "
            f"folder has {paths[0]}. Paths are relative to --data_dir."
        )
    return [known.get(path, {}) for path in paths]


def read_groups(path: Path) -> ByPath[str]:
    """Read a table with columns `path, group`: path to the name of its group.

    Raises:
        TumorlensError: no such file or column, a path twice.
    """
    rows, _ = read_table(path, "--groups", ("path", "group"))
    return ByPath({row["path"]: row["group"] for row in rows if row["group"]})


def _text(path: Path, name: str, expected: str) -> str:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise TumorlensError(f"{name}: there is no such file; {expected}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TumorlensError(f"{name}: cannot be read as CSV ({error}); {expected}.") from error
    if len(content) > _MOST_BYTES:
        raise TumorlensError(f"{name}: holds more than {_MOST_BYTES:,} bytes; {expected}.")
    if content.startswith(b"PK\3\4"):
        raise TumorlensError(f"{name}: is a workbook or an archive; save it as CSV and name that.")
    for encoding in ("utf-16" if content[:2] in _UTF16_MARKS else "utf-8-sig", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if "\0" not in text:
                return text
    raise TumorlensError(
        f"{name}: cannot be read as CSV (no text of UTF-8, UTF-16 or Windows-1252); {expected}."
    )


def _lines(text: str, name: str, expected: str) -> list[tuple[int, list[str]]]:
    """Number and values of each line that is not empty; at least one, the header."""
    # Excel may say in a line before the header what separates the columns.
    first = next((line for line in text.splitlines() if line.strip()), "")
    named = first.lower().startswith("sep=")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        found = [
            (reader.line_num, [value.strip() for value in line])
            for line in reader
            if any(value.strip() for value in line)
        ]
    except csv.Error as error:
        raise TumorlensError(f"{name}: cannot be read as CSV ({error}); {expected}.") from error
    return found[named:] or [(1, [])]


def _relative(path: str, place: str) -> str:
    """A path as those of the data folder are written."""
    plain = path.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if not parts or plain.startswith("/") or parts[0].endswith(":") or ".." in parts:
        raise TumorlensError(
            f"{place} has the path `{path}`; expected one relative to the data folder, such as "
            "train/glioma/a.png."
        )
    return composed("/".join(parts))
