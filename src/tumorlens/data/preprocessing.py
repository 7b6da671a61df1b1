"""From a grey square to the network's input: part of a checkpoint and of an exported graph.

Each image can be brought to its own grey scale and framed by its own head, so that what a display
chose says nothing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

# Of an image's own scale: what is brighter is foreground. Air is darker on any display.
FOREGROUND = 0.12
# A row or column with a smaller share of foreground is outside the head: text, a rule, noise.
_LEAST_SHARE = 0.04
# Air around the head, as a share of its longer side.
_MARGIN = 0.04


@dataclass(frozen=True)
class Preprocessing:
    """From an 8-bit grey image to the network's input.

    `readers.fit_square` to `image_size` pixels, divided by 255; with `crop_head` framed so that
    the head fills the square; then minus `mean`, divided by `std`, or with `standardise` by the
    image's own scale, mean and deviation; repeated to `channels`.
    """

    image_size: int
    mean: float
    std: float
    channels: int = 3
    crop_head: bool = False
    standardise: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """(N, S, S) uint8 to (N, channels, S, S) float32; the channels share memory."""
        return self.of_floats(images.float() / 255)

    def of_floats(self, images: Tensor) -> Tensor:
        """(N, S, S) float in 0..1 to (N, channels, S, S) float32."""
        return self.normalise(self.frame(images))

    def frame(self, images: Tensor, heads: Tensor | None = None) -> Tensor:
        """(N, S, S) float in 0..1, the head filling the square where this is asked for.

        `heads` are the images that tell where it is, where these are others, such as masks.
        """
        return crop_like(images if heads is None else heads, images) if self.crop_head else images

    def unframed(self, maps: Tensor, images: Tensor) -> Tensor:
        """(N, h, w) maps over the network's input to maps over its images (N, S, S) uint8.

        Where the head was cropped, (N, S/2, S/2), 0 outside of the crop; else as they are.
        """
        return undo_crop(maps, images.float() / 255) if self.crop_head else maps

    def prepared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(N, S, S) uint8, framed and on each image's own scale once, for training."""
        if not (self.crop_head or self.standardise):
            return images
        found = np.empty_like(images)
        for start in range(0, len(images), 256):
            some = self.frame(torch.from_numpy(images[start : start + 256]).float() / 255)
            if self.standardise:
                some = own_scale(some)
            found[start : start + 256] = (some * 255).round().byte().numpy()
        return found

    def normalise(self, images: Tensor) -> Tensor:
        """(N, S, S) float in 0..1 to (N, channels, S, S) float32; the channels share memory."""
        normal = standardised(images) if self.standardise else (images - self.mean) / self.std
        return normal[:, None].expand(-1, self.channels, -1, -1)


def own_scale(images: Tensor) -> Tensor:
    """(N, S, S) divided by each image's 99th percentile, at most 1."""
    return (images / _bright(images)).clamp(max=1)


def standardised(images: Tensor) -> Tensor:
    """(N, S, S) scaled by the 99th percentile, then by mean and deviation of the foreground.

    So brightness and contrast of the display say nothing (Nyul and Udupa 1999 scale by percentiles
    of the foreground likewise).
    """
    scaled = own_scale(images)
    inside = (scaled > FOREGROUND).to(scaled.dtype)
    count = inside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = (scaled * inside).sum(dim=(1, 2), keepdim=True) / count
    spread = ((scaled - mean) ** 2 * inside).sum(dim=(1, 2), keepdim=True) / count
    return (scaled - mean) / (spread.sqrt() + 0.05)


def crop_to_head(images: Tensor) -> Tensor:
    """(N, S, S) float resampled so that the head's longer side fills the square.

    The head is where a row or column has enough foreground; an image without any stays as it is.
    """
    return crop_like(images, images)


def crop_like(heads: Tensor, images: Tensor) -> Tensor:
    """(N, S, S) `images`, such as masks, framed as `crop_to_head` frames `heads`."""
    x, y, half = head_frame(heads).unbind(dim=1)
    return _resampled(images, x, y, half)


def undo_crop(maps: Tensor, heads: Tensor) -> Tensor:
    """(N, h, w) maps of `crop_to_head(heads)` back over `heads` (N, S, S): (N, S/2, S/2)."""
    size = heads.shape[-1] // 2
    fine = F.interpolate(maps[:, None].float(), size=(size, size), mode="bilinear")[:, 0]
    x, y, half = head_frame(heads.to(fine)).unbind(dim=1)
    return _resampled(fine, -x / half, -y / half, 1 / half)


def _resampled(images: Tensor, x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    """(N, h, w), from the square around (x, y) of each; places run from -1 to 1."""
    none = torch.zeros_like(x)
    theta = torch.stack([half, none, x, none, half, y], dim=1).reshape(-1, 2, 3)
    count, height, width = images.shape
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    return F.grid_sample(
        images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[:, 0]


def head_frame(images: Tensor) -> Tensor:
    """(N, 3): centre x, centre y and half side of each head's square; the image is -1 to 1."""
    size = images.shape[-1]
    mask = (images > FOREGROUND * _bright(images)).to(images.dtype)
    extents = []
    for dim in (1, 2):  # over rows: the columns' profile, then the rows'
        there = mask.mean(dim=dim) > _LEAST_SHARE
        places = torch.arange(size, dtype=images.dtype, device=images.device).expand_as(there)
        first = torch.where(there, places, torch.full_like(places, size)).amin(dim=1)
        last = torch.where(there, places, torch.full_like(places, -1)).amax(dim=1) + 1
        none = last <= first
        first = torch.where(none, torch.zeros_like(first), first)
        last = torch.where(none, torch.full_like(last, size), last)
        extents.append(((first + last) / size - 1, (last - first) / size))
    (x, width), (y, height) = extents
    half = torch.maximum(width, height) * (1 + 2 * _MARGIN)
    return torch.stack([x, y, half], dim=1)


def _bright(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    top = flat.topk(max(1, flat.shape[1] // 100), dim=1).values
    return top[:, -1].clamp(min=1 / 255)[:, None, None]
