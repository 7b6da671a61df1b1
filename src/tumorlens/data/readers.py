"""One file's pixels as 8-bit grey images with square pixels.

Everything becomes a single grey channel: in the public data set a file's colour mode tells mirrored
slices from others, and a network must not be able to see it. 8-bit values stay as they are; values
of any other range become 0..255.
"""

import io
import logging
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from tumorlens.errors import ScanError, UnreadableImageError

Stack = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp"]
)

# Above this a file is refused before it is decoded: 64 megapixels is eight times a radiograph.
MAX_PIXELS = 64_000_000
_MAX_BYTES = 1_000_000_000
# This share of the values, at either end, does not set the scale: a hot pixel is no anatomy.
_LEFT_OUT = 0.0005
# Height to width of a pixel: as good as square, and more than any scanner writes.
_SQUARE, _MOST_STRETCHED = 0.005, 100.0
_ORIENTATION, _PHOTOMETRIC = 0x0112, 262  # tags of EXIF and TIFF

# Pillow's own names; its other plug-ins are never asked: a PostScript file is no slice.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_EXPECTED = "a PNG, JPEG, TIFF, BMP, GIF or WebP image"
_VOLUME = "convert it to NIfTI (.nii.gz), for example with SimpleITK or nibabel"
_ARRAY = "save its slices as PNG or NIfTI"
# What a file that is no image is, by its first bytes, and what to do with it.
_OTHERS = (
    (b"NRRD", f"is an NRRD volume, which is not read; {_VOLUME}"),
    (
        (b"ObjectType", b"NDims"),
        f"is a MetaImage volume (.mha, .mhd), which is not read; {_VOLUME}",
    ),
    (b"\0\0\0\1", f"is an MGH volume (.mgh, .mgz), which is not read; {_VOLUME}"),
    (b"\x93NUMPY", f"is a NumPy array (.npy), which is not read; {_ARRAY}"),
    (b"MATLAB", f"is a MATLAB file (.mat), which is not read; {_ARRAY}"),
    (b"\x89HDF", f"is an HDF5 file, which is not read; {_ARRAY}"),
    ((b"PK\3\4", b"BZh", b"\xfd7z", b"7z\xbc", b"Rar!", b"(\xb5/\xfd"), "is an archive; unpack it"),
    (b"%PDF", f"is a PDF file, which is not read; expected {_EXPECTED}"),
    (b"<", f"is a web page or XML file; expected {_EXPECTED}"),
    (b"\x5c\1\0\0", "is a NIfTI volume, which `predict` and `serve` read; save its slices as PNG"),
)
_OF_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"\0\0\0\x0cjP")


@dataclass(frozen=True)
class ImageFacts:
    """What a file says of itself: `width` and `height` in square pixels, before orientation."""

    format: str
    mode: str
    width: int
    height: int


@contextmanager
def decoders_silent() -> Iterator[None]:
    """Keep decoders from warning of odd files: what cannot be used is refused with a sentence.

    Filters are the whole process's: change them before threads start, never in one.
    """
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    with warnings.catch_warnings():
        for package in ("PIL", "pydicom", "nibabel"):
            warnings.filterwarnings("ignore", module=rf"{package}\.")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def read_grey(path: Path, *, flat_ok: bool = False) -> npt.NDArray[np.uint8]:
    """Decode `path` to grey, upright by its EXIF orientation, with square pixels.

    Colour becomes luma (ITU-R 601); transparency is laid on black; 16-bit, 32-bit and float
    images are scaled by `grey_levels`.

    Args:
        path: an image file.
        flat_ok: an image of one value is read too, as a mask may be.

    Returns:
        (height, width) uint8, 0 black to 255 white.

    Raises:
        UnreadableImageError: missing, empty, not an image, truncated, too large to be decoded, of
            one value, or several images in one file.
    """
    return read_grey_with_facts(path, flat_ok=flat_ok)[0]


def read_grey_with_facts(
    path: Path, content: bytes | None = None, *, flat_ok: bool = False
) -> tuple[npt.NDArray[np.uint8], ImageFacts]:
    """`read_grey`, and what the file says of itself; `content` spares reading the file again."""
    try:
        stack, facts = decode(
            content_of(path) if content is None else content, MAX_PIXELS, flat_ok=flat_ok
        )
        if len(stack) > 1:
            raise ScanError(
                f"has {len(stack)} pages or frames; expected one image. Save the one that is meant "
                "as a file of its own"
            )
        return stack[0], facts
    except ScanError as error:
        raise UnreadableImageError(f"{path}: {error}.") from error


