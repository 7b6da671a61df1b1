"""Images decoded once, kept as 8-bit squares in one file on disk.

A file is known by its content alone: whoever asks for the same content at the same size shares its
entry, whatever the file is called and which others are asked for with it. A changed file is decoded
by itself. A file that cannot be decoded is not kept; it is tried again the next time.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import platformdirs

from tumorlens.data import cache_file
from tumorlens.data.cache_file import CacheFile, Entry
from tumorlens.data.hashing import fingerprint
from tumorlens.data.readers import ImageFacts, decoders_silent, fit_square, read_grey_with_facts
from tumorlens.errors import TumorlensError, UnreadableImageError
from tumorlens.progress import Progress, silent

# Bytes of pixels that stay on disk: the public set at 96 and at 224 pixels takes a twentieth.
DEFAULT_BOUND = 8 << 30

_DIGEST_BYTES = 16
_WRITTEN_AT_ONCE = 256  # in one transaction: what a power failure may lose

Item = TypeVar("Item")
Result = TypeVar("Result")
Faults = dict[str, str]  # path to why it cannot be decoded


@dataclass(frozen=True, eq=False)
class CachedImages:
    """N images, in the order they were asked for."""

    # (N, size, size) uint8, `readers.fit_square`; zeros where `faults` names the file
    images: npt.NDArray[np.uint8]
    # (N, 32) uint8, `fingerprint.fingerprint` of the image as stored
    fingerprints: npt.NDArray[np.uint8]
    # (N, 16) uint8, BLAKE2b of the file's bytes: equal for byte-identical files
    digests: npt.NDArray[np.uint8]
    # what each file says of itself; None where it could not be decoded
    facts: tuple[ImageFacts | None, ...]
    faults: dict[str, str]  # path to the sentence that says why it could not be decoded
    # how many images were decoded now, one for files of the same content; 0 when all came from the
    # cache
    decoded: int
    note: str = ""  # why the cache on disk could not be used; empty when it was


def cache_folder() -> Path:
    """Where entries live: `$TUMORLENS_CACHE`, else the user's cache folder for tumorlens."""
    named = os.environ.get("TUMORLENS_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("tumorlens"))


def size_bound() -> int:
    """How many bytes of pixels stay on disk: `$TUMORLENS_CACHE_SIZE`, else 8 GiB.

    Raises:
        TumorlensError: the variable is no size.
    """
    named = os.environ.get("TUMORLENS_CACHE_SIZE", "").strip()
    if not named:
        return DEFAULT_BOUND
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(?:I?B)?", named.upper())
    if size is None:
        raise TumorlensError(
            f"TUMORLENS_CACHE_SIZE: found `{named}`, expected bytes such as 2000000000, or a size "
            "such as 500M or 2G."
        )
    return int(float(size[1]) * 1024 ** " KMGT".index(size[2] or " "))


def load(root: Path, paths: Sequence[str], size: int, progress: Progress = silent) -> CachedImages:
    """Decode `paths` below `root`, or find them decoded.

    Args:
        root: the data folder.
        paths: relative to `root`, forward slashes.
        size: side of the square, pixels.
        progress: called at the stages "reading" and "decoding", a step a file. Where it raises,
            what was decoded so far is kept.

    Never raises for a bad image (see `faults`) nor for a cache that cannot be used (`note`).

    Raises:
        TumorlensError: see `size_bound`.
    """
    bound = size_bound()
    digests = _digests(root, paths, progress)
    images = np.zeros((len(paths), size, size), dtype=np.uint8)
    fingerprints = np.zeros((len(paths), 32), dtype=np.uint8)
    facts: list[ImageFacts | None] = [None] * len(paths)
    faults: Faults = {}
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest is not None:
            rows.setdefault(digest, []).append(row)

    def place(entry: Entry) -> None:
        for row in rows[entry.digest]:
            images[row] = entry.square
            fingerprints[row] = entry.fingerprint
            facts[row] = entry.facts

    def decode(same: list[int]) -> Entry | Faults:
        return _first_decoded(root, [paths[row] for row in same], digests[same[0]], images[same[0]])

    with CacheFile(cache_folder(), size) as file, decoders_silent():
        for entry in file.read(rows):
            place(entry)
        missing = [same for same in rows.values() if facts[same[0]] is None]
        # What cannot even be read has no content to be known by.
        missing += [[row] for row, digest in enumerate(digests) if digest is None]
        decoded = 0
        for made in _kept(_in_order(decode, missing, "decoding", progress), file):
            if isinstance(made, Entry):
                decoded += 1
                place(made)
            else:
                faults.update(made)
        file.tidy(bound, rows)
    joined = b"".join(digest or bytes(_DIGEST_BYTES) for digest in digests)
    return CachedImages(
        images,
        fingerprints,
        np.frombuffer(joined, dtype=np.uint8).reshape(-1, _DIGEST_BYTES),
        tuple(facts),
        dict(sorted(faults.items())),
        decoded,
        file.note,
    )


def clear() -> tuple[int, int]:
    """Remove every entry; return how many there were and their size in bytes.

    Raises:
        TumorlensError: the cache cannot be removed.
    """
    entries, size = contents()
    try:
        cache_file.remove(cache_folder())
    except OSError as error:
        raise TumorlensError(
            f"{error.filename or cache_folder()}: cannot be removed ({error.strerror or error}); "
            "remove it as the user it belongs to."
        ) from error
    return entries, size


def contents() -> tuple[int, int]:
    """How many entries there are, one a file content and size, and the bytes they take on disk."""
    return cache_file.contents(cache_folder())


def _kept(made: Iterator[Entry | Faults], file: CacheFile) -> Iterator[Entry | Faults]:
    """Pass on what is made, and keep it on disk, some at a time."""
    fresh: list[Entry] = []
    try:
        for one in made:
            if isinstance(one, Entry):
                fresh.append(one)
            if len(fresh) == _WRITTEN_AT_ONCE:
                file.write(fresh)
                fresh = []
            yield one
    finally:  # also when the user interrupts
        if fresh:
            file.write(fresh)


def _in_order(
    work: Callable[[Item], Result], items: Sequence[Item], stage: str, progress: Progress
) -> Iterator[Result]:
    from joblib import cpu_count  # noqa: PLC0415 (a tenth of a second; honours affinity and quota)

    # Threads suffice: Pillow and hashlib release the interpreter's lock where the time goes.
    with ThreadPoolExecutor(max_workers=cpu_count()) as pool:
        try:
            for done, result in enumerate(pool.map(work, items), start=1):
                yield result
                if done % 64 == 0 or done == len(items):
                    progress(stage, done, len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _digests(root: Path, paths: Sequence[str], progress: Progress) -> list[bytes | None]:
    """Of each file's bytes; None where it cannot be read."""
    folder = str(root)

    def digest(path: str) -> bytes | None:
        try:
            with open(f"{folder}/{path}", "rb") as file:  # noqa: PTH123 (a third of the time)
                return _digest(file.read())
        except OSError:
            return None

    # A hundred files a task: one of these files takes less time than handing it to a thread.
    tasks = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    found: list[bytes | None] = []
    for block in _in_order(lambda task: [digest(path) for path in task], tasks, "", silent):
        found += block
        progress("reading", len(found), len(paths))
    return found


def _first_decoded(
    root: Path, same: Sequence[str], digest: bytes | None, square: npt.NDArray[np.uint8]
) -> Entry | Faults:
    """Paths of one content: the first that can be decoded speaks for all."""
    faults = {}
    for path in same:
        try:
            return _decode(root / path, digest, square)
        except UnreadableImageError as error:
            faults[path] = str(error)
    return faults


def _decode(path: Path, digest: bytes | None, square: npt.NDArray[np.uint8]) -> Entry:
    """Decode a file into `square`, (size, size) uint8.

    Raises:
        UnreadableImageError: it cannot be decoded, or is not what had this digest.
    """
    try:
        content = path.read_bytes()
    except OSError:
        content = None  # the reader says why
    grey, facts = read_grey_with_facts(path, content)
    # An entry is never of another content than it is known by.
    if content is None or digest is None or _digest(content) != digest:
        raise UnreadableImageError(f"{path}: changed while it was read; start again.")
    square[:] = fit_square(grey, len(square))
    return Entry(digest, square, fingerprint(grey), facts)
