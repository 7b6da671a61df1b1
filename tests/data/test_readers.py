import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import readers
from tumorlens.data.readers import fit_square, placement, read_grey, read_grey_with_facts
from tumorlens.errors import ScanError, UnreadableImageError

RAMP = np.tile(np.linspace(0, 255, 40).round().astype(np.uint8), (30, 1))  # 30 high, 40 wide


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "webp", "jpg", "jpeg", "tif"])
def test_every_format_gives_the_same_grey(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ramp.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(RAMP).save(path, **lossless)
    tolerance = 3 if suffix.startswith("jp") else 0
    assert np.abs(read_grey(path).astype(int) - RAMP).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_every_colour_mode_gives_the_same_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "ramp.tiff"
    Image.fromarray(RAMP).convert(mode).save(path)
    grey = read_grey(path)
    assert grey.shape == (30, 40)
    assert grey.dtype == np.uint8
    assert np.abs(grey.astype(int) - RAMP).max() <= 1


def test_one_bit_picture_is_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "bits.png"
    Image.fromarray(RAMP > 127).save(path)
    np.testing.assert_array_equal(read_grey(path), np.where(RAMP > 127, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_picture_is_stretched_to_its_own_range(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    deep = (RAMP.astype(np.uint16) * 10) + 100  # a 12-bit scanner's values, far below 65535
    Image.fromarray(deep).save(path)
    assert np.abs(read_grey(path).astype(int) - RAMP).max() <= 1


def test_float_images_are_read_and_flat_ones_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32) / 7).save(tmp_path / "float.tiff")
    assert np.abs(read_grey(tmp_path / "float.tiff").astype(int) - RAMP).max() <= 1
    Image.fromarray(np.full((4, 5), 700, dtype=np.uint16)).save(tmp_path / "flat.png")
    Image.fromarray(np.full((4, 5), 7, dtype=np.uint8)).save(tmp_path / "flat8.png")
    for name, value in (("flat.png", 700), ("flat8.png", 7)):
        with pytest.raises(UnreadableImageError, match=f"the value {value} in every pixel"):
            read_grey(tmp_path / name)
        assert np.ptp(read_grey(tmp_path / name, flat_ok=True)) == 0  # as a mask may be


def test_transparent_pixels_are_black_whatever_colour_they_hide(tmp_path: Path) -> None:
    rgba = np.full((6, 8, 4), 255, dtype=np.uint8)
    rgba[:, :4, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "glass.png")
    grey = read_grey(tmp_path / "glass.png")
    assert (grey[:, :4] == 0).all()
    assert (grey[:, 4:] == 255).all()


def test_picture_is_turned_upright_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: turn 90 degrees clockwise to view
    Image.fromarray(RAMP).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_grey(tmp_path / "turned.png"), np.rot90(RAMP, -1))


def test_bad_files_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is no image")
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1500])
    cases = {
        "empty.jpg": "0 bytes",
        "text.jpg": "is not a PNG, JPEG, TIFF, BMP, GIF or WebP image",
        "cut.jpg": "truncated",
        "gone.jpg": "no such file",
    }
    for name, words in cases.items():
        with pytest.raises(UnreadableImageError, match=f"{name}: .*{words}"):
            read_grey(tmp_path / name)
    monkeypatch.setattr(readers, "MAX_PIXELS", 1000)
    with pytest.raises(
        UnreadableImageError, match=r"whole.jpg: has 0.004 megapixels, more than the 0.001"
    ):
        read_grey(whole)


