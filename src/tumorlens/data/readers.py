"""One image file in, one grey image out.

Everything becomes a single 8-bit grey channel: in the public data set a file's colour mode tells
mirrored slices from others, and a network must not be able to see it.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from tumorlens.errors import UnreadableImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})

# Above this an image is refused before it is decoded: 64 megapixels is eight times a radiograph.
MAX_PIXELS = 64_000_000

# Pillow's own names; its other forty plug-ins are never asked: a PostScript file is no slice.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


@dataclass(frozen=True)
class ImageFacts:
    """What a file says of itself: `width` and `height` in pixels as stored, before orientation."""

    format: str
    mode: str
    width: int
    height: int


def read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """Decode `path` to grey, upright by its EXIF orientation.

    Colour becomes luma (ITU-R 601); transparency is laid on black; 16-bit, 32-bit and float
    images are stretched linearly from their own minimum and maximum to 0..255.

    Returns:
        (height, width) uint8, 0 black to 255 white.

    Raises:
        UnreadableImageError: missing, empty, not an image, truncated, or too large to be decoded.
    """
    return read_grey_with_facts(path)[0]


def read_grey_with_facts(
    path: Path, content: bytes | None = None
) -> tuple[npt.NDArray[np.uint8], ImageFacts]:
    """`read_grey`, and what the file says of itself; `content` spares reading the file again.

    Pillow's warnings are left alone: their filters are the whole process's, and this runs in
    threads.
    """
    try:
        if (path.stat().st_size if content is None else len(content)) == 0:
            raise UnreadableImageError(f"{path}: the file is empty (0 bytes), expected an image.")
        source = path if content is None else io.BytesIO(content)
        with Image.open(source, formats=_FORMATS) as image:
            facts = ImageFacts(str(image.format), image.mode, *image.size)
            if facts.width * facts.height > MAX_PIXELS:
                raise UnreadableImageError(
                    f"{path}: {facts.width} x {facts.height} pixels, more than the "
                    f"{MAX_PIXELS:,} that are decoded; a decompression bomb or not a slice."
                )
            image.load()
            return to_grey(image), facts
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{path}: not a PNG, JPEG, TIFF, BMP or WebP image, whatever its name says."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(
            f"{path}: more than the {MAX_PIXELS:,} pixels that are decoded; a decompression bomb."
        ) from error
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path}: there is no such file.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableImageError(f"{path}: cannot be decoded ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    if "truncated" in text.lower() or "incomplete" in text.lower():
        return "the file is truncated: " + text
    return text or type(error).__name__


def to_grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A decoded image as (height, width) uint8, as `read_grey` describes."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _SIXTEEN_BIT:
        return _stretched(np.asarray(upright, dtype=np.float64))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, rgba)
    if upright.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        upright = upright.convert("RGB")
    return np.array(upright.convert("L"), dtype=np.uint8)


def _stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if high <= low:
        return np.zeros(finite.shape, dtype=np.uint8)
    return np.rint((finite - low) * (255.0 / (high - low))).astype(np.uint8)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the square that the network sees, in pixels of the square."""

    top: int
    left: int
    height: int
    width: int


def placement(height: int, width: int, size: int) -> Placement:
    """Where `fit_square` puts an image of `height` x `width` in a square of side `size`."""
    scale = size / max(height, width)
    inner_height = max(1, round(height * scale))
    inner_width = max(1, round(width * scale))
    return Placement(
        (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width
    )


def fit_square(grey: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Fit an image into a square without changing its proportions; the rest is black.

    Args:
        grey: (height, width) uint8.
        size: side of the square, pixels.

    Returns:
        (size, size) uint8; `placement` says which part of it is image.
    """
    height, width = grey.shape
    place = placement(height, width, size)
    inner = resize(grey, place.height, place.width)
    if inner.shape == (size, size):
        return inner
    square = np.zeros((size, size), dtype=np.uint8)
    square[place.top : place.top + place.height, place.left : place.left + place.width] = inner
    return square


def resize(grey: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize (H, W) uint8 to (height, width): bilinear, with the support widened when shrinking."""
    if grey.shape == (height, width):
        return grey
    image = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image, dtype=np.uint8)
