"""A 256-bit perceptual fingerprint: the signs of the 16x16 lowest DCT coefficients."""

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

from tumorlens.data.readers import resize

_SIDE = 64


def fingerprint(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 to (32,) uint8."""
    small = resize(grey, _SIDE, _SIDE).astype(np.float32)
    low = dctn(small - small.mean(), norm="ortho")[:16, :16]
    return np.packbits(low.ravel() > 0)
