import asyncio
import gzip
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tumorlens.data.volumes import Scan
from tumorlens.errors import TumorlensError
from tumorlens.web.uploads import Limits, VolumeCache, decode

LIMITS = Limits(bytes=2_000_000, pixels=100_000)
RAMP = (np.arange(20, dtype=np.uint8)[:, None] * 12 + np.arange(30, dtype=np.uint8)).astype(
    np.uint8
)


def _image(kind: str = "PNG", image: np.ndarray = RAMP) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
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
def test_image_comes_back_as_it_is(kind: str) -> None:
    found = decode(_image(kind), LIMITS)
    np.testing.assert_array_equal(found.slices[0], RAMP)
    assert found.kind == f"{kind} image"


@pytest.mark.parametrize("packed", [False, True])
def test_volume_comes_as_axial_slices_seen_from_the_front_down(packed: bool) -> None:
    values = np.zeros((4, 5, 3), np.int16)
    values[3, 4, 2] = 100  # right, front, top
    content = _nifti(values)
    found = decode(gzip.compress(content, mtime=0) if packed else content, LIMITS)
    assert [image.shape for image in found.slices] == [(5, 4)] * 3
    assert found.slices[2][0, 3] == 255
    assert sum(int(image.sum()) for image in found.slices) == 255
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
        (b"x" * 2_000_001, "more than the 2 MB that are accepted"),
        (b"hello, world", "This file is not a PNG"),
        (b"%PDF-1.7 " + b"x" * 300, "This file is a PDF file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "This file is a web page or XML file"),
        (_image()[:45], "cannot be decoded"),
        (_bomb(60_000, 60_000), "decompression bomb"),
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


def _scan(size: int) -> Scan:
    return Scan(np.zeros((1, 1, size), np.uint8), "volume")


async def _cached(cache: VolumeCache, *sizes: int) -> list[str]:
    return [cache.put(_scan(size)) for size in sizes]


def test_token_gets_its_volume_back_until_it_is_dropped() -> None:
    cache = VolumeCache()
    (token,) = asyncio.run(_cached(cache, 10))
    found = cache.get(token)
    assert found is not None
    assert found.slices.nbytes == 10
    cache.drop(token)
    assert cache.get(token) is None


def test_full_cache_drops_what_was_used_longest_ago() -> None:
    async def fill() -> list[bool]:
        cache = VolumeCache(most_bytes=250)
        first, second = cache.put(_scan(100)), cache.put(_scan(100))
        assert cache.get(first) is not None
        third = cache.put(_scan(100))
        return [cache.get(token) is None for token in (first, second, third)]

    assert asyncio.run(fill()) == [False, True, False]


def test_cache_holds_no_more_than_so_many_however_small() -> None:
    cache = VolumeCache(most=2)
    tokens = asyncio.run(_cached(cache, 1, 1, 1))
    assert [cache.get(token) is None for token in tokens] == [True, False, False]


def test_volume_is_dropped_after_its_time_though_nobody_asks() -> None:
    async def wait() -> int:
        cache = VolumeCache(seconds=0)
        cache.put(_scan(10))
        for _ in range(3):
            await asyncio.sleep(0)
        return len(cache._kept)

    assert asyncio.run(wait()) == 0