def test_real_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(UnreadableImageError, match="400000000 pixels.* decompression bomb"):
        read_grey(path)


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (64, 64), (1, 200)])
def test_square_keeps_proportions_and_pads_with_black(height: int, width: int) -> None:
    square = fit_square(np.full((height, width), 200, dtype=np.uint8), 64)
    place = placement(height, width, 64)
    assert square.shape == (64, 64)
    assert max(place.height, place.width) == 64
    inner = square[place.top : place.top + place.height, place.left : place.left + place.width]
    assert (inner == 200).all()
    assert int((square > 0).sum()) == inner.size
    assert abs(place.height / place.width - height / width) < 1 / min(place.height, place.width)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.jp2", "JPEG2000"),
        ("a.gif", "GIF"),
        ("a.jpg", "PNG"),
    ],
)
def test_content_says_what_a_file_is(tmp_path: Path, name: str, kind: str) -> None:
    assert Path(name).suffix in readers.SUFFIXES
    Image.fromarray(RAMP).save(tmp_path / name, kind)
    grey, facts = read_grey_with_facts(tmp_path / name)
    assert np.abs(grey.astype(int) - RAMP).max() <= 3
    assert (facts.format, facts.width, facts.height) == (kind, 40, 30)


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("a.png", {"dpi": (72, 144)}),
        ("a.tif", {"dpi": (72, 144)}),
        ("a.bmp", {"dpi": (72, 144)}),
        ("a.jpg", {"dpi": (72, 144)}),
    ],
)
def test_declared_resolution_makes_pixels_square(
    tmp_path: Path, name: str, saved: dict[str, tuple[int, int]]
) -> None:
    # 72 pixels to the inch across, 144 down: a pixel is twice as wide as high.
    Image.fromarray(RAMP).save(tmp_path / name, **saved)
    grey, facts = read_grey_with_facts(tmp_path / name)
    assert grey.shape == (30, 80)
    assert (facts.width, facts.height) == (80, 30)
    assert np.abs(grey[:, 1::2].astype(int) - RAMP).max() <= 6
    place = placement(*grey.shape, 64)
    assert (place.height, place.width) == (24, 64)


def test_resolution_of_a_lying_image_is_turned_with_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif, dpi=(72, 144))
    grey, facts = read_grey_with_facts(tmp_path / "a.png")
    assert grey.shape == (80, 30)
    assert (facts.width, facts.height) == (80, 30)  # as stored


