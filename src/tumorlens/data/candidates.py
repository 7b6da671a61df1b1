"""Which fingerprints are near one another, turned or mirrored: a Hamming search."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.data.hashing import BYTES, TRANSFORMS, transformed
from tumorlens.progress import Progress, silent

# Bits. A strong contrast change moves a fingerprint by up to 23; measured in results/audit.
RADIUS = 32

_EXHAUSTIVE = 30_000  # images up to which every pair is compared

# Above that: multi-index hashing (Norouzi et al. 2014). Two fingerprints that differ little agree
# in all bits of some table. Twelve tables of 21 bits share no bit, so up to 11 errors leave one
# table untouched; twelve others that cut the bits differently make misses beyond that rare.
_TABLES, _TABLE_BITS, _CUTS = 12, 21, 2
_QUERIES_AT_ONCE = 65_536
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Candidates:
    """C possible pairs; a pair comes up once for each transform that fits.

    Attributes:
        first, second: (C,) indices, first < second.
        transform: (C,) place in `TRANSFORMS` of what was done to the first to get the second.
        distance: (C,) bits that differ.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    transform: npt.NDArray[np.int64]
    distance: npt.NDArray[np.int64]


def candidates(
    fingerprints: npt.NDArray[np.uint8], radius: int = RADIUS, progress: Progress = silent
) -> Candidates:
    """Pairs of fingerprints that are near each other under some turn or reflection.

    Up to 30,000 images all are found; above that, all up to 11 bits apart and most up to `radius`.

    Args:
        fingerprints: (N, 32) uint8.
        radius: largest distance, bits.
        progress: told of the stage "comparing".
    """
    search = _every_pair if len(fingerprints) <= _EXHAUSTIVE else _hashed
    blocks: list[npt.NDArray[np.int64]] = [np.zeros((0, 4), dtype=np.int64)]
    if len(fingerprints) > 1:
        blocks += search(np.ascontiguousarray(fingerprints), radius, progress)
    # Several tables may find a pair; it is listed once.
    first, second, transform, distance = np.unique(np.concatenate(blocks), axis=0).T
    return Candidates(first, second, transform, distance)


def _every_pair(
    fingerprints: npt.NDArray[np.uint8], radius: int, progress: Progress
) -> Iterator[npt.NDArray[np.int64]]:
    import faiss  # noqa: PLC0415 - a fifth of a second that only this search needs

    count = len(fingerprints)
    index = faiss.IndexBinaryFlat(8 * BYTES)
    index.add(fingerprints)
    for code, name in enumerate(TRANSFORMS):
        turned = transformed(fingerprints, name)
        limits, distance, second = index.range_search(turned, radius + 1)  # strictly below
        found = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
        first = np.repeat(np.arange(count), found)
        yield _columns(first, second.astype(np.int64), code, distance.astype(np.int64))
        progress("comparing", (code + 1) * count, len(TRANSFORMS) * count)


def _hashed(
    fingerprints: npt.NDArray[np.uint8], radius: int, progress: Progress
) -> Iterator[npt.NDArray[np.int64]]:
    count = len(fingerprints)
    words = fingerprints.view(np.uint64)
    tables = [_Table(keys) for keys in _keys(fingerprints).T]
    for code, name in enumerate(TRANSFORMS):
        for start in range(0, count, _QUERIES_AT_ONCE):
            block = transformed(fingerprints[start : start + _QUERIES_AT_ONCE], name)
            asked = block.view(np.uint64)
            for table, keys in zip(tables, _keys(block).T, strict=True):
                for row, match in table.matches(keys):
                    later = match > row + start
                    asking, second = row[later], match[later]
                    differing = asked[asking] ^ words[second]
                    distance = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
                    near = distance <= radius
                    yield _columns(asking[near] + start, second[near], code, distance[near])
            progress("comparing", code * count + start + len(block), len(TRANSFORMS) * count)


class _Table:
    """Which of N fingerprints have a key."""

    def __init__(self, keys: npt.NDArray[np.int64]) -> None:
        self.order = np.argsort(keys, kind="stable").astype(np.int32)
        self.starts = np.zeros(2**_TABLE_BITS + 1, dtype=np.int32)
        np.cumsum(np.bincount(keys, minlength=2**_TABLE_BITS), out=self.starts[1:])

    def matches(
        self, keys: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Pairs of a place in `keys` and a fingerprint with that key, a few million at a time."""
        begins = self.starts[keys].astype(np.int64)
        counts = self.starts[keys + 1] - begins
        upto = np.cumsum(counts)
        at = 0
        while at < len(keys):
            done = int(upto[at - 1]) if at else 0
            end = max(at + 1, int(np.searchsorted(upto, done + _PAIRS_AT_ONCE, side="right")))
            several = counts[at:end]
            row = np.repeat(np.arange(at, end), several)
            within = np.arange(len(row)) - np.repeat(np.cumsum(several) - several, several)
            yield row, self.order[np.repeat(begins[at:end], several) + within].astype(np.int64)
            at = end


def _keys(fingerprints: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(N, 24) keys of 21 bits each."""
    found = np.empty((len(fingerprints), _CUTS * _TABLES), dtype=np.int64)
    for start in range(0, len(fingerprints), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        bits = np.unpackbits(fingerprints[rows], axis=1).astype(np.float32)
        found[rows] = bits @ _WEIGHTS  # exact: float32 has 24 bits
    return found


def _weights() -> npt.NDArray[np.float32]:
    # A cut deals the bits to its tables along diagonals of the 16 x 16 coefficients, so that each
    # table mixes coarse and fine structure: the coarse rows alone agree for most heads.
    row, column = np.divmod(np.arange(8 * BYTES), 16)
    weights = np.zeros((8 * BYTES, _CUTS * _TABLES), dtype=np.float32)
    for cut in range(_CUTS):
        dealt = np.lexsort((row, (row * (2 * cut + 1) + column) % 16))
        for table in range(_TABLES):
            mine = dealt[table::_TABLES][:_TABLE_BITS]
            weights[mine, cut * _TABLES + table] = 2.0 ** np.arange(_TABLE_BITS)
    return weights


_WEIGHTS = _weights()


def _columns(
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    code: int,
    distance: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    once = first < second
    return np.stack([first, second, np.full_like(first, code), distance], axis=1)[once]
