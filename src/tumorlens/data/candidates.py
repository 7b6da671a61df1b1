"""Which fingerprints are near one another, turned or mirrored: a Hamming search by faiss."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.data.fingerprint import BYTES, TRANSFORMS, transformed
from tumorlens.progress import Progress, silent

# Bits. A strong contrast change moves a fingerprint by up to 30; measured in results/audit.
RADIUS = 32

_EXHAUSTIVE = 30_000  # images up to which every pair is compared; above, by multi-index hashing
_TABLES = 16  # of 16 bits each: two fingerprints up to 15 bits apart agree in one table at least
_QUERIES_AT_ONCE = 65_536

# Fingerprint bit for each bit of the index: table t takes from row v the column (t - v) mod 16, so
# that each table mixes coarse and fine structure; the coarse rows alone agree for most heads.
_ROW, _COLUMN = np.divmod(np.arange(8 * BYTES), 16)
_SPREAD = np.argsort((_ROW + _COLUMN) % _TABLES, kind="stable")


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

    Up to 30,000 images all are found. Above that, all up to 15 bits apart and most up to `radius`.

    Args:
        fingerprints: (N, 32) uint8.
        radius: largest distance, bits.
        progress: told of the stage "comparing".
    """
    import faiss  # noqa: PLC0415 - a fifth of a second that only this search needs

    spread = np.packbits(np.unpackbits(fingerprints, axis=1)[:, _SPREAD], axis=1)
    count = len(spread)
    index = (
        faiss.IndexBinaryFlat(8 * BYTES)
        if count <= _EXHAUSTIVE
        else faiss.IndexBinaryMultiHash(8 * BYTES, _TABLES, 8 * BYTES // _TABLES)
    )
    if count:
        index.add(spread)
    found: list[tuple[npt.NDArray[np.int64], ...]] = [(np.zeros(0, dtype=np.int64),) * 4]
    total = len(TRANSFORMS) * count
    for code, name in enumerate(TRANSFORMS):
        for start in range(0, count, _QUERIES_AT_ONCE):
            block = transformed(fingerprints[start : start + _QUERIES_AT_ONCE], name)
            block = np.packbits(np.unpackbits(block, axis=1)[:, _SPREAD], axis=1)
            limits, distance, second = index.range_search(block, radius + 1)  # strictly below
            limits = limits.astype(np.int64)
            first = np.repeat(np.arange(len(block)) + start, limits[1:] - limits[:-1])
            once = first < second
            found.append(
                (
                    first[once],
                    second[once].astype(np.int64),
                    np.full(int(once.sum()), code),
                    distance[once].astype(np.int64),
                )
            )
            progress("comparing", code * count + start + len(block), total)
    return Candidates(*(np.concatenate(column) for column in zip(*found, strict=True)))
