"""Which files a folder gives, and which slices a file."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.errors import TumorlensError
from tumorlens.inference import inputs

RAMP = np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))


def _image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RAMP).save(path, "PNG")
    return path


def test_what_a_folder_has_that_is_not_taken_is_counted_by_reason(
    tmp_path: Path, dicom_bytes: Callable[..., bytes]
) -> None:
    for name in ("a.png", "b.jfif", "deep/c.PNG"):
        _image(tmp_path / name)
    for name in ("notes.txt", "more.TXT", "x.nrrd", "README", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    _image(tmp_path / ".thumbnails" / "d.png")
    _image(tmp_path / "@eaDir" / "SYNO_THUMB.jpg")
    (tmp_path / "00000001").write_bytes(dicom_bytes())
    (tmp_path / "DICOMDIR").write_bytes(
        dicom_bytes().replace(b"1.2.840.10008.5.1.4.1.1.4", b"1.2.840.10008.1.3.10\0\0\0\0\0")
    )
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = inputs.listing([tmp_path])
    assert [path.name for path in found.files] == ["a.png", "b.jfif", "00000001", "c.PNG"]
    assert found.left_out == {
        ".txt files": 2,
        ".nrrd files": 1,
        "other files": 1,
        "hidden files": 2,
        "hidden folders": 2,
        "DICOMDIR (the index of a disc)": 1,
        "broken links, pipes or devices": 1,
    }


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    _image(tmp_path / "elsewhere" / "a.png")
    _image(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "twice").symlink_to(tmp_path / "elsewhere")
    found = inputs.listing([tmp_path / "in"])
    assert [path.name for path in found.files] == ["b.png", "a.png"]
    assert found.left_out == {"folders that a link names again": 2}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_in_a_folder_or_by_name_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TumorlensError, match="has no image in it, only 1 broken links, pipes"):
        inputs.listing([tmp_path])
    (found,) = inputs.slices(tmp_path / "pipe")
    assert found.reason == "is a pipe or a device; expected an image file"


def test_pages_are_slices_of_their_own(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.roll(RAMP, shift, axis=1)) for shift in (0, 3)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    found = list(inputs.slices(tmp_path / "two.tif"))
    assert [one.index for one in found] == [0, 1]
    for one, page in zip(found, pages, strict=True):
        np.testing.assert_array_equal(one.image, np.asarray(page))
    (only,) = inputs.slices(tmp_path / "two.tif", only=1)
    assert only.index == 1


def test_half_of_a_pair_says_so(tmp_path: Path) -> None:
    (tmp_path / "head.img").write_bytes(bytes(range(200)))
    (found,) = inputs.slices(tmp_path / "head.img")
    assert "half of an Analyze or NIfTI pair" in found.reason


def test_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    named = _image(tmp_path / "scan[1].png")
    _image(tmp_path / "scan1.png")
    assert inputs.listing([named]).files == [named]


def _of_file(path: Path, image: Image.Image) -> np.ndarray:
    image.save(path)
    (found,) = inputs.slices(path)
    return found.image


def _in_memory(given: object) -> np.ndarray:
    (file,) = inputs.listing([given]).files
    (found,) = inputs.slices(file)
    return found.image


def test_pixels_in_memory_are_read_as_those_of_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(100, 5000, (20, 30)).astype(np.uint16)
    grey, colour = (rng.integers(0, 256, shape, np.uint8) for shape in ((20, 30), (20, 30, 3)))
    real = rng.normal(size=(20, 30)).astype(np.float32)
    for values, ending in ((grey, "png"), (colour, "png"), (deep, "png"), (real, "tif")):
        image = Image.fromarray(values)
        read = _of_file(tmp_path / f"a.{ending}", image)
        np.testing.assert_array_equal(read, _in_memory(values))
        np.testing.assert_array_equal(read, _in_memory(image))
        np.testing.assert_array_equal(read, _in_memory(values[:, :].copy(order="F")))
    for scaled in (deep / 5000, deep.astype(np.int64), np.stack([deep] * 3, axis=-1)):
        difference = _in_memory(scaled).astype(int) - _in_memory(deep)
        assert abs(difference).max() <= 1
    clear = Image.fromarray(grey).convert("LA")
    clear.putalpha(Image.linear_gradient("L").resize((30, 20)))
    np.testing.assert_array_equal(_of_file(tmp_path / "b.png", clear), _in_memory(clear))


def test_image_of_several_frames_is_the_one_that_is_shown_and_stays_open(tmp_path: Path) -> None:
    frames = [Image.fromarray(RAMP // factor) for factor in (1, 2, 4)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        np.testing.assert_array_equal(_in_memory(image), RAMP // 2)
        assert image.tell() == 1
        image.seek(2)  # still open
    opened = Image.open(tmp_path / "a.tif")
    opened.seek(2)
    assert _in_memory(opened).max() == RAMP.max() // 4
    opened.close()


def test_empty_picture_in_memory_has_a_reason_and_what_is_no_image_is_refused() -> None:
    (file,) = inputs.listing([np.full((4, 4), np.nan)]).files
    (found,) = inputs.slices(file)
    assert (found.path.as_posix(), found.image) == ("paths[0]", None)
    assert found.reason.startswith("has ")
    for given, told in (
        (np.zeros((5, 4, 4), np.uint8), r"paths\[0\]: found ndarray of shape \(5, 4, 4\) and type"),
        (np.zeros((4, 4), complex), "type complex128; expected a path"),
        (np.zeros((0, 4)), "shape \\(0, 4\\)"),
        (7, "found int of shape"),
        (None, "found NoneType"),
    ):
        with pytest.raises(TumorlensError, match=told):
            inputs.listing([given])
