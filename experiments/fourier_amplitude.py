"""The low-frequency amplitude of one image mixed with another's, of another class.

Amplitudes carry how an image is displayed and lit, phases what it shows (Yang and Soatto 2020,
"FDA"; mixed by a random share after Xu et al. 2021, "FACT").
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histogram_matching import Described, described, partners_of

# Half the side of the block of frequencies around zero, as a share of the image's side.
_BAND = 0.05


def amplitudes(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], donors: npt.NDArray[np.int64]
) -> Described:
    """(N, F, F) low-frequency amplitudes, zero frequency in the middle."""
    return described(images, labels, donors, lambda some: _low(_spectrum(some)).abs())


def mixed(
    images: Tensor, indices: Tensor, table: Described, probability: float, seed: int, epoch: int
) -> Tensor:
    """Some images with the low-frequency amplitude of a training image of another class.

    Args:
        images: (N, S, S) float, 0..1.
        indices: (N,) int64, each image's index in the data set, by which it is drawn.
        table: of the data set.
        probability: of a change, for each image.
        seed: of the run.
        epoch: 0-based.

    Returns:
        (N, S, S) float, 0..1.
    """
    rows, partners = partners_of(indices, table, probability, seed, epoch)
    if not len(rows):
        return images
    at = torch.as_tensor(rows, device=images.device)
    spectrum = _spectrum(images[at].float())
    own = _low(spectrum)
    theirs = torch.as_tensor(table.values[partners], device=images.device)
    own.copy_(torch.polar(theirs, own.angle()))  # a view: the spectrum has it
    changed = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(1, 2))).real
    return images.index_copy(0, at, changed.clamp(0, 1).to(images.dtype))


def _spectrum(images: Tensor) -> Tensor:
    return torch.fft.fftshift(torch.fft.fft2(images), dim=(1, 2))


def _low(spectrum: Tensor) -> Tensor:
    """A view of (N, S, S): the block of frequencies around zero."""
    side = spectrum.shape[-1]
    half = max(1, round(_BAND * side))
    block = slice(side // 2 - half, side // 2 + half + 1)
    return spectrum[:, block, block]
