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

_DRAWS = 32
_KNOTS = 5  # of an intensity curve, inside


@dataclass(frozen=True)
class Augmentation:
    """How much an image may change."""

    flip: bool = True  # mirror left-right with probability one half
    rotation: float = 10.0  # largest turn either way, degrees
    scale: float = 0.1  # largest relative change of size either way
    shift: float = 0.05  # largest move either way, fraction of the side
    brightness: float = 0.1  # largest value added or taken, fraction of the grey range
    contrast: float = 0.15  # largest relative change of contrast about the image's mean either way
    gamma: float = 0.0  # largest logarithm either way of the power that grey values are raised to
    # probability of a random monotone intensity curve through an image's own scale
    curves: float = 0.0
    bias_field: float = 0.0  # largest logarithm either way of a smooth brightness across the image
    resolution: float = 0.0  # probability of a lower resolution, down to 0.4 of the side
    # largest deviation of added normal noise, fraction of the grey range; in half the images
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, bound in (
            ("rotation", 180),
            ("scale", 0.9),
            ("shift", 1),
            ("brightness", 1),
            ("contrast", 1),
            ("gamma", 2),
            ("curves", 1),
            ("bias_field", 2),
            ("resolution", 1),
            ("noise", 1),
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
    if settings.curves:
        images = _curved(images, symmetric, settings.curves)
    if settings.bias_field:
        images = _biased(images, symmetric, settings.bias_field)
    moved = _move(images, symmetric, settings)
    if settings.resolution:
        moved = _coarse(moved, symmetric, settings.resolution)
    contrast = (1 + settings.contrast * symmetric[:, 5]).reshape(-1, 1, 1)
    brightness = (settings.brightness * symmetric[:, 6]).reshape(-1, 1, 1)
    mean = moved.mean(dim=(1, 2), keepdim=True)
    changed = ((moved - mean) * contrast + mean + brightness).clamp_(0, 1)
    if settings.gamma:
        changed = changed ** torch.exp(settings.gamma * symmetric[:, 7]).reshape(-1, 1, 1)
    if settings.noise:
        changed = _noisy(changed, symmetric, settings.noise, indices, seed, epoch)
    return changed


def _curved(images: Tensor, symmetric: Tensor, probability: float) -> Tensor:
    """Each image through its own monotone curve, piecewise linear from (0, 0) to (1, 1)."""
    rises = torch.exp(1.2 * symmetric[:, 9 : 9 + _KNOTS])
    heights = F.pad(rises.cumsum(dim=1) / rises.sum(dim=1, keepdim=True), (1, 1))
    heights[:, -1] = 1  # so that the interval above the last knot has an end
    highest = images.amax(dim=(1, 2), keepdim=True).clamp(min=1 / 255)
    place = images / highest * _KNOTS
    below = place.floor().clamp(max=_KNOTS - 1).long()
    low = heights.gather(1, below.flatten(1)).reshape(images.shape)
    high = heights.gather(1, below.flatten(1) + 1).reshape(images.shape)
    curved = highest * (low + (high - low) * (place - below))
    chosen = (symmetric[:, 8] * 0.5 + 0.5 < probability).reshape(-1, 1, 1)
    return torch.where(chosen, curved, images)


def _biased(images: Tensor, symmetric: Tensor, largest: float) -> Tensor:
    """Each image times the exponential of its own polynomial of second order, as coils leave it."""
    count, height, width = images.shape
    y = torch.linspace(-1, 1, height, device=images.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=images.device).expand(height, width)
    terms = torch.stack([x, y, x * y, x**2 - 0.5, y**2 - 0.5]).reshape(5, -1)
    field = (symmetric[:, 14:19] @ terms).reshape(count, height, width)
    return (images * torch.exp(largest * 0.5 * field)).clamp_(0, 1)


def _coarse(images: Tensor, symmetric: Tensor, probability: float) -> Tensor:
    """Some images shrunk to 0.7, 0.55 or 0.4 of the side and enlarged again."""
    found = images
    step = probability / 3
    at = symmetric[:, 19] * 0.5 + 0.5
    for number, share in enumerate((0.7, 0.55, 0.4)):
        chosen = torch.nonzero((at >= number * step) & (at < (number + 1) * step))[:, 0]
        if len(chosen):
            some = images[chosen, None]
            small = F.interpolate(some, scale_factor=share, mode="bilinear", antialias=True)
            large = F.interpolate(small, size=images.shape[1:], mode="bilinear")[:, 0]
            found = found.index_copy(0, chosen, large)
    return found


def _noisy(
    images: Tensor,
    symmetric: Tensor,
    largest: float,
    indices: Tensor,
    seed: int,
    epoch: int,
) -> Tensor:
    """Normal noise of its own deviation in half the images (Box and Muller 1958)."""
    chosen = torch.nonzero(symmetric[:, 20] > 0)[:, 0]
    if not len(chosen):
        return images
    pixels = images.shape[1] * images.shape[2]
    rows = uniform(seed + 1, epoch, indices.cpu()[chosen.cpu()].numpy(), pixels).astype(np.float32)
    one, two = rows[:, : pixels // 2], rows[:, pixels - pixels // 2 :]
    radius = np.sqrt(-2 * np.log(np.maximum(one, 1e-7)))
    angle = np.float32(2 * np.pi) * two
    normal = np.zeros((len(rows), pixels), dtype=np.float32)
    normal[:, : pixels // 2] = radius * np.cos(angle)
    normal[:, pixels - pixels // 2 :] = radius * np.sin(angle)
    deviation = (largest * symmetric[chosen, 20]).reshape(-1, 1, 1)
    added = torch.as_tensor(normal, device=images.device).reshape(-1, *images.shape[1:])
    return images.index_add(0, chosen, deviation * added).clamp_(0, 1)


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
