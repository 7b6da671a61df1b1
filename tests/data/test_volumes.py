import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tumorlens.data import dicom
from tumorlens.data import volumes as scans
from tumorlens.errors import ScanError

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
REAL = Path(pydicom.__file__).parent / "data" / "test_files"
MANY = 10_000_000


def _read(name: str) -> scans.Scan:
    content = (REAL / name).read_bytes()
    assert scans.kind_of(content[:4096]) == "dicom"
    return scans.read(content, MANY)


@pytest.mark.parametrize("packed", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian"])
def test_real_slice_reads_the_same_however_it_is_packed(packed: str) -> None:
    plain = _read("MR_small.dcm")
    assert plain.slices.shape == (1, 64, 64)
    np.testing.assert_array_equal(_read(f"MR_small_{packed}.dcm").slices, plain.slices)


def test_frames_share_one_scale(dicom_bytes: Callable[..., bytes]) -> None:
    found = scans.read(dicom_bytes(frames=2), MANY)
    assert found.kind == "DICOM file, 2 frames"
    np.testing.assert_array_equal(found.slices[0], [[0, 102], [204, 255]])
    np.testing.assert_allclose(found.slices[1].astype(int), [[0, 51], [102, 127]], atol=1)


def test_window_cuts_and_inverted_values_are_turned(dicom_bytes: Callable[..., bytes]) -> None:
    # Of width 321 about 160.5: from 0 to 320; what is brighter is white.
    windowed = scans.read(dicom_bytes(WindowCenter=160.5, WindowWidth=321), MANY)
    np.testing.assert_allclose(windowed.slices[0].astype(int), [[0, 127], [255, 255]], atol=1)
    inverted = scans.read(dicom_bytes(PhotometricInterpretation="MONOCHROME1"), MANY)
    np.testing.assert_array_equal(inverted.slices[0], [[255, 153], [51, 0]])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SC_rgb_rle.dcm", "in colour"),
        ("examples_palette.dcm", "in colour"),
        ("image_dfl.dcm", "deflated"),
        ("MR_truncated.dcm", "cannot be decoded .The number of bytes"),
        ("test-SR.dcm", "has no pixels"),
    ],
)
def test_what_is_not_read_is_said(name: str, words: str) -> None:
    with pytest.raises(ScanError, match=words):
        _read(name)


@pytest.mark.skipif(
    importlib.util.find_spec("libjpeg") is not None, reason="pylibjpeg-libjpeg is installed"
)
def test_unsupported_compression_names_the_package_that_reads_it() -> None:
    with pytest.raises(ScanError, match=r"JPEG Extended.* needs the package pylibjpeg-libjpeg"):
        _read("JPGExtended.dcm")


def test_size_is_seen_before_anything_is_decoded(dicom_bytes: Callable[..., bytes]) -> None:
    with pytest.raises(ScanError, match="megapixels, more than"):
        scans.read(dicom_bytes(), 3)


def test_volume_is_cut_along_each_axis() -> None:
    values = np.zeros((4, 5, 3), np.int16)
    values[3, 4, 2] = 100  # right, front, top
    content = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
    shapes = {"axial": (3, 5, 4), "coronal": (5, 3, 4), "sagittal": (4, 3, 5)}
    brightest = {"axial": (2, 0, 3), "coronal": (4, 0, 3), "sagittal": (3, 0, 4)}
    for axis, shape in shapes.items():
        found = scans.read(content, MANY, axis)  # type: ignore[arg-type]
        assert found.slices.shape == shape
        assert np.unravel_index(found.slices.argmax(), shape) == brightest[axis]


def test_volumes_that_nibabel_ships_are_read_or_refused() -> None:
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    anatomy = (folder / "anatomical.nii").read_bytes()
    assert scans.read(anatomy, MANY).slices.shape == (25, 41, 33)
    packed = (folder / "example4d.nii.gz").read_bytes()
    assert scans.kind_of(packed[:4096]) == "nifti"
    with pytest.raises(ScanError, match="128 x 96 x 24 x 2; expected one volume"):
        scans.read(packed, MANY)


def test_gzip_of_something_else_is_no_volume() -> None:
    with pytest.raises(ScanError, match="no NIfTI volume"):
        scans.kind_of(gzip.compress(b"hello, world"))
    assert scans.kind_of(b"\x89PNG\r\n\x1a\n" + bytes(200)) == "image"


def test_files_of_a_series_are_placed_along_the_body(
    tmp_path: Path, dicom_bytes: Callable[..., bytes]
) -> None:
    flat = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, height in (("a.dcm", 20.0), ("b.dcm", -5.0), ("c.dcm", 7.5)):
        (tmp_path / name).write_bytes(
            dicom_bytes(
                SeriesInstanceUID="1.2.3",
                ImagePositionPatient=[0.0, 0.0, height],
                ImageOrientationPatient=flat,
            )
        )
    (tmp_path / "d.dcm").write_bytes(b"no DICOM")
    placed = sorted(tmp_path.iterdir(), key=dicom.series_position)
    assert [file.name for file in placed] == ["d.dcm", "b.dcm", "c.dcm", "a.dcm"]
