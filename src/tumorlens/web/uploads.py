"""The bytes of an upload as grey slices. What it is, its content says; its name is never asked."""

import gzip
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data import readers
from tumorlens.errors import TumorlensError

Pictures = npt.NDArray[np.uint8]

_GZIP = b"\x1f\x8b"
_NIFTI_SIZES = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
# This transfer syntax unpacks the whole file before its size is known.
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Limits:
    """How much one upload may be.

    Attributes:
        bytes: of the file.
        pixels: of all its slices together.
    """

    bytes: int
    pixels: int


@dataclass(frozen=True)
class Slices:
    """What was in an upload.

    Attributes:
        pictures: one or more (H, W) uint8.
        kind: in words, such as "NIfTI volume, 20 axial slices".
    """

    pictures: tuple[Pictures, ...]
    kind: str


def decode(content: bytes, limits: Limits) -> Slices:
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
        if content[128:132] == b"DICM":
            return _dicom(content, limits)
        if content[:4] in _NIFTI_SIZES or content[:2] == _GZIP:
            return _nifti(content, limits)
        return _picture(content, limits)
    except TumorlensError:
        raise
    except MemoryError as error:
        raise TumorlensError("This file needs more memory than there is.") from error
    except Exception as error:  # whatever a decoder makes of a damaged file
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise TumorlensError(f"This file cannot be decoded: {reason.rstrip('.')}.") from error


def _picture(content: bytes, limits: Limits) -> Slices:
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    formats = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=formats) as picture:
                _see(picture.width * picture.height, limits)
                picture.load()
                grey = readers.to_grey(picture)
                kind = f"{picture.format} picture"
        except UnidentifiedImageError as error:
            raise TumorlensError(
                "This is no PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI file, whatever its name "
                "says."
            ) from error
        except Image.DecompressionBombError as error:
            raise TumorlensError("This picture has more pixels than are decoded.") from error
    return Slices((grey,), kind)


def _see(pixels: int, limits: Limits) -> None:
    if pixels <= 0:
        raise TumorlensError("This file has no pixels.")
    if pixels > limits.pixels:
        raise TumorlensError(
            f"This file has {pixels / 1e6:,.1f} megapixels, more than the "
            f"{limits.pixels / 1e6:,g} that are decoded."
        )


def _dicom(content: bytes, limits: Limits) -> Slices:
    try:
        import pydicom  # noqa: PLC0415 (an extra)
        from pydicom.pixels import apply_modality_lut, apply_voi_lut  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TumorlensError(
            "This is a DICOM file, and this server has no pydicom to read it."
        ) from error
    meta = pydicom.filereader.read_dataset(
        io.BytesIO(content[132:]), False, True, stop_when=lambda tag, *_: tag.group != 2
    )
    if str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
        raise TumorlensError("This DICOM file is deflated, which is not unpacked here.")
    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    frames = int(header.get("NumberOfFrames") or 1)
    _see(int(header.get("Rows", 0)) * int(header.get("Columns", 0)) * frames, limits)
    data = pydicom.dcmread(io.BytesIO(content))
    if int(data.get("SamplesPerPixel", 1)) != 1:
        raise TumorlensError("This DICOM file is in colour; expected a grey MRI slice.")
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    stack = np.asarray(values, dtype=np.float64).reshape(frames, *values.shape[-2:])
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        stack = stack.max() - stack
    word = "slice" if frames == 1 else f"file, {frames} frames"
    return Slices(_stretched(stack), f"DICOM {word}")


def _nifti(content: bytes, limits: Limits) -> Slices:
    import nibabel  # noqa: PLC0415

    kinds: dict[bytes, Any] = {b"\x5c\x01": nibabel.Nifti1Image, b"\x01\x5c": nibabel.Nifti1Image}
    stream: Any = io.BytesIO(content)
    if content[:2] == _GZIP:
        stream = gzip.GzipFile(fileobj=stream)
    first = stream.read(4)
    stream.seek(0)
    if first not in _NIFTI_SIZES:
        raise TumorlensError("This is a gzip file with no NIfTI volume in it.")
    kind = kinds.get(first[:2] if first[2:] == b"\0\0" else first[2:], nibabel.Nifti2Image)
    image = kind.from_stream(stream)
    shape = image.shape
    if len(shape) not in (2, 3, 4) or (len(shape) == 4 and shape[3] != 1):
        raise TumorlensError(
            f"This NIfTI file has the shape {' x '.join(map(str, shape))}; expected one volume."
        )
    _see(int(np.prod([int(side) for side in shape], dtype=object)), limits)
    if image.get_data_dtype().fields is not None:
        raise TumorlensError("This NIfTI file is in colour; expected grey values.")
    if len(shape) == 2:
        values = np.asarray(image.dataobj, dtype=np.float64)[:, :, None]
    else:
        upright: Any = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        values = np.asarray(upright.dataobj, dtype=np.float64).reshape(
            shape[:3] and upright.shape[:3]
        )
    # Canonical axes run to the right, to the front, up; a picture's rows run down from the front.
    stack = np.flip(np.moveaxis(values, 2, 0).swapaxes(1, 2), axis=1)
    return Slices(_stretched(stack), f"NIfTI volume, {len(stack)} axial slices")


def _stretched(stack: npt.NDArray[np.float64]) -> tuple[Pictures, ...]:
    """(N, H, W) values of any range to 0..255, one scale for all."""
    finite = np.nan_to_num(stack, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    scale = 255 / (high - low) if high > low else 0.0
    return tuple(np.rint((one - low) * scale).astype(np.uint8) for one in finite)
