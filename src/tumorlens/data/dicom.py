"""DICOM files as grey slices, frame by frame.

What a tag says of display is used where it makes sense. Where it does not, the pixels are sound all
the same: they are shown over their own range, with a note.
"""

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import Stack, check_size, decoding_failed, grey_levels, square_pixels
from tumorlens.errors import ScanError

if TYPE_CHECKING:
    from pydicom import Dataset

_HEAD = 132
_DIRECTORY = "1.2.840.10008.1.3.10"
# This transfer syntax unpacks the whole file before its size is known.
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Module and package that read what pydicom itself does not, by transfer syntax.
_JPEG = ("libjpeg", "pylibjpeg-libjpeg (its licence is the GPL)")
_JPEG_LS = ("jpeg_ls", "pyjpegls")
_JPEG_2000 = ("openjpeg", "pylibjpeg-openjpeg")
_DECODERS = {
    **dict.fromkeys(("50", "51", "57", "70"), _JPEG),
    **dict.fromkeys(("80", "81"), _JPEG_LS),
    **dict.fromkeys(("90", "91", "201", "202", "203"), _JPEG_2000),
}
# Where functional groups keep what plain files have at their top.
_MEASURES = "PixelMeasuresSequence"
_RESCALE = "PixelValueTransformationSequence"
_WINDOW = "FrameVOILUTSequence"
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def is_dicom(head: bytes) -> bool:
    """Whether a file's first 132 bytes are a DICOM file's, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    # Without one it begins with a tag of the group 0002 or 0008, and its type or its length.
    typed = head[4:6].isalpha() and head[4:6].isupper()
    short = 0 < int.from_bytes(head[4:8], "little") <= 1024
    return head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0" and (typed or short)


def is_directory(path: Path) -> bool:
    """Whether a DICOM file is a DICOMDIR: the index of a disc, without pixels."""
    with path.open("rb") as file:
        return _DIRECTORY.encode() in file.read(512)


def read(content: bytes, max_pixels: int) -> tuple[Stack, str]:
    """Decode a whole DICOM file.

    Args:
        content: of the file.
        max_pixels: a file with more, all frames together, is refused before it is decoded.

    Returns:
        (N, H, W) uint8 with square pixels, and what of its tags is not used; "" if nothing.

    Raises:
        ScanError: no grey image, damaged, too large, or compressed as is not read here.
    """
    data = _dataset(content)
    frames = max(1, int(_number(_value(data, "NumberOfFrames"), 1)))
    check_size(int(data.get("Rows") or 0) * int(data.get("Columns") or 0) * frames, max_pixels)
    if not data.get("PhotometricInterpretation"):
        data.PhotometricInterpretation = "MONOCHROME2"
    one_channel = _number(_value(data, "SamplesPerPixel"), 1) <= 1
    if not one_channel or not str(data.PhotometricInterpretation).startswith("MONOCHROME"):
        raise ScanError("is a DICOM file in colour; expected a grey MRI slice")
    _mend_bits(data)
    stored = _stored(data)
    stored = stored.reshape(frames, *stored.shape[-2:])
    missing = _padding(stored, data)
    values, rescale_note = _rescaled(stored, data)
    shown, window_note = _windowed(values, missing, data)
    inverse = "INVERSE" if data.PhotometricInterpretation == "MONOCHROME1" else ""
    grey = grey_levels(
        shown, missing, inverse="INVERSE" in (inverse, _value(data, "PresentationLUTShape"))
    )
    aspects = {round(_aspect(data, frame), 4) for frame in range(frames)}
    if len(aspects) > 1:
        raise ScanError("has frames whose pixels differ in shape; expected one shape")
    return square_pixels(grey, aspects.pop(), max_pixels), (rescale_note + window_note).strip()


def series_position(path: Path) -> tuple[str, float, int]:
    """Where a DICOM file stands: series, millimetres along the normal of its slices, number.

    Files of one series sort by it from one end of the head to the other. A file that says nothing
    of it, or is no DICOM, comes first.
    """
    try:
        import pydicom  # noqa: PLC0415 (an extra)

        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
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


def _dataset(content: bytes) -> "Dataset":
    try:
        import pydicom  # noqa: PLC0415 (an extra)
        from pydicom import uid  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ScanError(
            "is a DICOM file, and pydicom is not installed; pip install 'tumorlens[dicom]'"
        ) from error
    preamble = content[128:132] == b"DICM"
    stream = io.BytesIO(content)
    stream.seek(_HEAD if preamble else 0)
    # Listed in pydicom's reference; `dcmread` would unpack a deflated file at once.
    meta = pydicom.filereader.read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, *_: tag.group != 2,
    )
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        raise ScanError("is a deflated DICOM file, which is not unpacked here")
    if meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
        raise ScanError("is a DICOMDIR, the index of a disc; name the folder with the slices")
    data = pydicom.dcmread(io.BytesIO(content), force=not preamble)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    return data


def _mend_bits(data: "Dataset") -> None:
    """Give pydicom bits that make sense: it reads a value from the lowest bit, whatever is said."""
    allocated, stored, high = (
        int(_number(_value(data, name), 0)) for name in ("BitsAllocated", "BitsStored", "HighBit")
    )
    if not 0 < stored <= allocated:
        data.BitsStored = allocated
    elif stored <= high < allocated:  # in the upper bits: those below stay, far down the scale
        data.BitsStored = high + 1
    if data.get("PixelRepresentation") is None:
        data.PixelRepresentation = 0


def _stored(data: "Dataset") -> npt.NDArray[Any]:
    """The pixels as they are stored, (H, W) or (N, H, W)."""
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ScanError("is a DICOM file without pixels")
    try:
        return np.asarray(data.pixel_array)
    except (RuntimeError, NotImplementedError) as error:
        syntax = data.file_meta.TransferSyntaxUID
        module, package = _DECODERS.get(str(syntax).rpartition(".")[2], ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise ScanError(
                f"is compressed as {syntax.name}, which needs the package {package}; install it "
                "with pip"
            ) from error
        last_line = str(error).splitlines()[-1].strip()
        raise ScanError(decoding_failed(RuntimeError(last_line))) from error


def _items(data: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none where it is missing or no sequence."""
    return [item for item in data.get(keyword) or () if hasattr(item, "get")]


