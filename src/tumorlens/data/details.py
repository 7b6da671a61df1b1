"""What two pictures of the same thing share and pictures of similar things do not."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache as remembered

import numpy as np
import numpy.typing as npt

from tumorlens.data.hashing import TRANSFORMS

# Least correlation of details. On the annotated images of the public set copies have 0.992 and
# more, slices next to one another 0.899 at most; JPEG at quality 40 of a picture halved in size
# gives 0.963, a gamma of 0.6 gives 0.931 (the least of 80 pictures each).
SAME_DETAILS = 0.92

_SHRINK = 2
_SIGMA = 1.5  # pixels of the shrunk picture: what is "local" in the local contrast
_FLOOR = 0.5  # of the mean local contrast: what flat areas are divided by, lest noise speaks
_ROUNDING = 0.05  # grey levels: keeps a flat picture's rounding errors from being details
_PICTURES_AT_ONCE = 64
_PAIRS_AT_ONCE = 1024


def details(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What is left of pictures without their brightness and contrast, at half the size.

    Each pixel's difference from its neighbourhood's mean, divided by the neighbourhood's contrast
    (both Gaussian, sigma 1.5 pixels after halving): what a change of contrast leaves alone and a
    neighbouring slice does not share.

    Args:
        images: (N, H, W) uint8, H and W even.

    Returns:
        (N, H / 2, W / 2) float32, each of mean 0 and norm 1; zero for a picture of one grey.
    """
    from joblib import cpu_count  # noqa: PLC0415 (a tenth of a second)

    # Blurring releases the interpreter's lock; small blocks stay in the processor's cache.
    blocks = [
        images[start : start + _PICTURES_AT_ONCE]
        for start in range(0, len(images), _PICTURES_AT_ONCE)
    ]
    with ThreadPoolExecutor(max_workers=cpu_count()) as pool:
        found = list(pool.map(_details, blocks))
    nothing = np.zeros(
        (0, images.shape[1] // _SHRINK, images.shape[2] // _SHRINK), dtype=np.float32
    )
    return np.concatenate([nothing, *found])


def _details(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    count, height, width = images.shape
    blocks = images.reshape(count, height // _SHRINK, _SHRINK, width // _SHRINK, _SHRINK)
    change = blocks.mean(axis=(2, 4), dtype=np.float32)
    down, across = _blur(change.shape[1]), _blur(change.shape[2]).T
    change -= down @ change @ across
    contrast = np.sqrt(down @ (change * change) @ across)
    floor = _FLOOR * contrast.mean(axis=(1, 2), keepdims=True)
    flat = (change / (contrast + floor + _ROUNDING)).reshape(count, -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(length > 0.1, flat / np.maximum(length, 0.1), 0)
    result: npt.NDArray[np.float32] = flat.reshape(count, height // _SHRINK, width // _SHRINK)
    return result


@remembered
def _blur(side: int) -> npt.NDArray[np.float32]:
    """(side, side) weights of a Gaussian, mirrored at the ends: blurring as a matrix product.

    As `scipy.ndimage.gaussian_filter` has it, in half the time for pictures of this size.
    """
    reach = int(4 * _SIGMA + 0.5)
    distance = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (distance / _SIGMA) ** 2)
    place = np.arange(side)[:, None] + distance
    place = place % (2 * side)  # mirrored at the edge, the edge's own pixel twice
    place = np.minimum(place, 2 * side - 1 - place)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], place), weights / weights.sum())
    return matrix.astype(np.float32)


def similarity(
    seen: npt.NDArray[np.float32],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    transform: str,
) -> npt.NDArray[np.float64]:
    """(P,) correlation of the details of pairs of pictures.

    Args:
        seen: (N, S, S) from `details`.
        first: (P,) indices; these pictures are turned or mirrored by `transform` first.
        second: (P,) indices of what they are compared with.
        transform: a name in `TRANSFORMS`.
    """
    transpose, left_right, up_down = TRANSFORMS[transform]
    turned = seen.transpose(0, 2, 1) if transpose else seen
    turned = turned[:, :, ::-1] if left_right else turned
    turned = turned[:, ::-1] if up_down else turned
    values = np.zeros(len(first))
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        values[rows] = np.einsum("nij,nij->n", turned[first[rows]], seen[second[rows]])
    return values
