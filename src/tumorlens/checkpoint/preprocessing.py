"""From a grey square to the network's input: part of a checkpoint and of an exported graph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorlens.data.normalisation import crop_like, own_scale, standardised, undo_crop


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
