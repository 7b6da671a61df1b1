"""Any file as grey slices: images, and what a scanner writes before anyone makes an image of it.

Values of any range become 0..255, one scale for all slices of a file. What a file is, its content
says, never its name.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tumorlens.data import dicom, readers
from tumorlens.data.readers import MAX_PIXELS, Stack, check_size, grey_levels, square_pixels
from tumorlens.errors import ScanError

Axis = Literal["axial", "coronal", "sagittal"]
Kind = Literal["image", "dicom", "nifti"]

# Canonical axes of a volume run to the right, to the front, up. A slice is across one of them; its
# rows run down from the front or the top, its columns to the right or to the front.
AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}

_GZIP = b"\x1f\x8b"
_NIFTI_1 = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")
_NIFTI_2 = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_HEADER = 540  # bytes of the longer NIfTI header
_MOST_EXTENSIONS = 64_000_000  # bytes between header and voxels
PAIR = (
    "is half of an Analyze or NIfTI pair (.hdr, .img), which is not read; convert it to one NIfTI "
    "file (.nii.gz), for example with nibabel"
)


@dataclass(frozen=True, eq=False)
class Scan:
    """What was in a file."""

    slices: Stack  # (N, H, W) uint8, square pixels
    kind: str  # in words, such as "NIfTI volume, 20 axial slices"
    note: str = ""  # what of its header makes no sense and is not used; else empty


def kind_of(head: bytes) -> Kind:
    """What the first 132 bytes of a file, or more, say; an image where they say nothing.

    Raises:
        ScanError: gzip with something else in it.
    """
    if dicom.is_dicom(head):
        return "dicom"
    if head[:4] in (*_NIFTI_1, *_NIFTI_2):
        return "nifti"
    if head[:2] != _GZIP:
        return "image"
    try:
        first = gzip.GzipFile(fileobj=io.BytesIO(head)).read(4)
    except (OSError, EOFError, zlib.error):
        first = b""
    if first == b"\0\0\0\1":
        readers.decode(first)  # says what it is
    if first and first not in (*_NIFTI_1, *_NIFTI_2):
        raise ScanError("is a gzip file with no NIfTI volume in it")
    return "nifti"


def is_dicom(path: Path) -> bool:
    """Whether a regular file's content is DICOM."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return dicom.is_dicom(file.read(132))
    except OSError:
        return False


def read(content: bytes | Image.Image, max_pixels: int = MAX_PIXELS, axis: Axis = "axial") -> Scan:
    """Decode a whole file of any kind that is read.

    Args:
        content: of the file, or an image in memory.
        max_pixels: a file with more, all slices together, is refused before it is decoded.
        axis: how a volume is cut.

    Raises:
        ScanError: too large, damaged, or of a kind that is not read.
    """
    try:
        if isinstance(content, bytes):
            kind = kind_of(content[:4096])
            if kind == "nifti":
                return _nifti(content, max_pixels, axis)
            if kind == "dicom":
                slices, note = dicom.read(content, max_pixels)
                word = "slice" if len(slices) == 1 else f"file, {len(slices)} frames"
                return Scan(slices, f"DICOM {word}", note)
        slices, facts = readers.decode(content, max_pixels)
        pages = f", {len(slices)} pages" if len(slices) > 1 else ""
        return Scan(slices, f"{facts.format} image{pages}")
    except ScanError:
        raise
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise ScanError(readers.decoding_failed(error)) from error


def _nifti(content: bytes, max_pixels: int, axis: Axis) -> Scan:
    import nibabel  # noqa: PLC0415 (half a second)

    stream: Any = io.BytesIO(content)
    if content[:2] == _GZIP:
        stream = gzip.GzipFile(fileobj=stream)
    head = stream.read(_HEADER)
    form: Any = nibabel.Nifti1Image if head[:4] in _NIFTI_1 else nibabel.Nifti2Image
    if head[:4] not in (*_NIFTI_1, *_NIFTI_2):
        raise ScanError("is a gzip file with no NIfTI volume in it")
    if len(head) < 348:
        raise ScanError("cannot be decoded (the file is truncated: its header is not whole)")
    if form is nibabel.Nifti1Image and head[344:346] != b"n+":
        raise ScanError(PAIR)
    header = form.header_class(head[: form.header_class.sizeof_hdr])
    shape = header.get_data_shape()
    if len(shape) < 2 or any(side != 1 for side in shape[3:]):
        raise ScanError(
            f"is a NIfTI file of shape {' x '.join(map(str, shape))}; expected one volume"
        )
    voxels = int(np.prod([int(side) for side in shape], dtype=object))
    check_size(voxels, max_pixels)
    form_of_value = header.get_data_dtype()
    if form_of_value.kind not in "iuf":
        raise ScanError("is a NIfTI file with complex values or colours; expected grey values")
    start = int(header["vox_offset"])
    if start > _MOST_EXTENSIONS:
        raise ScanError("is a NIfTI file whose header names no place for its voxels")
    # No more than that, however much a packed file would become.
    whole = head + stream.read(start + voxels * form_of_value.itemsize - len(head))
    image = form.from_stream(io.BytesIO(whole))
    note = ""
    if len(shape) == 2:
        values, axis = np.asarray(image.dataobj)[:, :, None], "axial"
        sizes = [*header.get_zooms(), 1]
    else:
        try:
            upright = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        except Exception:  # numbers that are no orientation
            note = "Its orientation makes no sense and is not used."
            right, front, up = (size if 0 < size < np.inf else 1 for size in header.get_zooms()[:3])
            image = form(image.dataobj, np.diag([-right, front, up, 1]))  # as without one
            upright = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        values = np.asarray(upright.dataobj).reshape(upright.shape[:3])
        sizes = nibabel.affines.voxel_sizes(upright.affine)  # type: ignore[no-untyped-call]
    # The two axes that are left keep their order: the first becomes columns, the second rows.
    stack = np.flip(np.moveaxis(values, AXES[axis], 0).swapaxes(1, 2), axis=1)
    if 1 in stack.shape[1:] and len(stack) > 1:
        only = next(name for name, index in AXES.items() if values.shape[index] == 1)
        raise ScanError(f"is one {only} slice; cut it with --axis {only}")
    across, down = (float(size) for index, size in enumerate(sizes[:3]) if index != AXES[axis])
    grey = square_pixels(grey_levels(stack), down / across if across else 1.0, max_pixels)
    return Scan(grey, f"NIfTI volume, {len(grey)} {axis} slices", note)
