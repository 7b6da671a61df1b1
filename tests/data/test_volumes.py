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
        ("SC_ybr_full_422_uncompressed.dcm", "in colour"),
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


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ((1, 1, 5), {"axial": (3, 5, 4), "coronal": (5, 15, 4), "sagittal": (4, 15, 5)}),
        ((2, 1, 1), {"axial": (3, 5, 8), "coronal": (5, 3, 8), "sagittal": (4, 3, 5)}),
        ((0.5, 1, 1), {"axial": (3, 10, 4), "coronal": (5, 6, 4), "sagittal": (4, 3, 5)}),
    ],
)
def test_voxels_that_are_no_cubes_give_square_pixels(
    sizes: tuple[float, float, float], shapes: dict[str, tuple[int, int, int]]
) -> None:
    values = np.arange(60, dtype=np.int16).reshape(4, 5, 3)
    content = nibabel.Nifti1Image(values, np.diag([*sizes, 1])).to_bytes()
    for axis, shape in shapes.items():
        assert scans.read(content, MANY, axis).slices.shape == shape  # type: ignore[arg-type]


def test_slices_are_made_square_within_the_limit() -> None:
    values = np.arange(6000, dtype=np.int16).reshape(20, 30, 10)
    content = nibabel.Nifti1Image(values, np.diag([1, 1, 90, 1])).to_bytes()
    slices = scans.read(content, 20_000, "coronal").slices
    assert slices.size <= 21_000
    assert slices.shape[1] / slices.shape[2] == pytest.approx(90 * 10 / 20, rel=0.2)


def test_orientation_that_makes_no_sense_is_told_and_not_used() -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(4, 5, 3), np.eye(4))
    plain = nibabel.Nifti1Image(image.dataobj, np.diag([-1, 1, 1, 1])).to_bytes()
    content = bytearray(image.to_bytes())
    for broken in (bytes(48), np.full(12, np.nan, "<f4").tobytes()):
        content[252:256], content[280:328] = b"\0\0\1\0", broken
        found = scans.read(bytes(content), MANY)
        assert found.note == "Its orientation makes no sense and is not used."
        np.testing.assert_array_equal(found.slices, scans.read(plain, MANY).slices)


def test_what_nifti_cannot_show_is_refused_with_what_to_do() -> None:
    values = np.arange(60, dtype=np.int16).reshape(4, 5, 3)
    sagittal = nibabel.Nifti1Image(values[:1], np.eye(4)).to_bytes()
    with pytest.raises(ScanError, match="is one sagittal slice; cut it with --axis sagittal"):
        scans.read(sagittal, MANY)
    assert scans.read(sagittal, MANY, "sagittal").slices.shape == (1, 3, 5)
    turning = nibabel.Nifti1Image(values * np.complex64(1j), np.eye(4)).to_bytes()
    with pytest.raises(ScanError, match="complex values"):
        scans.read(turning, MANY)
    pair = nibabel.Nifti1Pair(values, np.eye(4))
    with pytest.raises(ScanError, match="half of an Analyze or NIfTI pair.*convert it"):
        scans.read(pair.header.binaryblock + bytes(4), MANY)
    with pytest.raises(ScanError, match="is an MGH volume"):
        scans.read(gzip.compress(b"\0\0\0\1" + bytes(300)), MANY)
    far = bytearray(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())
    far[108:112] = np.float32(1e30).tobytes()
    with pytest.raises(ScanError, match="cannot be decoded|no place for its voxels"):
        scans.read(gzip.compress(bytes(far)), MANY)


def test_padding_and_one_hot_voxel_set_no_scale() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-3, 2, (16, 16, 8)).astype(np.float32)
    outside = np.zeros(values.shape, dtype=bool)
    outside[:4] = True
    lowest = np.where(outside, values.min(), values)
    with_nan = np.where(outside, np.nan, values).astype(np.float32)
    hot = lowest.copy()
    hot[8, 8, 4] = 1e9
    plain, holes, spoiled = (
        scans.read(nibabel.Nifti1Image(cube, np.eye(4)).to_bytes(), MANY).slices.astype(int)
        for cube in (lowest, with_nan, hot)
    )
    assert np.abs(plain - holes).max() <= 3
    assert np.count_nonzero(np.abs(plain - spoiled) > 3) <= 1


def test_axes_of_one_behind_the_third_are_no_further_volumes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)
    found = []
    for name, shaped in (("a.nii", values), ("b.nii", values[..., None, None])):
        nibabel.save(nibabel.Nifti1Image(shaped, np.eye(4)), tmp_path / name)
        found.append(scans.read((tmp_path / name).read_bytes(), MANY).slices)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "tags", [{"PhotometricInterpretation": "PALETTE COLOR"}, {"SamplesPerPixel": 3}]
)
def test_palette_and_three_channels_are_colour(
    tags: dict[str, object], dicom_bytes: Callable[..., bytes]
) -> None:
    with pytest.raises(ScanError, match="in colour"):
        scans.read(dicom_bytes(**tags), MANY)
