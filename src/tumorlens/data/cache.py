"""Pictures decoded once, kept as 8-bit squares, memory-mapped from then on.

A cache entry is a folder named by what is in it: the digest of every file's path and content, the
side of the square and the decoder's version. A changed file therefore makes a new entry, and an
entry never changes once it is there: it is written beside its place and renamed into it, so that
two processes may make the same one at once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import platformdirs

from tumorlens.data.fingerprint import fingerprint
from tumorlens.data.readers import ImageFacts, fit_square, read_grey_with_facts
from tumorlens.errors import UnreadableImageError
from tumorlens.progress import Progress, silent

# Part of every entry's name: raise it when decoding, fitting or fingerprinting changes.
_VERSION = 1
_Entry = tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.uint8],
    tuple["ImageFacts | None", ...],
    dict[str, str],
]
_DIGEST_BYTES = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CachedImages:
    """N pictures, in the order they were asked for.

    Attributes:
        images: (N, size, size) uint8, `readers.fit_square`; zeros where `faults` names the file.
        fingerprints: (N, 32) uint8, `fingerprint.fingerprint` of the picture as stored.
        digests: (N, 16) uint8, BLAKE2b of the file's bytes: equal for byte-identical files.
        facts: what each file says of itself; None where it could not be decoded.
        faults: path to the sentence that says why it could not be decoded.
        decoded: how many files were decoded now; 0 when all came from the cache.
        note: why the pictures could not be kept on disk; empty when they were.
    """

    images: npt.NDArray[np.uint8]
    fingerprints: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]
    facts: tuple[ImageFacts | None, ...]
    faults: dict[str, str]
    decoded: int
    note: str = ""


def cache_folder() -> Path:
    """Where entries live: `$TUMORLENS_CACHE`, else the user's cache folder for tumorlens."""
    named = os.environ.get("TUMORLENS_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("tumorlens"))


def load(root: Path, paths: Sequence[str], size: int, progress: Progress = silent) -> CachedImages:
    """Decode `paths` below `root`, or find them decoded.

    Args:
        root: the data folder.
        paths: relative to `root`, forward slashes.
        size: side of the square, pixels.
        progress: told of the stages "reading" and "decoding", a step a file.

    Never raises for a bad picture (see `faults`) nor for a cache that cannot be written (`note`).
    """
    digests, missing = _digests(root, paths, progress)
    key = hashlib.blake2b(f"{_VERSION} {size}".encode(), digest_size=_DIGEST_BYTES)
    for path, digest in zip(paths, digests, strict=True):
        key.update(path.encode() + b"\0" + digest.tobytes())
    entry = cache_folder() / "images" / f"{size}-{key.hexdigest()}"
    kept = None if missing else _read(entry, len(paths), size)
    if kept is not None:
        images, fingerprints, facts, faults = kept
        return CachedImages(images, fingerprints, digests, facts, faults, decoded=0)
    images, fingerprints, facts, faults = _decode(root, paths, size, progress)
    note = ""
    if not missing:  # a file that cannot even be read has no content to name an entry by
        try:
            _write(entry, images, fingerprints, facts, faults)
        except OSError as error:
            note = (
                f"The decode cache {cache_folder()} cannot be written ({error.strerror or error}); "
                "going on from memory. Set TUMORLENS_CACHE to a folder with room to keep it."
            )
        else:
            kept = _read(entry, len(paths), size)
            if kept is not None:
                images = kept[0]
    return CachedImages(images, fingerprints, digests, facts, faults, len(paths), note)


def clear() -> tuple[int, int]:
    """Remove every entry; return how many there were and their size in bytes."""
    entries, size = contents()
    shutil.rmtree(cache_folder() / "images", ignore_errors=True)
    return entries, size


def contents() -> tuple[int, int]:
    """How many entries there are, and their size in bytes."""
    folder = cache_folder() / "images"
    entries = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    size = sum(file.stat().st_size for entry in entries for file in entry.iterdir())
    return len(entries), size


def _in_order(
    work: Callable[[Item], Result], items: Sequence[Item], stage: str, progress: Progress
) -> Iterator[Result]:
    # Threads suffice: Pillow and hashlib release the interpreter's lock where the time goes.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        try:
            for done, result in enumerate(pool.map(work, items), start=1):
                yield result
                if done % 64 == 0 or done == len(items):
                    progress(stage, done, len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _digests(
    root: Path, paths: Sequence[str], progress: Progress
) -> tuple[npt.NDArray[np.uint8], bool]:
    folder = str(root)

    def digest(path: str) -> bytes | None:
        try:
            with open(f"{folder}/{path}", "rb") as file:  # noqa: PTH123 (a third of the time)
                content = file.read()
        except OSError:
            return None
        return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()

    # A hundred files a task: one of these files takes less time than handing it to a thread.
    tasks = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    found: list[bytes | None] = []
    for block in _in_order(lambda task: [digest(path) for path in task], tasks, "", silent):
        found += block
        progress("reading", len(found), len(paths))
    joined = b"".join(value or bytes(_DIGEST_BYTES) for value in found)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, _DIGEST_BYTES), None in found


def _decode(
    root: Path, paths: Sequence[str], size: int, progress: Progress
) -> tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.uint8],
    tuple[ImageFacts | None, ...],
    dict[str, str],
]:
    images = np.zeros((len(paths), size, size), dtype=np.uint8)
    fingerprints = np.zeros((len(paths), 32), dtype=np.uint8)
    faults: dict[str, str] = {}

    def decode(index: int) -> ImageFacts | None:
        try:
            grey, facts = read_grey_with_facts(root / paths[index])
        except UnreadableImageError as error:
            faults[paths[index]] = str(error)
            return None
        images[index] = fit_square(grey, size)
        fingerprints[index] = fingerprint(grey)
        return facts

    facts = tuple(_in_order(decode, range(len(paths)), "decoding", progress))
    return images, fingerprints, facts, dict(sorted(faults.items()))


def _write(
    entry: Path,
    images: npt.NDArray[np.uint8],
    fingerprints: npt.NDArray[np.uint8],
    facts: Sequence[ImageFacts | None],
    faults: dict[str, str],
) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".making-", dir=entry.parent))
    try:
        np.save(beside / "images.npy", images)
        np.save(beside / "fingerprints.npy", fingerprints)
        record = {"facts": [asdict(fact) if fact else None for fact in facts], "faults": faults}
        (beside / "record.json").write_text(json.dumps(record), encoding="utf-8")
        if entry.exists() and _read(entry, *images.shape[:2]) is None:
            shutil.rmtree(entry)  # damaged from outside; make it anew
        try:
            beside.rename(entry)
        except OSError:
            if not entry.exists():  # else another process was first with the same pictures
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _read(entry: Path, count: int, size: int) -> _Entry | None:
    try:
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        fingerprints = np.load(entry / "fingerprints.npy", allow_pickle=False)
        record = json.loads((entry / "record.json").read_text(encoding="utf-8"))
        facts = tuple(ImageFacts(**fact) if fact else None for fact in record["facts"])
        faults = dict(record["faults"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = images.shape == (count, size, size) and fingerprints.shape == (count, 32)
    return (images, fingerprints, facts, faults) if whole else None
