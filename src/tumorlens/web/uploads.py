"""The bytes of an upload as grey slices. What it is, its content says; its name is never asked."""

import io
from dataclasses import dataclass

from tumorlens.data import readers
from tumorlens.data import volumes as scans
from tumorlens.errors import TumorlensError


@dataclass(frozen=True)
class Limits:
    """How much one upload may be.

    Attributes:
        bytes: of the file.
        pixels: of all its slices together.
    """

    bytes: int
    pixels: int


def decode(content: bytes, limits: Limits) -> scans.Scan:
    """Decode a slice, a DICOM file or a NIfTI volume.

    Raises:
        TumorlensError: too large, of another kind, or damaged; one sentence.
    """
    if not content:
        raise TumorlensError("This file is empty.")
    if len(content) > limits.bytes:
        raise TumorlensError(
            f"This file has {len(content) / 1e6:,.1f} MB, more than the {limits.bytes / 1e6:,g} "
            "that are taken."
        )
    try:
        kind = scans.kind_of(content[:4096])
        if kind is not None:
            return scans.read(content, kind, limits.pixels)
        return _picture(content, limits)
    except TumorlensError:
        raise
    except scans.ScanError as error:
        raise TumorlensError(f"This file {error}.") from error
    except MemoryError as error:
        raise TumorlensError("This file needs more memory than there is.") from error
    except Exception as error:  # whatever a decoder makes of a damaged file
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise TumorlensError(f"This file cannot be decoded: {reason.rstrip('.')}.") from error


def _picture(content: bytes, limits: Limits) -> scans.Scan:
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    formats = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
    try:
        with Image.open(io.BytesIO(content), formats=formats) as picture:
            scans.see(picture.width * picture.height, limits.pixels)
            picture.load()
            grey = readers.to_grey(picture)
            kind = f"{picture.format} picture"
    except UnidentifiedImageError as error:
        raise TumorlensError(
            "This is no PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI file, whatever its name says."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TumorlensError("This picture has more pixels than are decoded.") from error
    return scans.Scan(grey[None], kind)
