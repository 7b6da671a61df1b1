"""The low-frequency amplitude of one image mixed with another's, of another class.

Amplitudes carry how an image is displayed and lit, phases what it shows (Yang and Soatto 2020,
"FDA"; mixed by a random share after Xu et al. 2021, "FACT").
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histogram_matching import partners_of

# Half the side of the block of frequencies around zero, as a share of the image's side.
_BAND = 0.05


@dataclass(frozen=True, eq=False)
class Amplitudes:
    """Low-frequency amplitudes of a data set's images.

    Attributes:
        low: (N, F, F) float32, zero frequency in the middle.
        labels: (N,) int64.
        donors: which of them are for training.
    """

    low: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    donors: npt.NDArray[np.int64]


def amplitudes(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], donors: npt.NDArray[np.int64]
) -> Amplitudes:
    """Of (N, S, S) images on their own scales."""
    found = []
    for start in range(0, len(images), 256):
        some = torch.from_numpy(images[start : start + 256]).float() / 255
        spectrum = torch.fft.fftshift(torch.fft.fft2(some), dim=(1, 2))
        block = _block(some.shape[-1])
        found.append(spectrum[:, block, block].abs())
    return Amplitudes(torch.cat(found).numpy(), labels, donors)


def mixed(
    images: Tensor, indices: Tensor, table: Amplitudes, probability: float, seed: int, epoch: int
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
    rows, partners = partners_of(indices, table.labels, table.donors, probability, seed, epoch)
    if not len(rows):
        return images
    at = torch.as_tensor(rows, device=images.device)
    spectrum = torch.fft.fftshift(torch.fft.fft2(images[at].float()), dim=(1, 2))
    block = _block(images.shape[-1])
    own = spectrum[:, block, block]
    theirs = torch.as_tensor(table.low[partners], device=images.device)
    spectrum[:, block, block] = torch.polar(theirs, own.angle())
    changed = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(1, 2))).real
    return images.index_copy(0, at, changed.clamp(0, 1).to(images.dtype))


def _block(side: int) -> slice:
    half = max(1, round(_BAND * side))
    return slice(side // 2 - half, side // 2 + half + 1)
