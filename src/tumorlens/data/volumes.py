"""DICOM and NIfTI files as grey slices: what a scanner writes, before anyone made an image of it.

Values of any range become 0..255, black the lowest and white the highest of the file, one scale for
all its slices. What a file is, its content says, never its name.
"""

import gzip
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Stack = npt.NDArray[np.uint8]
Axis = Literal["axial", "coronal", "sagittal"]
Kind = Literal["dicom", "nifti"]

# Canonical axes of a volume run to the right, to the front, up. A slice is across one of them; its
# rows run down from the front or the top, its columns to the right or to the front.
AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}

_GZIP = b"\x1f\x8b"
_NIFTI_1 = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")
_NIFTI_2 = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_HEAD = 132
# This transfer syntax unpacks the whole file before its size is known.
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Module and package that read what pydicom itself does not, by transfer syntax.
_JPEG = ("libjpeg", "pylibjpeg-libjpeg (its licence is the GPL)")
_JPEG_LS = ("jpeg_ls", "pyjpegls")
_JPEG_2000 = ("openjpeg", "pylibjpeg-openjpeg")
_READERS = {
    "1.2.840.10008.1.2.4.50": _JPEG,
    "1.2.840.10008.1.2.4.51": _JPEG,
    "1.2.840.10008.1.2.4.57": _JPEG,
    "1.2.840.10008.1.2.4.70": _JPEG,
    "1.2.840.10008.1.2.4.80": _JPEG_LS,
    "1.2.840.10008.1.2.4.81": _JPEG_LS,
    "1.2.840.10008.1.2.4.90": _JPEG_2000,
    "1.2.840.10008.1.2.4.91": _JPEG_2000,
    "1.2.840.10008.1.2.4.201": _JPEG_2000,
    "1.2.840.10008.1.2.4.202": _JPEG_2000,
    "1.2.840.10008.1.2.4.203": _JPEG_2000,
}


class ScanError(ValueError):
    """Why a file cannot be read, as what follows "this file": "is in colour; expected ..."."""


@dataclass(frozen=True)
class Scan:
    """What was in a file.

    Attributes:
        slices: (N, H, W) uint8.
        kind: in words, such as "NIfTI volume, 20 axial slices".
    """

    slices: Stack
    kind: str


def kind_of(head: bytes) -> Kind | None:
    """What the first 132 bytes of a file say; None: neither DICOM nor NIfTI.

    Raises:
        ScanError: gzip with something else in it.
    """
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:4] in (*_NIFTI_1, *_NIFTI_2):
        return "nifti"
    if head[:2] == _GZIP:
        try:
            first = gzip.GzipFile(fileobj=io.BytesIO(head)).read(4)
        except (OSError, EOFError):
            first = b""
        if first and first not in (*_NIFTI_1, *_NIFTI_2):
            raise ScanError("is a gzip file with no NIfTI volume in it")
        return "nifti"
    return None


def kind_of_file(path: Path) -> Kind | None:
    """`kind_of` a file's first bytes; None where it cannot be opened."""
    try:
        with path.open("rb") as file:
            # A gzip file's head may need a little more to unpack than it holds.
            return kind_of(file.read(4096))
    except (OSError, ScanError):
        return None


def read(content: bytes, kind: Kind, max_pixels: int, axis: Axis = "axial") -> Scan:
    """Decode a whole file.

    Args:
        content: of the file.
        kind: from `kind_of`.
        max_pixels: a file with more, all slices together, is refused before it is decoded.
        axis: how a volume is cut.

    Raises:
        ScanError: too large, damaged, or of a kind that is not read.
    """
    try:
        return _dicom(content, max_pixels) if kind == "dicom" else _nifti(content, max_pixels, axis)
    except ScanError:
        raise
    except MemoryError as error:
        raise ScanError("needs more memory than there is") from error
    except Exception as error:  # whatever a decoder makes of a damaged file
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ScanError(f"cannot be decoded: {reason.rstrip('.')}") from error


def series_position(path: Path) -> tuple[str, float, int]:
    """Where a DICOM file stands: series, millimetres along the normal of its slices, number.

    Files of one series sort by it from one end of the head to the other. A file that says nothing
    of it, or is no DICOM, comes first.
    """
    try:
        import pydicom  # noqa: PLC0415 (an extra)

        header = pydicom.dcmread(path, stop_before_pixels=True)
        number = int(header.get("InstanceNumber") or 0)
        series = str(header.get("SeriesInstanceUID", ""))
        place, turned = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
        if not place or not turned:
            return series, 0.0, number
        rows, columns = np.array(turned[:3], dtype=float), np.array(turned[3:], dtype=float)
        along = float(np.cross(rows, columns) @ np.array(place, dtype=float))
        return series, round(along, 3), number
    except Exception:  # a damaged header tells nothing; the file itself says so when it is read
        return "", 0.0, 0


