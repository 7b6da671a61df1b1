"""Whole batches of images, each changed a little, reproducibly.

What happens to an image depends on (seed, epoch, its index) alone, not on the batch it comes in,
the process that holds it or the images before it: a resumed run equals an uninterrupted one, and
the number of processes does not matter.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_DRAWS = 8


@dataclass(frozen=True)
class Augmentation:
    """How much an image may change.

    Attributes:
        flip: mirror left-right with probability one half.
        rotation: largest turn either way, degrees.
        scale: largest relative change of size either way.
        shift: largest move either way, fraction of the side.
        brightness: largest value added or taken, fraction of the grey range.
        contrast: largest relative change of contrast about the image's mean either way.
        gamma: largest logarithm either way of the power that grey values are raised to.
    """

    flip: bool = True
    rotation: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    brightness: float = 0.1
    contrast: float = 0.15
    gamma: float = 0.0

    def __post_init__(self) -> None:
        for name, bound in (
            ("rotation", 180),
            ("scale", 0.9),
            ("shift", 1),
            ("contrast", 1),
            ("gamma", 2),
        ):
            value = getattr(self, name)
            if not 0 <= value <= bound:
                raise ValueError(f"{name} is {value}, expected 0 to {bound}")


NONE = Augmentation(flip=False, rotation=0, scale=0, shift=0, brightness=0, contrast=0)


def uniform(
    seed: int, epoch: int, indices: npt.NDArray[np.int64], draws: int
) -> npt.NDArray[np.float64]:
    """Counter-based random numbers: (N, draws) in [0, 1), row i a function of `indices[i]`.

    The mixing function is splitmix64's (Steele, Lea, Flood 2014, "Fast splittable pseudorandom
    number generators"), applied once for each part of the counter.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.full(1, seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))
        state = _mix(state ^ np.uint64(epoch))
        rows = _mix(state ^ indices.astype(np.uint64))
        values = _mix(rows[:, None] ^ np.arange(1, draws + 1, dtype=np.uint64))
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def augment(
    images: Tensor, indices: Tensor, settings: Augmentation, seed: int, epoch: int
) -> Tensor:
    """Change each image of a batch by its own draw.

    Args:
        images: (N, H, W) float, 0..1.
        indices: (N,) int64, each image's index in the training set.
        settings: how much.
        seed: of the run.
        epoch: 0-based.

    Returns:
        (N, H, W) float, 0..1; what moves in from outside is black.
    """
    if settings == NONE:
        return images
    # Under autocast `affine_grid` would compute the places to sample from in 16 bits, and move
    # pixels by up to half the grey range.
    with torch.autocast(images.device.type, enabled=False):
        return _augment(images.float(), indices, settings, seed, epoch)


def _augment(
    images: Tensor, indices: Tensor, settings: Augmentation, seed: int, epoch: int
) -> Tensor:
    drawn = uniform(seed, epoch, indices.cpu().numpy(), _DRAWS)
    symmetric = torch.as_tensor(drawn * 2 - 1, dtype=images.dtype, device=images.device)
    moved = _move(images, symmetric, settings)
    contrast = (1 + settings.contrast * symmetric[:, 5]).reshape(-1, 1, 1)
    brightness = (settings.brightness * symmetric[:, 6]).reshape(-1, 1, 1)
    mean = moved.mean(dim=(1, 2), keepdim=True)
    changed = ((moved - mean) * contrast + mean + brightness).clamp_(0, 1)
    if settings.gamma:
        changed = changed ** torch.exp(settings.gamma * symmetric[:, 7]).reshape(-1, 1, 1)
    return changed


def _move(images: Tensor, symmetric: Tensor, settings: Augmentation) -> Tensor:
    count, height, width = images.shape
    angle = symmetric[:, 1] * (settings.rotation * torch.pi / 180)
    zoom = 1 + settings.scale * symmetric[:, 2]
    mirror = torch.where(symmetric[:, 0] < 0, -1.0, 1.0) if settings.flip else 1.0
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # affine_grid's coordinates run from -1 to 1 along each side: a turn of an image that is not
    # square needs the ratio of the sides, or it shears.
    ratio = height / width
    matrix = torch.stack(
        [
            torch.stack([cos * mirror, -sin * ratio, 2 * settings.shift * symmetric[:, 3]], dim=1),
            torch.stack([sin * mirror / ratio, cos, 2 * settings.shift * symmetric[:, 4]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(matrix, [count, 1, height, width], align_corners=False)
    moved = F.grid_sample(
        images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved[:, 0]
