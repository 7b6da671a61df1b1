"""A perceptual fingerprint of 256 bits that knows its own mirror images.

The image is shrunk to 64 x 64; the fingerprint is the signs of its 16 x 16 lowest DCT-II
coefficients (pHash's idea, Zauner 2010, with four times the bits, so that neighbouring slices of
one patient stay apart). No image can be seen from it. A mirror image changes nothing but the
signs of the odd coefficients along one axis, and a quarter turn swaps the axes: the fingerprints of
all eight turned and mirrored versions follow from one, without hashing again.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import resize

Number = TypeVar("Number", bound=np.generic)

BYTES = 32
_KEPT = 16
_SIDE = 64

# Row k: cos(pi k (2 n + 1) / (2 N)), n = 0..N-1. The coefficients wanted are two small products; a
# whole transform would take as long and half a second more to import.
_LOW_WAVES = np.cos(
    np.pi * np.arange(_KEPT)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
).astype(np.float32)

# The eight symmetries of a square. Each name says what was done to an image: transposed first
# where it says so, then mirrored: (transpose, left-right, up-down).
TRANSFORMS: dict[str, tuple[bool, bool, bool]] = {
    "identity": (False, False, False),
    "flip_lr": (False, True, False),
    "flip_ud": (False, False, True),
    "rot180": (False, True, True),
    "transpose": (True, False, False),
    "rot90_cw": (True, True, False),
    "rot90_ccw": (True, False, True),
    "antitranspose": (True, True, True),
}


def fingerprint(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 image to (32,) uint8: bit 16 v + u is the sign of the coefficient at v, u.

    v counts half-waves down the image, u across it. The first bit, the mean's, is always 0.
    """
    small = resize(grey, _SIDE, _SIDE).astype(np.float32)
    low = _LOW_WAVES @ (small - small.mean()) @ _LOW_WAVES.T
    low[0, 0] = 0
    return np.packbits(low.ravel() > 0)


def transformed(fingerprints: npt.NDArray[np.uint8], transform: str) -> npt.NDArray[np.uint8]:
    """(N, 32) uint8 fingerprints of the same N images, turned or mirrored by `transform`.

    Exact but for coefficients that are zero, which have no sign to change.
    """
    transpose, left_right, up_down = TRANSFORMS[transform]
    bits = np.unpackbits(fingerprints, axis=1).reshape(-1, _KEPT, _KEPT)
    if transpose:
        bits = bits.transpose(0, 2, 1)
    odd = np.arange(_KEPT) % 2
    flips = (left_right * odd[None, :] + up_down * odd[:, None]) % 2
    return np.packbits((bits ^ flips.astype(np.uint8)).reshape(len(bits), -1), axis=1)


def apply(images: npt.NDArray[Number], transform: str) -> npt.NDArray[Number]:
    """The (..., H, W) images themselves, turned or mirrored."""
    transpose, left_right, up_down = TRANSFORMS[transform]
    turned = images.swapaxes(-2, -1) if transpose else images
    return turned[..., :: -1 if up_down else 1, :: -1 if left_right else 1]
