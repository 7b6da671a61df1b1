"""What the tags of a DICOM file do to its pixels. Frame i of `dicom_bytes` is divided by i + 1."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorlens.data import dicom
from tumorlens.errors import ScanError

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
Make = Callable[..., bytes]
MANY = 1_000_000
PLAIN = [[0, 102], [204, 255]]  # of the values 0, 160, 320, 400


def _item(**tags: object) -> Any:
    item = pydicom.Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def _group(sequence: str, **tags: object) -> Any:
    """An item of functional groups: one sequence with one item."""
    return _item(**{sequence: [_item(**tags)]})


def _slice(content: bytes) -> tuple[np.ndarray, str]:
    slices, note = dicom.read(content, MANY)
    assert len(slices) == 1
    return slices[0], note


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "200", "WindowWidth": "0"},
        {"WindowCenter": "200", "WindowWidth": "-1"},
        {"WindowCenter": "0.2", "WindowWidth": "0.4", "RescaleSlope": "0.001"},
        {"WindowCenter": "200", "WindowWidth": "401", "VOILUTFunction": "FOO"},
        {"WindowCenter": "-30000", "WindowWidth": "100"},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
    ],
)
def test_tag_of_display_that_makes_no_sense_is_told_and_not_used(
    tags: dict[str, str], dicom_bytes: Make
) -> None:
    shown, note = _slice(dicom_bytes(**tags))
    np.testing.assert_array_equal(shown, PLAIN)
    assert note.endswith("makes no sense and is not used.")


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "200", "WindowWidth": ""},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowWidth": "400"},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"VOILUTSequence": []},
        {"PhotometricInterpretation": ""},
        {"PixelSpacing": ["0", "0"]},
        {"PixelPaddingValue": 9},
    ],
)
def test_tag_that_says_nothing_changes_nothing(tags: dict[str, object], dicom_bytes: Make) -> None:
    shown, note = _slice(dicom_bytes(**tags))
    np.testing.assert_array_equal(shown, PLAIN)
    assert note == ""


def test_window_is_the_standards_function(dicom_bytes: Make) -> None:
    # C.11.2.1.2: LINEAR of width 201 about 160.5 runs from 60 to 260; LINEAR_EXACT of 200 about
    # 160 likewise.
    for tags in (
        {"WindowCenter": "160.5", "WindowWidth": "201"},
        {"WindowCenter": "160", "WindowWidth": "200", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": ["160.5", "9"], "WindowWidth": ["201", "9"]},
    ):
        np.testing.assert_array_equal(_slice(dicom_bytes(**tags))[0], [[0, 128], [255, 255]])
    sigmoid, _ = _slice(
        dicom_bytes(WindowCenter="160", WindowWidth="400", VOILUTFunction="SIGMOID")
    )
    low, high = (1 / (1 + np.exp(-4 * (x - 160) / 400)) for x in (0, 400))
    expected = [round(255 * (1 / (1 + np.exp(-1.6 * k)) - low) / (high - low)) for k in (0, 1)]
    np.testing.assert_allclose(sigmoid.ravel()[1:3].astype(int), expected, atol=1)


@pytest.mark.parametrize(
    "tags",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_inverse_display_is_turned_once(tags: dict[str, str], dicom_bytes: Make) -> None:
    shown, _ = _slice(dicom_bytes(**tags))
    np.testing.assert_array_equal(shown, 255 - np.array(PLAIN))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_declared_padding_is_black_and_sets_no_scale(photometric: str, dicom_bytes: Make) -> None:
    shown, _ = _slice(
        dicom_bytes(
            pixels=((65535, 100), (180, 300)),
            PixelPaddingValue=65535,
            PhotometricInterpretation=photometric,
        )
    )
    rest = [[0, 0], [102, 255]] if photometric == "MONOCHROME2" else [[0, 255], [153, 0]]
    np.testing.assert_array_equal(shown, rest)
    ranged, _ = _slice(
        dicom_bytes(
            pixels=((60000, 61000), (200, 300)),
            PixelPaddingValue=60000,
            PixelPaddingRangeLimit=62000,
        )
    )
    np.testing.assert_array_equal(ranged, [[0, 0], [0, 255]])


def test_frames_are_rescaled_and_windowed_by_their_own_groups(dicom_bytes: Make) -> None:
    own = [_group("PixelValueTransformationSequence", RescaleSlope=s) for s in ("1", "2", "3")]
    slices, _ = dicom.read(dicom_bytes(frames=3, PerFrameFunctionalGroupsSequence=own), MANY)
    for frame in slices:  # divided by 1, 2, 3
        np.testing.assert_allclose(frame.astype(int), PLAIN, atol=1)
    window = _group("FrameVOILUTSequence", WindowCenter="160.5", WindowWidth="201")
    slices, _ = dicom.read(dicom_bytes(frames=2, SharedFunctionalGroupsSequence=[window]), MANY)
    expected = [[[0, 128], [255, 255]], [[0, 26], [128, 179]]]
    np.testing.assert_allclose(slices.astype(int), expected, atol=1)
    own = [_group("FrameVOILUTSequence", WindowCenter="80.5", WindowWidth="101")] * 2
    tags = {"PerFrameFunctionalGroupsSequence": own, "SharedFunctionalGroupsSequence": [window]}
    slices, _ = dicom.read(dicom_bytes(frames=2, **tags), MANY)  # the frame's own goes first
    np.testing.assert_array_equal(slices[0], [[0, 255], [255, 255]])


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"])
@pytest.mark.parametrize(("pair", "shape"), [([1, 2], (2, 4)), ([3, 1], (6, 2)), ([2, 2], (2, 2))])
def test_pixels_are_made_square(
    keyword: str, pair: Sequence[int], shape: tuple[int, int], dicom_bytes: Make
) -> None:
    shown, _ = _slice(dicom_bytes(**{keyword: [str(side) for side in pair]}))
    assert shown.shape == shape
    assert shown[0, 0] == 0
    assert shown[-1, -1] == 255


def test_spacing_of_enhanced_objects_is_used_and_must_agree(dicom_bytes: Make) -> None:
    shared = [_group("PixelMeasuresSequence", PixelSpacing=["1", "2"])]
    slices, _ = dicom.read(dicom_bytes(frames=2, SharedFunctionalGroupsSequence=shared), MANY)
    assert slices.shape == (2, 2, 4)
    own = [_group("PixelMeasuresSequence", PixelSpacing=["1", side]) for side in ("2", "3")]
    with pytest.raises(ScanError, match="differ in shape"):
        dicom.read(dicom_bytes(frames=2, PerFrameFunctionalGroupsSequence=own), MANY)
    with pytest.raises(ScanError, match="declares pixels 1000 times as high as wide"):
        dicom.read(dicom_bytes(PixelSpacing=["1000", "1"]), MANY)


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"])
def test_file_without_preamble_is_read(syntax: str, dicom_bytes: Make) -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes()))
    implicit = syntax.startswith("Implicit")
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, pydicom.Dataset(data), implicit_vr=implicit, little_endian=True)
    content = stream.getvalue()
    assert content[:1] == b"\x08"
    assert dicom.is_dicom(content[:132])
    np.testing.assert_array_equal(_slice(content)[0], PLAIN)
    with_meta = dicom_bytes()[132:]
    assert dicom.is_dicom(with_meta[:132])
    np.testing.assert_array_equal(_slice(with_meta)[0], PLAIN)
    for text in (b"\x89PNG\r\n\x1a\n" + bytes(130), b"II*\0\x08\0\0\0" + bytes(130), b"\x08 hello"):
        assert not dicom.is_dicom(text)


def test_directory_of_a_disc_and_object_without_pixels_say_what_they_are(
    dicom_bytes: Make, tmp_path: Path
) -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes()))
    del data.PixelData
    data.save_as(tmp_path / "report.dcm")
    with pytest.raises(ScanError, match="is a DICOM file without pixels"):
        dicom.read((tmp_path / "report.dcm").read_bytes(), MANY)
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(tmp_path / "DICOMDIR")
    assert dicom.is_directory(tmp_path / "DICOMDIR")
    assert not dicom.is_directory(tmp_path / "report.dcm")
    with pytest.raises(ScanError, match="DICOMDIR, the index of a disc; name the folder"):
        dicom.read((tmp_path / "DICOMDIR").read_bytes(), MANY)


@pytest.mark.parametrize(
    ("shift", "tags"),
    [
        (4, {"BitsStored": 12, "HighBit": 15}),
        (0, {"BitsStored": 0}),
        (0, {"BitsStored": 17}),
        (0, {"PixelRepresentation": None}),
    ],
)
def test_values_are_whole_whatever_is_said_of_their_bits(
    shift: int, tags: dict[str, int | None], dicom_bytes: Make
) -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes()))
    data.PixelData = (np.array([[0, 160], [320, 400]], np.uint16) << shift).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    stream = io.BytesIO()
    data.save_as(stream)
    np.testing.assert_array_equal(_slice(stream.getvalue())[0], PLAIN)
