"""Folders and files that explain themselves and are never half-written.

A command that writes a folder claims it first: a new or empty folder is taken; one whose
`manifest.json` says that the same command of tumorlens wrote it may be rewritten; any other is
refused.
"""

import contextlib
import csv
import errno
import gzip
import io
import json
import math
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorlens import __version__
from tumorlens.errors import DISK_FULL, TumorlensError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MANIFEST = "manifest.json"
# What a shell has opened for a process: replaced, the output would be where nobody reads it.
_OF_PROCESS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
SCHEMA = 2  # of everything that tumorlens writes: JSON, predictions, checkpoints, ONNX metadata
# Keys of schema 1 and their names since.
_SCHEMA_1 = {
    "figures": "metrics",
    "part": "split",
    "part_scored": "split_scored",
    "flattery": "leakage_inflation",
    "copies_in_training": "duplicates_in_training",
    "without_copies": "without_near_duplicates",
    "without_exact_copies": "without_exact_duplicates",
    "same_picture": "near_duplicates",
    "with_copy": "with_near_duplicate",
    "beyond_chance": "significant",
    "novelty_threshold": "ood_threshold",
    "energy_in_box": "energy_pointing_game",
    "energy_over_chance": "energy_ratio",
    "pointing_chance": "pointing_area_share",
    "centre": "centre_prior",
    "looking": "attribution",
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; on success it takes the place of `path`, else it vanishes.

    A link stays, and what it names is replaced. A pipe or a device stays too: it is written to.

    Raises:
        TumorlensError: `path` cannot be written; whatever else the block raises is passed on.
    """
    beside = path
    try:
        if not _is_replaced(path):
            with tempfile.TemporaryDirectory() as folder:
                beside = Path(folder, f"output{path.suffix}")
                yield beside
                with beside.open("rb") as written, path.open("ab", buffering=0) as through:
                    shutil.copyfileobj(written, through)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of our own: that of `path` may be as long as the system allows.
        beside = target.with_name(f".{secrets.token_hex(8)}{path.suffix[:16]}")
        try:
            beside.touch(exist_ok=False)
            yield beside
            with beside.open("rb+") as written:  # Windows flushes only what may be written
                os.fsync(written.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        named = error.filename
        if error.errno not in DISK_FULL if named is None else named not in _names(path, beside):
            raise
        raise TumorlensError(
            f"{path}: cannot be written ({error.strerror}); free some room or name another place."
        ) from error


def _names(*paths: Path) -> set[str]:
    return {str(name) for path in paths for name in (path, *path.parents)}


def _is_replaced(path: Path) -> bool:
    """Whether a new file may take the place of `path`: not of a pipe, a device, a process's own."""
    if not path.exists() or path.is_file():
        return not str(path.absolute()).startswith(_OF_PROCESS)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    return False


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` in one step; compressed where the name ends in .gz."""
    with replacing(path) as beside:
        if path.suffix == ".gz":
            content = text.encode(errors="backslashreplace")
            beside.write_bytes(gzip.compress(content, mtime=0))  # same text, same bytes
        else:
            # A path that is no UTF-8 is written as JSON and Python write it: \udce9.
            beside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, lines ended by a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_image(path: Path, pixels: "npt.NDArray[np.uint8] | npt.NDArray[np.uint16]") -> None:
    """Write (H, W) or, of 8 bits, (H, W, 3) `pixels` as PNG in one step."""
    from PIL import Image  # noqa: PLC0415 (files are written without images too)

    content = io.BytesIO()  # Pillow itself does not say why a file cannot be written
    Image.fromarray(pixels).save(content, "PNG")
    with replacing(path) as beside:
        beside.write_bytes(content.getvalue())


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


def check_claim(folder: Path, command: str) -> None:
    """See whether `command` may write in `folder`, before long work and without touching it.

    Raises:
        TumorlensError: it is a file, or a folder with content that `command` did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise TumorlensError(
            f"--out_dir {folder}: is a file, expected a folder; name another --out_dir."
        )
    if folder.is_dir() and any(folder.iterdir()):
        writer = _writer(folder)
        if writer != command:
            found = f"written by tumorlens {writer}" if writer else "not written by tumorlens"
            raise TumorlensError(
                f"--out_dir {folder}: the folder is not empty and was {found}, so `{command}` "
                "leaves it alone; name a new --out_dir, or empty this one."
            )


def claim(folder: Path, command: str) -> Path:
    """Make `folder` ready for `command` to write in.

    Raises:
        TumorlensError: see `check_claim`; or it cannot be made.
    """
    check_claim(folder, command)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TumorlensError(
            f"--out_dir {folder}: cannot be made ({error.strerror}); name another --out_dir."
        ) from error
    # A manifest from the first moment on: after an interruption the same command may start over.
    write_manifest(folder, command, complete=False)
    return folder


def _writer(folder: Path) -> str | None:
    try:
        manifest = read_json(folder / MANIFEST)
        return str(manifest["command"]) if manifest.get("tool") == "tumorlens" else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def read_json(path: Path) -> Any:
    """Content of a JSON file, with today's keys if it is of schema 1.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON.
    """
    return standard_keys(json.loads(path.read_text(encoding="utf-8")))


def standard_keys(content: Any) -> Any:
    """Content of a file, JSON or checkpoint, with today's keys if it is of schema 1."""
    if not isinstance(content, dict) or content.get("schema") != 1:
        return content
    if "verb" in content:  # a manifest: `command` was the list of arguments
        content = content | {"command": content["verb"], "arguments": content.get("command", [])}
        del content["verb"]
    return _renamed(content) | {"schema": SCHEMA}


def _renamed(content: Any) -> Any:
    if isinstance(content, list):
        return [_renamed(value) for value in content]
    if isinstance(content, dict):
        return {_SCHEMA_1.get(key, key): _renamed(value) for key, value in content.items()}
    return content


def write_manifest(folder: Path, command: str, *, complete: bool = True, **facts: Any) -> None:
    """Leave `manifest.json` in `folder`: who wrote it, when, from what, with which versions."""
    write_json(
        folder / MANIFEST,
        {
            "tool": "tumorlens",
            "schema": SCHEMA,
            "command": command,
            "complete": complete,
            "tumorlens": __version__,
            "arguments": sys.argv,
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
