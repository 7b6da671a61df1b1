"""Which images show the same picture, from fingerprints alone, turned or mirrored or re-encoded."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.data.hashing import TRANSFORMS, transformed

# Bits in which two fingerprints of one picture may differ. Measured on the annotated images of the
# public set: up to 9, all 1,171 same-slice pairs are found and nothing else; from 11 on,
# neighbouring slices of one patient come in.
SAME_PICTURE = 9

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Copies:
    """For each of N queries its nearest reference.

    Attributes:
        found: (N,) whether it shows the same picture.
        index: (N,) int64 of the nearest reference; meaningless where not `found`.
        distance: (N,) bits that differ.
        transform: (N,) what was done to the reference to get the query; see
            `fingerprint.TRANSFORMS`.
    """

    found: npt.NDArray[np.bool_]
    index: npt.NDArray[np.int64]
    distance: npt.NDArray[np.int64]
    transform: npt.NDArray[np.str_]


def copies_in(
    reference: npt.NDArray[np.uint8],
    queries: npt.NDArray[np.uint8],
    limit: int = SAME_PICTURE,
) -> Copies:
    """Find each query's picture among the references.

    Args:
        reference: (M, 32) uint8 fingerprints, M may be 0.
        queries: (N, 32) uint8 fingerprints.
        limit: largest distance, bits.
    """
    count = len(queries)
    index = np.zeros(count, dtype=np.int64)
    distance = np.full(count, 257, dtype=np.int64)
    transform = np.full(count, "identity", dtype="<U16")
    if len(reference):
        for name, start, block in _distances(reference, queries):
            rows = slice(start, start + len(block))
            nearest = block.argmin(axis=1)
            shortest = block[np.arange(len(block)), nearest]
            better = shortest < distance[rows]
            index[rows] = np.where(better, nearest, index[rows])
            distance[rows] = np.where(better, shortest, distance[rows])
            transform[rows] = np.where(better, name, transform[rows])
    return Copies(distance <= limit, index, distance, transform)


def duplicate_groups(
    fingerprints: npt.NDArray[np.uint8], limit: int = SAME_PICTURE
) -> npt.NDArray[np.int64]:
    """Group images that show the same picture, copies of copies included.

    Args:
        fingerprints: (N, 32) uint8.
        limit: largest distance of a pair, bits.

    Returns:
        (N,) int64, equal for images of one group.
    """
    count = len(fingerprints)
    rows, columns = [np.arange(0)], [np.arange(0)]
    for _, start, block in _distances(fingerprints, fingerprints):
        row, column = np.nonzero(block <= limit)
        rows.append(row + start)
        columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    return connected(row, column, count)


def connected(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """Connected components of a graph: which of `count` things are joined by pairs, however far.

    Each takes the lowest name among its neighbours, and its name's name, until nothing changes
    (Shiloach and Vishkin 1982). scipy has this too, but takes longer to import than all else here.

    Args:
        first, second: (P,) ends of the pairs, 0 to count - 1.
        count: things.

    Returns:
        (count,) int64, 0 to the number of components - 1, equal for things of one component.
    """
    names = np.arange(count)
    while True:
        lowest = np.minimum(names[first], names[second])
        lower = names.copy()
        for ends in (first, second):
            np.minimum.at(lower, ends, lowest)
            np.minimum.at(lower, names[ends], lowest)
        lower = lower[lower]
        if (lower == names).all():
            return np.unique(names, return_inverse=True)[1].astype(np.int64)
        names = lower


def _distances(
    reference: npt.NDArray[np.uint8], queries: npt.NDArray[np.uint8]
) -> Iterator[tuple[str, int, npt.NDArray[np.float32]]]:
    # Hamming distance as a matrix product: of vectors of +1 and -1 it is (256 - a.b) / 2.
    signs = _signs(queries)
    for name in TRANSFORMS:
        turned = _signs(transformed(reference, name)).T
        for start in range(0, len(queries), _ROWS_AT_ONCE):
            yield (
                name,
                start,
                (256 - signs[start : start + _ROWS_AT_ONCE] @ turned) * np.float32(0.5),
            )


def _signs(fingerprints: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.unpackbits(fingerprints, axis=1).astype(np.float32) * 2 - 1
