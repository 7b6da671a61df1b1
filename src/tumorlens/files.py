"""Folders and files that explain themselves and are never half-written.

A verb that writes a folder claims it first: a new or empty folder is taken; one whose
`manifest.json` says that the same verb of tumorlens wrote it may be rewritten; any other is
refused.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import platform
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tumorlens import __version__
from tumorlens.errors import TumorlensError

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; on success it takes the place of `path`, else it vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o666 & ~_umask())
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` in one step; compressed where the name ends in .gz."""
    with replacing(path) as beside:
        if path.suffix == ".gz":
            beside.write_bytes(gzip.compress(text.encode(), mtime=0))  # same text, same bytes
        else:
            beside.write_text(text, encoding="utf-8", newline="\n")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, lines ended by a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def read_table(
    path: Path, flag: str, needed: Sequence[str]
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and column names, without spaces around them; columns are joined by commas.

    Args:
        path: the file; UTF-8, with or without byte order mark; compressed if it ends in .gz.
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
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [
                {key: (value or "").strip() for key, value in row.items() if key} for row in reader
            ]
    except FileNotFoundError:
        raise TumorlensError(f"{name}: there is no such file; {expected}.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise TumorlensError(f"{name}: cannot be read as CSV ({error}); {expected}.") from error
    missing = [f"`{column}`" for column in needed if column not in columns]
    if missing:
        raise TumorlensError(
            f"{name}: has no column {', '.join(missing)}; found {', '.join(columns) or 'nothing'}; "
            f"{expected}."
        )
    return rows, columns


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` in one step; NaN and infinity become null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_finite(item) for item in value]
    return value


def check_claim(folder: Path, verb: str) -> None:
    """See whether `verb` may write in `folder`, before long work and without touching it.

    Raises:
        TumorlensError: it is a file, or a folder with content that `verb` did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise TumorlensError(
            f"--out_dir {folder}: is a file, expected a folder; name another --out_dir."
        )
    if folder.is_dir() and any(folder.iterdir()):
        writer = _writer(folder)
        if writer != verb:
            found = f"written by tumorlens {writer}" if writer else "not written by tumorlens"
            raise TumorlensError(
                f"--out_dir {folder}: the folder is not empty and was {found}, so `{verb}` leaves "
                "it alone; name a new --out_dir, or empty this one."
            )


def claim(folder: Path, verb: str) -> Path:
    """Make `folder` ready for `verb` to write in.

    Raises:
        TumorlensError: see `check_claim`; or it cannot be made.
    """
    check_claim(folder, verb)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TumorlensError(
            f"--out_dir {folder}: cannot be made ({error.strerror}); name another --out_dir."
        ) from error
    # A manifest from the first moment on: after an interruption the same verb may start over.
    write_manifest(folder, verb, complete=False)
    return folder


def _writer(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return str(manifest["verb"]) if manifest.get("tool") == "tumorlens" else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def write_manifest(folder: Path, verb: str, *, complete: bool = True, **facts: Any) -> None:
    """Leave `manifest.json` in `folder`: who wrote it, when, from what, with which versions."""
    write_json(
        folder / MANIFEST,
        {
            "tool": "tumorlens",
            "schema": MANIFEST_SCHEMA,
            "verb": verb,
            "complete": complete,
            "tumorlens": __version__,
            "command": sys.argv,
            "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            **environment(),
            **facts,
        },
    )


def environment() -> dict[str, Any]:
    """Python, platform and the versions of the packages that numbers depend on."""
    names = ("torch", "lightning", "numpy", "scipy", "scikit-learn", "Pillow")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
    }
