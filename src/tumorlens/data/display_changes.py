"""Named, graded changes of display and acquisition, of grey squares.

Grade 3 is what display software, exports and resizing do every day; 1 and 2 are less, 4 and 5
beyond. Nothing is drawn at random but by a fixed seed: the same images give the same changes.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tumorlens.data.preprocessing import Preprocessing, crop_to_head

EVERYDAY = 3  # the highest grade that happens every day


@dataclass(frozen=True)
class DisplayChange:
    """One way in which a display or a scanner changes an image."""

    apply: Callable[[Tensor, float], Tensor]  # from (N, S, S) float in 0..1 and a value to the same
    values: tuple[float, ...]  # of grades 1 to 5; one, where there are no grades
    unit: str  # of the values, in words

    @property
    def grades(self) -> dict[int, float]:
        """Grade to value."""
        first = 1 if len(self.values) > 1 else EVERYDAY
        return dict(enumerate(self.values, start=first))

    def before(self, preprocessing: Preprocessing, value: float) -> Callable[[Tensor], Tensor]:
        """`preprocessing` of (N, S, S) uint8 images that are changed first."""
        return lambda images: preprocessing.of_floats(self.apply(images.float() / 255, value))


def _darker(images: Tensor, share: float) -> Tensor:
    return images * share


def _brighter(images: Tensor, factor: float) -> Tensor:
    return (images * factor).clamp(max=1)


def _gamma(images: Tensor, power: float) -> Tensor:
    return images**power


def _window(images: Tensor, percentile: float) -> Tensor:
    """White at a percentile of the image, as viewers and exports scale."""
    top = torch.quantile(images.flatten(1), percentile / 100, dim=1).clamp(min=1 / 255)
    return (images / top[:, None, None]).clamp(max=1)


def _contrast(images: Tensor, factor: float) -> Tensor:
    mean = images.mean(dim=(1, 2), keepdim=True)
    return ((images - mean) * factor + mean).clamp(0, 1)


def _bias_field(images: Tensor, amplitude: float) -> Tensor:
    """A smooth brightness from one corner to the other, as surface coils leave it."""
    size = images.shape[-1]
    slope = torch.linspace(-1, 1, size, device=images.device)
    field = torch.exp(amplitude * (slope[:, None] + slope) / 2)
    return (images * field).clamp(max=1)


def _noise(images: Tensor, deviation: float) -> Tensor:
    """Rician: the magnitude of a signal with normal noise in both its channels."""
    size = images.shape[-1]
    drawn = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, size, size))).float()
    real, imaginary = (deviation * drawn).to(images.device)
    return torch.hypot(images + real, imaginary.expand_as(images)).clamp(max=1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian, `sigma` in hundredths of the side."""
    spread = sigma * images.shape[-1] / 100
    reach = max(1, round(3 * spread))
    places = torch.arange(-reach, reach + 1, device=images.device) / spread
    kernel = torch.exp(-(places**2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def _resolution(images: Tensor, share: float) -> Tensor:
    """Shrunk to a share of the side and enlarged again."""
    size = images.shape[-1]
    small = F.interpolate(
        images[:, None], size=max(1, round(share * size)), mode="bilinear", antialias=True
    )
    return F.interpolate(small, size=size, mode="bilinear")[:, 0]


def _jpeg(images: Tensor, quality: float) -> Tensor:
    found = []
    for pixels in (images * 255).round().byte().cpu().numpy():
        with io.BytesIO() as buffer:
            Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
            found.append(np.array(Image.open(buffer)))
    return torch.from_numpy(np.stack(found)).to(images.device).float() / 255


def _zoomed(images: Tensor, factor: float) -> Tensor:
    """Larger (over 1) or with black around it (under 1)."""
    return _placed(images, torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]))


def _rotated(images: Tensor, degrees: float) -> Tensor:
    angle = torch.tensor(degrees * torch.pi / 180)
    cos, sin = float(torch.cos(angle)), float(torch.sin(angle))
    return _placed(images, torch.tensor([[cos, -sin, 0], [sin, cos, 0]]))


def _placed(images: Tensor, matrix: Tensor) -> Tensor:
    count, height, width = images.shape
    theta = matrix.to(images).expand(count, 2, 3)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    return F.grid_sample(images[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0]


def _mirrored(images: Tensor, _: float) -> Tensor:
    return images.flip(2)


def _head_cropped(images: Tensor, _: float) -> Tensor:
    return crop_to_head(images)


# What a grade's number is, in words, is its unit; changes without grades happen every day.
CHANGES = {
    "darker": DisplayChange(_darker, (0.9, 0.75, 0.6, 0.45, 0.3), "factor"),
    "brighter": DisplayChange(_brighter, (1.1, 1.3, 1.6, 2.2, 3.0), "factor"),
    "gamma, dark": DisplayChange(_gamma, (1.1, 1.25, 1.5, 2.0, 2.6), "power"),
    "gamma, bright": DisplayChange(_gamma, (0.9, 0.8, 0.67, 0.5, 0.38), "power"),
    "window": DisplayChange(_window, (100, 99.5, 99, 97, 94), "white percentile"),
    "less contrast": DisplayChange(_contrast, (0.9, 0.8, 0.65, 0.5, 0.35), "factor"),
    "bias field": DisplayChange(_bias_field, (0.1, 0.25, 0.4, 0.6, 0.9), "log amplitude"),
    "noise": DisplayChange(_noise, (0.01, 0.02, 0.04, 0.07, 0.1), "deviation"),
    "blur": DisplayChange(_blur, (0.4, 0.7, 1.0, 1.6, 2.4), "hundredths of the side"),
    "resolution": DisplayChange(_resolution, (0.85, 0.7, 0.55, 0.4, 0.3), "share of the side"),
    "JPEG": DisplayChange(_jpeg, (90, 70, 50, 25, 10), "quality"),
    "zoom": DisplayChange(_zoomed, (1.05, 1.1, 1.2, 1.3, 1.45), "factor"),
    "padding": DisplayChange(_zoomed, (0.95, 0.9, 0.8, 0.7, 0.6), "factor"),
    "rotation": DisplayChange(_rotated, (2, 5, 8, 15, 25), "degrees"),
    "mirrored": DisplayChange(_mirrored, (1,), ""),
    "head cropped": DisplayChange(_head_cropped, (1,), ""),
}