def _tag(data: "Dataset", frame: int, sequence: str, keyword: str) -> Any:
    """A tag's value: this frame's, else that of all frames, else the file's own; None: empty."""
    for groups, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        for group in _items(data, groups)[index : index + 1]:
            for item in _items(group, sequence)[:1]:
                if (value := _value(item, keyword)) is not None:
                    return value
    return _value(data, keyword)


def _value(data: Any, keyword: str) -> Any:
    """A tag's value; None where it is missing, empty or of another type than it must be."""
    try:
        value = data.get(keyword)
    except Exception:  # text where a number belongs
        return None
    return None if value == "" else value


def _number(value: Any, default: float, place: int = 0) -> float:
    """A number, or the one at `place` of several; `default` where there is none."""
    try:
        several = not isinstance(value, str | int | float)
        number = float(value[place] if several else (value, default)[place])
    except (TypeError, ValueError, IndexError):
        return default
    return number if np.isfinite(number) else default


def _padding(stored: npt.NDArray[Any], data: "Dataset") -> npt.NDArray[np.bool_] | None:
    """Which pixels are declared to be outside of the image; None: none, or all of them."""
    ends = [
        _number(_value(data, keyword), np.nan)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    if np.isnan(ends[0]):
        return None
    if stored.dtype.kind == "i":  # where it was written without its sign
        top = 2.0 ** (8 * stored.itemsize)
        ends = [end - top if end >= top / 2 else end for end in ends]
    within: npt.NDArray[np.bool_] = (stored >= np.nanmin(ends)) & (stored <= np.nanmax(ends))
    return None if within.all() else within


def _rescaled(stored: npt.NDArray[Any], data: "Dataset") -> tuple[npt.NDArray[Any], str]:
    """Stored values to the modality's, and a note if a slope makes no sense."""
    from pydicom.pixels import apply_modality_lut  # noqa: PLC0415 (an extra)

    if _items(data, "ModalityLUTSequence"):
        try:
            return np.asarray(apply_modality_lut(stored, data), dtype=np.float64), ""
        except Exception:  # a table that makes no sense
            return stored, "The modality's table makes no sense and is not used. "
    values = stored.astype(np.float32 if stored.itemsize <= 2 else np.float64)
    note = ""
    for frame in range(len(values)):
        slope, intercept = (
            _tag(data, frame, _RESCALE, name) for name in ("RescaleSlope", "RescaleIntercept")
        )
        factor = _number(slope, 0.0)
        if factor:
            with np.errstate(over="ignore", invalid="ignore"):  # infinite values are refused
                values[frame] *= factor
                values[frame] += _number(intercept, 0.0)
        elif slope is not None:
            note = f"The rescale slope {slope} makes no sense and is not used. "
    return values, note


def _windowed(
    values: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | None, data: "Dataset"
) -> tuple[npt.NDArray[Any], str]:
    """Values through the display window (DICOM PS3.3 C.11.2.1), and a note if it is not used."""
    try:
        shown = _through_window(values, data)
    except Exception:  # whatever a table or a tag that makes no sense ends in
        shown = None
    else:
        if shown is None:
            return values, ""
        inside: Any = True if missing is None else ~missing
        if shown.max(where=inside, initial=-np.inf) > shown.min(where=inside, initial=np.inf):
            return shown, ""
    return values, "The display window makes no sense and is not used."


def _through_window(values: npt.NDArray[Any], data: "Dataset") -> npt.NDArray[Any] | None:
    """Values as the file wants them displayed; None: it does not say.

    Raises:
        ValueError: what it says makes no sense.
    """
    from pydicom.pixels import apply_voi  # noqa: PLC0415 (an extra)

    if any("LUTData" in item for item in _items(data, "VOILUTSequence")):
        table = apply_voi(np.rint(values).astype(np.int64), data)
        return np.asarray(table, dtype=np.float64)
    shown = np.empty_like(values)
    for frame, one in enumerate(values):
        centre, width, function = (
            _tag(data, frame, _WINDOW, name)
            for name in ("WindowCenter", "WindowWidth", "VOILUTFunction")
        )
        if centre is None or width is None:
            return None
        middle, wide = _number(centre, np.nan), _number(width, np.nan)
        function = function or "LINEAR"
        if function == "LINEAR":
            middle, wide = middle - 0.5, wide - 1
        if not wide > 0 or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise ValueError("no window")
        if function == "SIGMOID":
            shown[frame] = 1 / (1 + np.exp(np.clip(-4 * (one - middle) / wide, -80, 80)))
        else:
            shown[frame] = np.clip((one - middle) / wide + 0.5, 0, 1)
    return shown


def _aspect(data: "Dataset", frame: int) -> float:
    """Height to width of a pixel; 1 where the file does not say."""
    for keyword in _SPACINGS:
        pair: Any = _tag(data, frame, _MEASURES, keyword)
        down, across = _number(pair, 0.0), _number(pair, 0.0, place=1)
        if down > 0 and across > 0:
            return down / across
    return 1.0
