from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import readers
from tumorlens.data.readers import fit_square, placement, read_grey
from tumorlens.errors import UnreadableImageError

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
    with pytest.raises(UnreadableImageError, match="more than the 64 megapixels that are decoded"):
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
