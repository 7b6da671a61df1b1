"""The decode cache on disk: one SQLite file, an entry for each file content and image size.

A cache may fail without harm, so no fault of the file is raised. The first one closes the file, and
`CacheFile.note` says what happened. Only the thread that opened the file may use it.
"""

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import ImageFacts

# The number is the table layout's: another layout is another file.
NAME = "images-v2.sqlite"

# Part of every key: raise it when decoding, fitting or fingerprinting changes.
DECODER = 2

# `pixels` come last: what stands before them is read without them.
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    digest BLOB NOT NULL,
    decoder INTEGER NOT NULL,
    format TEXT NOT NULL,
    mode TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    PRIMARY KEY (digest, decoder)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS squares (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    decoder INTEGER NOT NULL,
    size INTEGER NOT NULL,
    used INTEGER NOT NULL,
    pixels BLOB NOT NULL CHECK (length(pixels) = size * size),
    UNIQUE (digest, decoder, size)
);
CREATE INDEX IF NOT EXISTS squares_by_use ON squares (used, id, size);
"""

_ROWS_AT_ONCE = 500  # in one query: below the 999 variables that every SQLite takes
_FREED_AT_ONCE = 4096  # pages of 4 KiB
_MOST_FREE = 0.25  # of the file
_BUSY_SECONDS = 15.0  # another process holds the file for some milliseconds a transaction
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Entry:
    """What is kept of one file content at one image size."""

    digest: bytes  # of the file's bytes
    square: npt.NDArray[np.uint8]  # (size, size) uint8
    fingerprint: npt.NDArray[np.uint8]  # (32,) uint8
    facts: ImageFacts  # what the file says of itself


class CacheFile:
    """The entries of one image size.

    Attributes:
        note: why entries could not be read or kept; empty when they could.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.note = ""
        self._path = folder / NAME
        self._size = size
        self._database: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._stale: list[int] = []  # ids that were read and whose `used` is of an earlier hour

    def __enter__(self) -> Self:
        with self._giving_up():
            self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def read(self, digests: Iterable[bytes]) -> Iterator[Entry]:
        """The entries that there are, in the order they lie on disk."""
        now = _hour()
        with self._giving_up():
            # Places first: reading in the file's order spares a disk from seeking for each image.
            places: list[int] = []
            for block in _blocks(list(digests)):
                places += self._places(block)
            for near in _blocks(sorted(places)):
                for place, used, entry in self._entries(near):
                    if used < now:
                        self._stale.append(place)
                    yield entry

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep entries, all of them or none; those that are there already stay as they are."""
        now = _hour()
        with self._giving_up(), self._transaction() as database:
            database.executemany(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    (entry.digest, DECODER, *astuple(entry.facts), entry.fingerprint)
                    for entry in entries
                ),
            )
            database.executemany(
                "INSERT INTO squares (digest, decoder, size, used, pixels) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                ((entry.digest, DECODER, self._size, now, entry.square) for entry in entries),
            )

    def tidy(self, bound: int, present: Collection[bytes]) -> None:
        """Stamp what was read as used now, and evict what was not used for longest.

        Args:
            bound: bytes of pixels that may stay.
            present: digests whose entries of this image size stay in any case.
        """
        with self._giving_up():
            try:
                self._stamp()
                self._evict(bound, present)
            except sqlite3.OperationalError:
                # Busy, full or not ours to write: the entries are there, and the next call tidies.
                return

    def _stamp(self) -> None:
        # By the hour, so that reading again writes nothing.
        stale, self._stale = self._stale, []
        if stale:
            with self._transaction() as database:
                now = _hour()
                database.executemany(
                    "UPDATE squares SET used = ? WHERE id = ?", ((now, place) for place in stale)
                )

    def _evict(self, bound: int, present: Collection[bytes]) -> None:
        if self._database is None:
            return
        kept = "SELECT coalesce(sum(size * size), 0) FROM squares INDEXED BY squares_by_use"
        if self._database.execute(kept).fetchone()[0] <= bound:
            return
        with self._transaction() as database:
            excess = database.execute(kept).fetchone()[0] - bound
            evicted: list[tuple[int]] = []
            oldest_first = database.execute(
                "SELECT id, digest, decoder, size FROM squares ORDER BY used, id"
            )
            for place, digest, decoder, size in oldest_first:
                if excess <= 0:
                    break
                if digest in present and (decoder, size) == (DECODER, self._size):
                    continue
                evicted.append((place,))
                excess -= size * size
            oldest_first.close()
            database.executemany("DELETE FROM squares WHERE id = ?", evicted)
            database.execute(
                "DELETE FROM files WHERE NOT EXISTS (SELECT 1 FROM squares "
                "WHERE squares.digest = files.digest AND squares.decoder = files.decoder)"
            )
        self._shrink()

    def _shrink(self) -> None:
        """Give room back to the disk where much is free, as after the bound was lowered.

        A little is left for the next entries: moving pages takes as long as decoding does.
        """
        if self._database is None:
            return
        free, pages = (
            self._database.execute(f"PRAGMA {count}").fetchone()[0]
            for count in ("freelist_count", "page_count")
        )
        if free <= _MOST_FREE * pages:
            return
        for _ in range(0, free, _FREED_AT_ONCE):  # some megabytes a transaction: others may wait
            # A script is stepped to its end; `execute` would stop after the first page.
            self._database.executescript(f"PRAGMA incremental_vacuum({_FREED_AT_ONCE})")

    def _places(self, digests: Sequence[bytes]) -> list[int]:
        if self._database is None:
            return []
        rows = self._database.execute(
            "SELECT id FROM squares WHERE decoder = ? AND size = ? "
            f"AND digest IN ({_marks(digests)})",
            (DECODER, self._size, *digests),
        )
        return [place for (place,) in rows]

    def _entries(self, places: Sequence[int]) -> Iterator[tuple[int, int, Entry]]:
        if self._database is None:
            return
        # The place is asked for, the row is believed: another process may have evicted in between.
        rows = self._database.execute(
            "SELECT id, used, digest, format, mode, width, height, fingerprint, pixels "
            "FROM squares JOIN files USING (digest, decoder) "
            f"WHERE decoder = ? AND size = ? AND id IN ({_marks(places)})",
            (DECODER, self._size, *places),
        )
        for place, used, digest, *facts, fingerprint, pixels in rows:
            square = np.frombuffer(pixels, dtype=np.uint8).reshape(self._size, self._size)
            prints = np.frombuffer(fingerprint, dtype=np.uint8)
            yield place, used, Entry(digest, square, prints, ImageFacts(*facts))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._database is None:
            raise _ClosedError
        # IMMEDIATE waits its turn here; a lock asked for midway is refused at once.
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except _ClosedError:
            pass
        except (sqlite3.Error, OSError) as error:
            self._close()
            if not self.note and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                self._replace(error)
            else:
                self.note = _cannot_be_used(self._path, error)

    def _replace(self, damage: Exception) -> None:
        """Remove a damaged file and open a new one; a second fault is the end."""
        try:
            # Another process may have replaced it since: that one's file stays.
            if self._path.stat().st_ino == self._inode:
                remove(self._path.parent)
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._close()
            self.note = _cannot_be_used(self._path, error)
        else:
            self.note = (
                f"The decode cache {self._path} was damaged ({damage}); it has been made anew."
            )

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._path.touch(
                mode=0o666
            )  # as the umask has it; SQLite itself lets none but us write
        self._inode = self._path.stat().st_ino
        # No transactions but our own. The journal stays the default, a file that is rolled back:
        # a write-ahead log needs memory that all processes share, and a cache on a network file
        # system is used from several machines.
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        self._database = database
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA secure_delete = OFF")  # Debian's would write zeros over it first
        found = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
        if found.fetchone()[0] < 2:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or never
            with self._transaction():
                for statement in _TABLES.split(";"):
                    database.execute(statement)

    def _close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None


def contents(folder: Path) -> tuple[int, int]:
    """How many entries there are, of all image sizes, and how many bytes they take on disk."""
    path = folder / NAME
    if not path.is_file():
        return 0, 0
    size = path.stat().st_size
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as database:
            return int(database.execute("SELECT count(*) FROM squares").fetchone()[0]), size
    except sqlite3.Error:  # damaged or not made ready yet: bytes without entries
        return 0, size


def remove(folder: Path) -> None:
    """Remove the file. A process that has it open goes on from memory.

    Raises:
        OSError: it cannot be removed.
    """
    # A journal without its file is passed over, a file without its journal may be half a write.
    for name in (NAME, f"{NAME}-journal"):
        (folder / name).unlink(missing_ok=True)


class _ClosedError(Exception):
    """The file was given up before."""


def _cannot_be_used(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return (
        f"The decode cache {path} cannot be used ({reason}); going on from memory. "
        "Set TUMORLENS_CACHE to a folder with room that can be written."
    )


def _blocks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield items[start : start + _ROWS_AT_ONCE]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _hour() -> int:
    """Hours since 1970: when something was used, as far as eviction asks."""
    return int(time.time() // 3600)