def see(pixels: int, max_pixels: int) -> None:
    """Refuse a file for its size before it is decoded."""
    if pixels <= 0:
        raise ScanError("has no pixels")
    if pixels > max_pixels:
        raise ScanError(
            f"has {pixels / 1e6:,.1f} megapixels, more than the {max_pixels / 1e6:,g} that are "
            "decoded"
        )


def _dicom(content: bytes, max_pixels: int) -> Scan:
    try:
        import pydicom  # noqa: PLC0415 (an extra)
        from pydicom.pixels import apply_modality_lut, apply_voi_lut  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ScanError(
            "is a DICOM file, and pydicom is not installed; pip install 'tumorlens[dicom]'"
        ) from error
    meta = pydicom.filereader.read_dataset(
        io.BytesIO(content[_HEAD:]), False, True, stop_when=lambda tag, *_: tag.group != 2
    )
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == _DEFLATED:
        raise ScanError("is a deflated DICOM file, which is not unpacked here")
    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    frames = int(header.get("NumberOfFrames") or 1)
    see(int(header.get("Rows", 0)) * int(header.get("Columns", 0)) * frames, max_pixels)
    data = pydicom.dcmread(io.BytesIO(content))
    if not str(data.get("PhotometricInterpretation", "MONOCHROME2")).startswith("MONOCHROME"):
        raise ScanError("is a DICOM file in colour; expected a grey MRI slice")
    try:
        stored = data.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        module, package = _READERS.get(syntax, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise ScanError(
                f"is compressed as {data.file_meta.TransferSyntaxUID.name}, which needs the "
                f"package {package}; install it with pip"
            ) from error
        raise ScanError(f"cannot be decoded: {str(error).splitlines()[-1].strip()}") from error
    values = apply_voi_lut(apply_modality_lut(stored, data), data)
    stack = np.asarray(values, dtype=np.float64).reshape(frames, *values.shape[-2:])
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        stack = stack.max() - stack
    word = "slice" if frames == 1 else f"file, {frames} frames"
    return Scan(_stretched(stack), f"DICOM {word}")


def _nifti(content: bytes, max_pixels: int, axis: Axis) -> Scan:
    import nibabel  # noqa: PLC0415 (half a second)

    stream: Any = io.BytesIO(content)
    if content[:2] == _GZIP:
        stream = gzip.GzipFile(fileobj=stream)
    first = stream.read(4)
    stream.seek(0)
    if first not in (*_NIFTI_1, *_NIFTI_2):
        raise ScanError("is a gzip file with no NIfTI volume in it")
    form: Any = nibabel.Nifti1Image if first in _NIFTI_1 else nibabel.Nifti2Image
    image = form.from_stream(stream)
    shape = image.shape
    if len(shape) not in (2, 3, 4) or (len(shape) == 4 and shape[3] != 1):
        raise ScanError(
            f"is a NIfTI file of shape {' x '.join(map(str, shape))}; expected one volume"
        )
    see(int(np.prod([int(side) for side in shape], dtype=object)), max_pixels)
    if image.get_data_dtype().fields is not None:
        raise ScanError("is a NIfTI file in colour; expected grey values")
    if len(shape) == 2:
        axis, values = "axial", np.asarray(image.dataobj, dtype=np.float32)[:, :, None]
    else:
        upright: Any = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        values = np.asarray(upright.dataobj, dtype=np.float32).reshape(upright.shape[:3])
    # The two axes that are left keep their order: the first becomes columns, the second rows.
    stack = np.flip(np.moveaxis(values, AXES[axis], 0).swapaxes(1, 2), axis=1)
    return Scan(_stretched(stack), f"NIfTI volume, {len(stack)} {axis} slices")


def _stretched(stack: npt.NDArray[Any]) -> Stack:
    """(N, H, W) values of any range to 0..255, one scale for all; what is no number is black."""
    finite = np.nan_to_num(stack, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    scale = 255 / (high - low) if high > low else 0.0
    stretched = np.empty(finite.shape, dtype=np.uint8)
    for index, one in enumerate(finite):  # slice by slice: no copy of the whole as float64
        stretched[index] = np.rint((one.astype(np.float64) - low) * scale)
    return stretched