def test_resolution_without_a_unit_counts_and_nonsense_does_not(tmp_path: Path) -> None:
    def png(across: int, down: int, unit: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(RAMP).save(stream, "PNG", dpi=(72, 72))
        content = stream.getvalue()
        at = content.index(b"pHYs")
        chunk = b"pHYs" + struct.pack(">IIB", across, down, unit)
        return content[:at] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[at + 17 :]

    assert readers.decode(png(1, 3, 0))[0].shape == (1, 30, 120)
    assert readers.decode(png(3, 1, 0))[0].shape == (1, 90, 40)
    assert readers.decode(png(0, 3, 1))[0].shape == (1, 30, 40)
    assert readers.decode(png(1000, 1002, 1))[0].shape == (1, 30, 40)  # rounded by its writer
    with pytest.raises(ScanError, match="declares pixels 2835 times as high as wide"):
        readers.decode(png(2835, 1, 1))


def test_eight_bit_values_are_never_changed(tmp_path: Path) -> None:
    narrow = (RAMP // 16 + 100).astype(np.uint8)
    Image.fromarray(narrow).save(tmp_path / "narrow.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "narrow.png"), narrow)
    narrow[0, 0] = 255  # a hot pixel stays, too
    Image.fromarray(narrow).save(tmp_path / "hot.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "hot.png"), narrow)


def test_hot_pixel_and_what_is_no_number_set_no_scale(tmp_path: Path) -> None:
    deep = (RAMP.astype(np.uint16) * 10) + 100
    deep[3, 3] = 65535
    Image.fromarray(deep).save(tmp_path / "hot.png")
    cold = read_grey(tmp_path / "hot.png").astype(int)
    assert cold[3, 3] == 255
    rest = np.arange(RAMP.size).reshape(RAMP.shape) != 3 * 40 + 3
    assert np.abs(cold - RAMP)[rest].max() <= 1
    holes = np.where(RAMP < 50, np.nan, RAMP - 500.0).astype(np.float32)
    Image.fromarray(holes).save(tmp_path / "holes.tif")
    lowest = np.where(RAMP < 50, np.nanmin(holes), holes).astype(np.float32)
    Image.fromarray(lowest).save(tmp_path / "lowest.tif")
    np.testing.assert_array_equal(
        read_grey(tmp_path / "holes.tif"), read_grey(tmp_path / "lowest.tif")
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((20, 20), np.nan), "no value that is a number"),
        (np.where(np.eye(20), np.inf, np.arange(20.0)), "infinite values: an overflow"),
        (np.linspace(-1.7e308, 1.7e308, 400).reshape(20, 20), "an overflow"),
        (np.arange(400).reshape(20, 20) * 1j, "complex values"),
        (np.full((20, 20), 7.5), "has the value 7.5 in every pixel"),
    ],
)
def test_values_that_no_scale_fits_are_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(ScanError, match=words):
        readers.grey_levels(values[None])


def test_large_values_are_scaled_without_overflow() -> None:
    small = np.arange(400.0).reshape(1, 20, 20)
    np.testing.assert_array_equal(readers.grey_levels(small * 1e300), readers.grey_levels(small))


def test_white_is_zero_is_turned_in_sixteen_bits(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 100).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    assert np.abs(readers.decode(bytes(content))[0][0].astype(int) - RAMP).max() <= 1
    content[content.index(struct.pack("<HHI", 262, 3, 1)) + 8] = 0
    assert np.abs(readers.decode(bytes(content))[0][0].astype(int) - (255 - RAMP)).max() <= 1


def test_transparent_image_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "glass.png")
    with pytest.raises(UnreadableImageError, match="transparent in every pixel"):
        read_grey(tmp_path / "glass.png")


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp", "a.png"])
def test_several_pages_or_frames_are_told_and_not_silently_one(tmp_path: Path, name: str) -> None:
    pages = [Image.fromarray(np.roll(RAMP, shift, axis=1)) for shift in (0, 9, 18)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableImageError, match="has 3 pages or frames; expected one image"):
        read_grey(tmp_path / name)
    stack, _ = readers.decode((tmp_path / name).read_bytes())
    assert stack.shape == (3, 30, 40)
    assert np.abs(stack[2].astype(int) - np.roll(RAMP, 18, axis=1)).mean() < 8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"NRRD0004\ntype: short\n", "is an NRRD volume.*convert it to NIfTI"),
        (b"ObjectType = Image\nNDims = 3\n", "is a MetaImage volume.*convert it to NIfTI"),
        (b"\0\0\0\1" + bytes(300), "is an MGH volume.*convert it to NIfTI"),
        (b"\x93NUMPY\1\0", "is a NumPy array.*save its slices as PNG"),
        (b"MATLAB 5.0 MAT-file", "is a MATLAB file.*save its slices as PNG"),
        (b"MATLAB 7.3 MAT-file", "is a MATLAB file.*save its slices as PNG"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"PK\3\4", "is an archive; unpack it"),
        (b"BZh9", "is an archive; unpack it"),
        (b"\xfd7zXZ\0", "is an archive; unpack it"),
        (b"%PDF-1.7", "is a PDF file"),
        (b"<!DOCTYPE html>", "is a web page"),
        (bytes(4) + b"ftypheic", "is an HEIC"),
        (bytes(128) + b"DICM", "is a DICOM file, which `predict` and `serve` read"),
        (b"\x89PNG\r\n\x1a\nrubbish", "is a damaged image"),
    ],
)
def test_other_containers_are_named_with_what_to_do(content: bytes, words: str) -> None:
    with pytest.raises(ScanError, match=words):
        readers.decode(content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_and_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImageError, match=r"pipe\.png: is a pipe or a device"):
        read_grey(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImageError, match="is a folder"):
        read_grey(tmp_path)
