"""Which images show the same image, from fingerprints alone, turned or mirrored or re-encoded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.data.hashing import BYTES, TRANSFORMS, transformed
from tumorlens.progress import Progress, silent

# Bits in which two fingerprints of one image may differ. Measured on the annotated images of the
# public set: up to 9, all 1,171 same-slice pairs are found and nothing else; from 11 on,
# neighbouring slices of one patient come in.
NEAR_DUPLICATE_BITS = 9
# Bits. A strong contrast change moves a fingerprint by up to 23; measured in results/audit.
RADIUS = 32

# Products of these many rows and columns stay in the processor's cache.
_ROWS, _COLUMNS = 256, 1024

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Candidates:
    """C possible pairs, sorted; a pair comes up once for each transform that fits.

    Attributes:
        first, second: (C,) indices, first < second.
        transform: (C,) place in `TRANSFORMS` of what was done to the first to get the second.
        distance: (C,) bits that differ.
    """

    first: Indices
    second: Indices
    transform: Indices
    distance: Indices


@dataclass(frozen=True)
class NearDuplicates:
    """For each of N queries its nearest reference.

    Attributes:
        found: (N,) whether it shows the same image.
        index: (N,) int64 of the nearest reference; the others are meaningless where not `found`.
        distance: (N,) bits that differ.
        transform: (N,) what was done to the reference to get the query; see
            `fingerprint.TRANSFORMS`.
    """

    found: npt.NDArray[np.bool_]
    index: Indices
    distance: Indices
    transform: npt.NDArray[np.str_]


def candidates(
    fingerprints: Hashes, radius: int = RADIUS, progress: Progress = silent
) -> Candidates:
    """All pairs of fingerprints that are near each other under some turn or reflection.

    Args:
        fingerprints: (N, 32) uint8.
        radius: largest distance, bits.
        progress: called with the stage "comparing".
    """
    return Candidates(*_near(fingerprints, fingerprints, radius, progress, once=True).T)


def near_duplicates_in(
    reference: Hashes, queries: Hashes, limit: int = NEAR_DUPLICATE_BITS
) -> NearDuplicates:
    """Find each query's image among the references.

    Args:
        reference: (M, 32) uint8 fingerprints, M may be 0.
        queries: (N, 32) uint8 fingerprints.
        limit: largest distance, bits.
    """
    near = _near(reference, queries, limit, silent, once=False)
    near = near[np.lexsort((near[:, 0], near[:, 2], near[:, 3], near[:, 1]))]  # nearest first
    query, at = np.unique(near[:, 1], return_index=True)
    count = len(queries)
    index, distance = np.zeros(count, dtype=np.int64), np.full(count, 257, dtype=np.int64)
    code = np.zeros(count, dtype=np.int64)
    index[query], code[query], distance[query] = near[at, 0], near[at, 2], near[at, 3]
    return NearDuplicates(distance <= limit, index, distance, np.array(list(TRANSFORMS))[code])


def duplicate_groups(fingerprints: Hashes, limit: int = NEAR_DUPLICATE_BITS) -> Indices:
    """Group images that show the same image, near-duplicates of near-duplicates included.

    Args:
        fingerprints: (N, 32) uint8.
        limit: largest distance of a pair, bits.

    Returns:
        (N,) int64, equal for images of one group.
    """
    near = candidates(fingerprints, limit)
    return connected(near.first, near.second, len(fingerprints))


def connected(first: Indices, second: Indices, count: int) -> Indices:
    """Connected components of a graph: which of `count` things are joined by pairs, however far.

    Args:
        first, second: (P,) ends of the pairs, 0 to count - 1.
        count: things.

    Returns:
        (count,) int64, equal for things of one component, numbered in the order of their first.
    """
    from scipy.sparse import coo_array  # noqa: PLC0415 - a quarter of a second
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def joined(*groupings: Indices) -> Indices:
    """The finest groups that divide no group of any of `groupings`, each (N,)."""
    count = len(groupings[0])
    rows, columns = [], []
    for groups in groupings:
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        rows.append(np.arange(count))
        columns.append(first[member])
    return connected(np.concatenate(rows), np.concatenate(columns), count)


def _near(
    sources: Hashes, targets: Hashes, radius: int, progress: Progress, *, once: bool
) -> Indices:
    """(C, 4) source, target, transform of the source and distance of all that are near, sorted.

    With `once`, sources and targets are the same, and each pair is listed from its lower index.

    Half of the bits decide whether a pair is looked at, for four transforms in one product of
    matrices: mirroring leaves coefficients of two even waves as they are, and turns all those of
    two odd waves or none. For signs of +1 and -1 these 128 bits differ in (128 - even +- odd) / 2,
    and all 256 in no less.
    """
    sources, targets = np.ascontiguousarray(sources), np.ascontiguousarray(targets)
    words = targets.view(np.uint64)
    even, odd = _signs(targets)
    found = [np.zeros((0, 4), dtype=np.int64)]
    for top in range(0, len(sources), _ROWS):
        block = sources[top : top + _ROWS]
        turned = [transformed(block, name).view(np.uint64) for name in TRANSFORMS]
        for transposed, codes in _BY_TRANSPOSITION.items():
            mine_even, mine_odd = _signs(transformed(block, transposed))
            for left in range(top if once else 0, len(targets), _COLUMNS):
                span = slice(left, left + _COLUMNS)
                alike = mine_odd @ odd[span].T
                np.abs(alike, out=alike)
                alike += mine_even @ even[span].T
                row, column = np.nonzero(alike >= 4 * BYTES - 2 * radius)
                column += left
                if once:
                    row, column = row[column > row + top], column[column > row + top]
                for code in codes if len(row) else ():
                    differing = turned[code][row] ^ words[column]
                    distance = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
                    near = distance <= radius
                    which = np.full(int(near.sum()), code)
                    pairs = (row[near] + top, column[near], which, distance[near])
                    found.append(np.stack(pairs, axis=1))
        done, total = top + len(block), len(sources)
        progress("comparing", done * len(TRANSFORMS), total * len(TRANSFORMS))
    whole = np.concatenate(found)
    return whole[np.lexsort((whole[:, 2], whole[:, 1], whole[:, 0]))]


# Places in TRANSFORMS of those that do not transpose and of those that do.
_BY_TRANSPOSITION = {
    "identity": [code for code, turn in enumerate(TRANSFORMS.values()) if not turn[0]],
    "transpose": [code for code, turn in enumerate(TRANSFORMS.values()) if turn[0]],
}


def _signs(fingerprints: Hashes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(N, 64) +1 or -1 each: the coefficients of two even waves, and those of two odd ones."""
    bits = np.unpackbits(fingerprints, axis=1).reshape(-1, 16, 16)
    even, odd = (
        bits[:, parity::2, parity::2].reshape(-1, 2 * BYTES).astype(np.float32) * 2 - 1
        for parity in (0, 1)
    )
    return even, odd