def content_of(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        ScanError: missing, no regular file, empty, too large, or not allowed.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ScanError(f"is {kind}; expected an image file")
        if found.st_size > _MAX_BYTES:
            raise ScanError(f"has {found.st_size / 1e6:,.0f} MB, more than is read (1,000 MB)")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ScanError("does not exist; there is no such file") from error
    except OSError as error:
        raise ScanError(f"cannot be read ({error.strerror})") from error


def check_size(pixels: int, max_pixels: int) -> None:
    """Refuse a file for its size before it is decoded."""
    if pixels <= 0:
        raise ScanError("has no pixels")
    if pixels > max_pixels:
        raise ScanError(
            f"has {pixels / 1e6:,.3f} megapixels, more than the {max_pixels / 1e6:,g} that are "
            "decoded"
        )


def decode(
    content: bytes | Image.Image, max_pixels: int = MAX_PIXELS, *, flat_ok: bool = False
) -> tuple[Stack, ImageFacts]:
    """Decode the content of an image file, all its pages or frames.

    Args:
        content: of the file, or what Pillow made of it.
        max_pixels: a file with more, all pages together, is refused before it is decoded.
        flat_ok: see `read_grey`.

    Returns:
        (N, height, width) uint8, and what the file says of itself.

    Raises:
        ScanError: as `read_grey`, as what follows "this file".
    """
    if not content:
        raise ScanError("is empty (0 bytes); expected an image")
    try:
        with (
            nullcontext(content)
            if isinstance(content, Image.Image)
            else Image.open(io.BytesIO(content), formats=_FORMATS)
        ) as image:
            pages = int(getattr(image, "n_frames", 1))
            check_size(image.width * image.height * pages, max_pixels)
            kind, mode, aspect = str(image.format), image.mode, _aspect(image)
            lying = image.getexif().get(_ORIENTATION, 1) >= 5  # rows and columns change places
            upright, pixels = [], 0
            for page in range(pages):
                if page:
                    image.seek(page)
                pixels += image.width * image.height
                check_size(pixels, max_pixels)
                image.load()
                upright.append(_upright(image))
    except ScanError:
        raise
    except UnidentifiedImageError as error:
        raise ScanError(_not_an_image(cast(bytes, content))) from error
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise ScanError(decoding_failed(error)) from error
    if len({page.shape for page in upright}) > 1:
        raise ScanError("has pages of different sizes; expected one image")
    stack: npt.NDArray[Any] = np.stack(upright)
    if not flat_ok and stack.min() == stack.max():
        raise ScanError(_flat(stack.flat[0]))
    grey = stack if stack.dtype == np.uint8 else grey_levels(stack, flat_ok=flat_ok)
    grey = square_pixels(grey, 1 / aspect if lying else aspect, max_pixels)
    height, width = grey.shape[:0:-1] if lying else grey.shape[1:]
    return grey, ImageFacts(kind, mode, width, height)


def _flat(value: Any) -> str:
    return f"has the value {value:g} in every pixel; no anatomy is in it"


def decoding_failed(error: Exception) -> str:
    """Why a decoder gave up, as what follows "this file"."""
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    reason = str(error).strip().split("\n")[0][:200].rstrip(".") or type(error).__name__
    if "truncated" in reason.lower() or "incomplete" in reason.lower():
        reason = f"the file is truncated: {reason}"
    return f"cannot be decoded ({reason})"


def _not_an_image(content: bytes) -> str:
    for start, sentence in _OTHERS:
        if content.startswith(start):
            return sentence
    if content[4:8] == b"ftyp":
        return f"is an HEIC, AVIF or video file, which is not read; expected {_EXPECTED}"
    if content[128:132] == b"DICM":
        return "is a DICOM file, which `predict` and `serve` read; save its slices as PNG"
    if content.startswith(_OF_IMAGES):
        return "is a damaged image, or one of a kind that is not read"
    return f"is not {_EXPECTED}, whatever its name says"


def _aspect(image: Image.Image) -> float:
    """Height to width of a pixel, as the file declares it; 1 where it does not."""
    density: tuple[float, float] = (1, 1)  # pixels to a unit of length, across and down
    for key in ("aspect", "resolution", "dpi"):  # PNG, TIFF, any
        density = image.info.get(key, density)
    if image.info.get("jfif_unit") == 0:
        density = image.info.get("jfif_density", density)
    try:
        across, down = map(float, density)
        return across / down if across > 0 and down > 0 else 1.0
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0


def _upright(image: Image.Image) -> npt.NDArray[np.uint8] | npt.NDArray[np.float64]:
    """A decoded page, (height, width); uint8, or float64 where its values need a scale."""
    turned = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        values = np.asarray(turned, dtype=np.float64)
        white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        return -values if white_is_zero else values
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        rgba = turned.convert("RGBA")
        if rgba.getchannel("A").getextrema() == (0, 0):
            raise ScanError("is transparent in every pixel; no anatomy is in it")
        turned = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    if turned.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        turned = turned.convert("RGB")
    return np.array(turned.convert("L"), dtype=np.uint8)


def grey_levels(
    values: npt.NDArray[Any],
    missing: npt.NDArray[np.bool_] | None = None,
    *,
    inverse: bool = False,
    flat_ok: bool = False,
) -> Stack:
    """Real values of any range to 0..255, one linear scale for all slices.

    The scale runs from the lowest to the highest value, but for 0.05% of the values at either end:
    a hot pixel does not darken the rest. What is no number or `missing` becomes 0.

    Args:
        values: (N, H, W).
        missing: (N, H, W), where there is no value, such as padding.
        inverse: the lowest value is white.
        flat_ok: values that are all the same become 0 instead of being refused.

    Returns:
        (N, H, W) uint8.

    Raises:
        ScanError: complex values, no number at all, an overflow, or one value everywhere.
    """
    if values.dtype.kind not in "biuf":
        raise ScanError("has complex values or colours; expected one real value a pixel")
    known = np.isfinite(values)
    if missing is not None:
        known &= ~missing
    if not known.any():
        raise ScanError("has no value that is a number")
    if np.count_nonzero(np.isinf(values)) > _LEFT_OUT * values.size:
        raise ScanError("has infinite values: an overflow; write it with smaller values")
    low, high = _range(values, known)
    if high <= low and not flat_ok:
        raise ScanError(_flat(low))
    if not np.isfinite(high - low):
        raise ScanError(f"has values from {low:g} to {high:g}: an overflow")
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.zeros(values.shape, dtype=np.uint8)
    for index, one in enumerate(values):  # slice by slice: no copy of the whole as float64
        with np.errstate(invalid="ignore"):  # of NaN, which the mask takes out
            levels = np.rint((np.clip(one.astype(np.float64), low, high) - low) * scale)
            np.copyto(grey[index], 255 - levels if inverse else levels, "unsafe", known[index])
    return grey


def _range(values: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Lowest and highest of the `known` values, without the few that do not count."""
    step = 2 * (values.size // 16_000_000) + 1  # odd: comes by every column
    numbers = values.reshape(-1)[::step][known.reshape(-1)[::step]].astype(np.float64)
    few = int(np.ceil(_LEFT_OUT * len(numbers))) if len(numbers) >= 256 else 0
    if len(numbers) > 2 * few:
        numbers.partition([few, len(numbers) - 1 - few])
        low, high = float(numbers[few]), float(numbers[-1 - few])
        if high > low:
            return low, high
    every = values[known].astype(np.float64)
    return float(every.min()), float(every.max())


def square_pixels(stack: Stack, aspect: float, max_pixels: int = MAX_PIXELS) -> Stack:
    """Resample slices so that their pixels are square.

    Args:
        stack: (N, H, W).
        aspect: height to width of a pixel; what is no positive number says nothing.
        max_pixels: of the result, which is made smaller rather than larger than that.

    Returns:
        (N, H', W') uint8; H' = H aspect or W' = W / aspect, whichever is larger than it was.

    Raises:
        ScanError: a ratio that no scanner writes.
    """
    if not 0 < aspect < np.inf or abs(aspect - 1) <= _SQUARE:
        return stack
    if max(aspect, 1 / aspect) > _MOST_STRETCHED:
        raise ScanError(f"declares pixels {aspect:g} times as high as wide; correct its header")
    count, height, width = stack.shape
    wanted = height * max(aspect, 1), width * max(1 / aspect, 1)
    shrink = min(1.0, (max_pixels / (count * wanted[0] * wanted[1])) ** 0.5)
    rows, columns = (max(1, round(side * shrink)) for side in wanted)
    return np.stack([resize(one, rows, columns) for one in stack])


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
    inner_height, inner_width = (max(1, round(side * scale)) for side in (height, width))
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
    square = np.zeros((size, size), dtype=np.uint8)
    square[place.top : place.top + place.height, place.left : place.left + place.width] = inner
    return square


def resize(grey: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize (H, W) uint8 to (height, width): bilinear, with the support widened when shrinking."""
    if grey.shape == (height, width):
        return grey
    image = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image, dtype=np.uint8)
