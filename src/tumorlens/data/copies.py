"""Which images show the same picture, from fingerprints alone."""

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_DISTANCE = 7


def duplicate_groups(fingerprints: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(N, 32) uint8 to (N,) group ids."""
    signs = np.unpackbits(fingerprints, axis=1).astype(np.float32).reshape(-1, 16, 16) * 2 - 1
    flat = signs.reshape(len(signs), -1)
    mirrored = (signs * np.where(np.arange(16) % 2, -1, 1)).reshape(len(signs), -1)
    rows, columns = [], []
    for start in range(0, len(flat), 1000):
        for other in (flat, mirrored):
            distance = (256 - flat[start : start + 1000] @ other.T) / 2
            row, column = np.nonzero(distance <= _DISTANCE)
            rows.append(row + start)
            columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(row)), (row, column)), shape=(len(flat), len(flat)))
    return connected_components(graph, directed=False)[1].astype(np.int64)
