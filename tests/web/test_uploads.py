import gzip
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tumorlens.errors import TumorlensError
from tumorlens.web.uploads import Limits, decode

LIMITS = Limits(bytes=2_000_000, pixels=100_000)
RAMP = (np.arange(20, dtype=np.uint8)[:, None] * 12 + np.arange(30, dtype=np.uint8)).astype(
    np.uint8
)


def _picture(kind: str = "PNG", picture: np.ndarray = RAMP) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def _nifti(values: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    import nibabel

    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine).to_bytes()


def _bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_picture_comes_back_as_it_is(kind: str) -> None:
    found = decode(_picture(kind), LIMITS)
    np.testing.assert_array_equal(found.slices[0], RAMP)
    assert found.kind == f"{kind} picture"


@pytest.mark.parametrize("packed", [False, True])
def test_volume_comes_as_axial_slices_seen_from_the_front_down(packed: bool) -> None:
    values = np.zeros((4, 5, 3), np.int16)
    values[3, 4, 2] = 100  # right, front, top
    content = _nifti(values)
    found = decode(gzip.compress(content, mtime=0) if packed else content, LIMITS)
    assert [picture.shape for picture in found.slices] == [(5, 4)] * 3
    assert found.slices[2][0, 3] == 255
    assert sum(int(picture.sum()) for picture in found.slices) == 255
    assert found.kind == "NIfTI volume, 3 axial slices"


def test_volume_of_other_axes_is_brought_to_the_canonical_ones() -> None:
    values = np.zeros((4, 5, 3), np.int16)
    values[0, 4, 2] = 100
    mirrored = np.diag([-1.0, 1, 1, 1])  # its first axis runs to the left
    assert decode(_nifti(values, mirrored), LIMITS).slices[2][0, 3] == 255


def test_dicom_is_windowed_and_monochrome1_is_turned_to_black(
    dicom_bytes: Callable[..., bytes],
) -> None:
    def dicom(photometric: str) -> bytes:
        return dicom_bytes(
            pixels=((50, 75), (110, 150)),
            PhotometricInterpretation=photometric,
            RescaleSlope=2,
            RescaleIntercept=-100,
        )

    np.testing.assert_array_equal(
        decode(dicom("MONOCHROME2"), LIMITS).slices[0], [[0, 64], [153, 255]]
    )
    np.testing.assert_array_equal(
        decode(dicom("MONOCHROME1"), LIMITS).slices[0], [[255, 191], [102, 0]]
    )
    for cut in (200, 400):
        with pytest.raises(TumorlensError):
            decode(dicom("MONOCHROME2")[:cut], LIMITS)


def _huge_volume() -> bytes:
    content = bytearray(_nifti(np.zeros((2, 2, 2), np.int16)))
    content[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"x" * 2_000_001, "more than the 2 that are taken"),
        (b"hello, world", "This is no PNG"),
        (b"%PDF-1.7 " + b"x" * 300, "This is no PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "This is no PNG"),
        (_picture()[:45], "cannot be decoded"),
        (_bomb(60_000, 60_000), "more pixels than are decoded"),
        (_bomb(400, 400), "more than the 0.1 that are decoded"),
        (_bomb(10, 10), "cannot be decoded"),
        (b"\x1f\x8b" + b"x" * 50, "cannot be decoded"),
        (gzip.compress(b"x" * 50, mtime=0), "no NIfTI volume"),
        (gzip.compress(bytes(50_000_000), mtime=0), "no NIfTI volume"),
        (_nifti(np.zeros((2, 2, 2, 2), np.int16)), "expected one volume"),
        (_nifti(np.zeros((2, 2, 2), np.int16))[:200], "cannot be decoded"),
        (_huge_volume(), "megapixels, more than"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 64, "cannot be decoded|This file|DICOM"),
    ],
)
def test_hostile_file_gets_a_sentence(content: bytes, words: str) -> None:
    with pytest.raises(TumorlensError, match=words) as caught:
        decode(content, LIMITS)
    said = str(caught.value)
    assert said[0].isupper()
    assert said.endswith(".")
    assert "\n" not in said
