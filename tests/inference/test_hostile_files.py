"""Files that were damaged or made to do harm: each is answered or refused in one sentence.

The generator is seeded: the same files each time. Run this file with a folder to write them there.
"""

import csv
import gzip
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

IMAGES, SCANS = 200, 60
_FORMATS = {
    **{".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP"},
    **{".webp": "WEBP", ".gif": "GIF", ".jp2": "JPEG2000"},
}


def _head(rng: np.random.Generator, side: int = 48) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return ((x**2 + y**2 < 0.7) * 120 + rng.normal(20, 5, x.shape)).clip(0, 255).astype(np.uint8)


def _encoded(rng: np.random.Generator, suffix: str) -> bytes:
    stream = io.BytesIO()
    deep = suffix in (".png", ".tif") and rng.random() < 0.3
    values = _head(rng).astype(np.uint16) * 100 if deep else _head(rng)
    Image.fromarray(values).save(stream, _FORMATS[suffix])
    return stream.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def _png(width: int, height: int, *extra: bytes, pixels: bytes = b"") -> bytes:
    """A PNG of 8-bit grey that says it has this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"".join([_chunk(b"IHDR", head), *extra, _chunk(b"IDAT", zlib.compress(pixels, 9))])
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def _made_to_do_harm() -> dict[str, bytes]:
    """Images that no accident makes."""
    bomb = zlib.compress(bytes(200_000_000), 9)
    rows = b"".join(b"\0" + bytes(range(20)) for _ in range(20))
    text = b"Comment\0\0" + bomb
    tiff = b"II*\0\x08\0\0\0"
    directory = struct.pack("<HHHII", 1, 256, 4, 1, 20)
    animated = io.BytesIO()
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)] * 400
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    return {
        "empty.png": b"",
        "one_byte.jpg": b"\xff",
        "text.jpg": b"this is a text\n" * 20,
        "page.png": b"<!DOCTYPE html><html>404</html>",
        "zeros.tif": bytes(5000),
        "huge.png": _png(60_000, 60_000),
        "widest.png": _png(2**31 - 1, 1),
        "no_width.png": _png(0, 20),
        "thin.png": _png(60_000_000, 1, pixels=bytes(10)),
        "no_pixels.png": _png(20, 20),
        "bomb_of_pixels.png": _png(20, 20, pixels=bytes(200_000_000)),
        "bomb_of_text.png": _png(20, 20, _chunk(b"zTXt", text), pixels=rows),
        "bomb_of_profile.png": _png(20, 20, _chunk(b"iCCP", text), pixels=rows),
        "odd_resolution.png": _png(
            20, 20, _chunk(b"pHYs", struct.pack(">IIB", 2**32 - 1, 1, 1)), pixels=rows
        ),
        "many_frames.png": _png(
            20, 20, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), pixels=rows
        ),
        "huge.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0",
        "many_frames.gif": animated.getvalue(),
        "huge.bmp": b"BM"
        + struct.pack(
            "<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0
        ),
        "loop.tif": tiff + directory + struct.pack("<I", 8),
        "far.tif": b"II*\0" + struct.pack("<I", 2**32 - 2),
        "no_end.tif": tiff + b"\xff\xff" + directory[2:] * 50,
        "zip.png": b"PK\3\4" + bytes(200),
        "script.jpg": b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 9 9\n",
        "packed.png": gzip.compress(bytes(1_000_000)),
    }


def hostile_images(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`IMAGES` names and contents."""
    made = _made_to_do_harm()
    yield from made.items()
    for number in range(IMAGES - len(made)):
        rng = np.random.default_rng((seed, number))
        suffix = list(_FORMATS)[number % len(_FORMATS)]
        content = _damaged(rng, _encoded(rng, suffix))
        if rng.random() < 0.2:
            suffix = str(rng.choice(list(_FORMATS)))  # a name that is not the content's
        yield f"{number:03d}{suffix}", content


def _damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Cut, with bits turned, with bytes of its head replaced, or with a piece twice or gone."""
    damaged = bytearray(content)
    kind = rng.integers(5)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        for at in rng.integers(0, len(content), 1 + len(content) // 200):
            damaged[at] ^= 1 << rng.integers(8)
    elif kind == 2:
        for at in rng.integers(0, min(600, len(content)), 6):
            damaged[at] = rng.choice([0, 1, 127, 128, 255])
    else:
        start = int(rng.integers(len(content)))
        piece = damaged[start : start + 40]
        damaged[start : start + 40] = piece * 3 if kind == 3 else b""
    return bytes(damaged)


def _nifti(rng: np.random.Generator) -> bytes:
    dtype = rng.choice([np.int16, np.float32, np.uint8, np.float64])
    values = np.stack([_head(rng)] * 5, axis=-1).astype(dtype)
    content: bytes = nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])).to_bytes()
    return content


def _absurd_nifti(rng: np.random.Generator) -> bytes:
    """A header with one field of another size than it can be."""
    content = bytearray(_nifti(rng))
    at, value = [
        (40, struct.pack("<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)),
        (40, struct.pack("<8h", -3, 48, 48, 5, 1, 1, 1, 1)),
        (40, struct.pack("<8h", 7, 2, 2, 2, 2, 2, 2, 2)),
        (70, struct.pack("<h", 9999)),
        (76, struct.pack("<8f", 1, 1e-30, 1e30, np.nan, 0, 0, 0, 0)),
        (108, struct.pack("<f", 3e38)),
        (108, struct.pack("<f", -5)),
        (112, struct.pack("<2f", 3e38, -3e38)),
        (280, struct.pack("<12f", *[np.inf] * 12)),
        (348, struct.pack("<4sii", b"\1\0\0\0", 2**31 - 1, 6)),
    ][rng.integers(10)]
    content[at : at + len(value)] = value
    return gzip.compress(bytes(content)) if rng.random() < 0.3 else bytes(content)


def _dicom(rng: np.random.Generator, **tags: object) -> bytes:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.MRImageStorage, "1.2.3"
    values = _head(rng).astype(np.uint16) * 16
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _absurd_dicom(rng: np.random.Generator) -> bytes:
    nested = pydicom.Dataset()
    for _ in range(60):
        outer = pydicom.Dataset()
        outer.ReferencedSeriesSequence = [nested]
        nested = outer
    return _dicom(
        rng,
        **[
            {"Rows": 65535, "Columns": 65535},
            {"Rows": 0},
            {"NumberOfFrames": "2000000000"},
            {"NumberOfFrames": "-3"},
            {"BitsAllocated": 13},
            {"BitsStored": 40},
            {"SamplesPerPixel": 3},
            {"PixelData": b""},
            {"PixelSpacing": ["1e300", "1e-300"]},
            {"RescaleSlope": "1e300", "RescaleIntercept": "-1e300"},
            {"WindowWidth": "1e-300", "WindowCenter": "1e300"},
            {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535},
            {"ReferencedSeriesSequence": [nested]},
            {"PerFrameFunctionalGroupsSequence": [], "SharedFunctionalGroupsSequence": []},
        ][rng.integers(14)],
    )


def hostile_scans(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`SCANS` names and contents: DICOM and NIfTI."""
    makers: list[Callable[[np.random.Generator], bytes]] = [
        lambda rng: _damaged(rng, _dicom(rng)),
        _absurd_dicom,
        lambda rng: _damaged(rng, _nifti(rng)),
        _absurd_nifti,
        lambda rng: _damaged(rng, gzip.compress(_nifti(rng), mtime=0)),
    ]
    yield "bomb.nii.gz", gzip.compress(_nifti(np.random.default_rng(0))[:352] + bytes(300_000_000))
    for number in range(SCANS - 1):
        rng = np.random.default_rng((seed, 1, number))
        maker = number % len(makers)
        suffix = ".dcm" if maker < 2 else ".nii.gz" if maker == 4 else ".nii"
        yield f"{number:03d}{suffix}", makers[maker](rng)


_SCRIPT = """
import json, os, resource, sys, time
import numpy as np
from tumorlens.cli import main
from tumorlens.inference import predict
from tumorlens.uncertainty.decision import DecisionRule

class Brightness:
    name, image_size, rule = "resnet18", 8, DecisionRule(("glioma", "notumor"), 1.0, 0.5, None)
    def describe(self, squares):
        grey = squares.mean(axis=(1, 2))
        return np.stack([grey / 10, np.full(len(grey), 10.0)], axis=1), grey[:, None]

predict.backend_of = lambda settings: Brightness()
slices, slowest = predict.sources.slices, [0.0, ""]
def timed(file, *rest):
    start = time.process_time()
    yield from list(slices(file, *rest))
    slowest[:] = max(slowest, [time.process_time() - start, file.name])
predict.sources.slices = timed
status = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if os.path.isfile("/proc/self/status"):  # ru_maxrss counts the process that started this one too
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(json.dumps([status, peak, *slowest]), file=sys.stderr)
"""


def test_each_of_260_hostile_files_is_answered_or_refused_in_one_sentence(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name, content in [*hostile_images(), *hostile_scans()]:
        (files / name).write_bytes(content)
    names = sorted(path.name for path in files.iterdir())
    assert len(names) == IMAGES + SCANS
    argv = ["predict", *(str(files / name) for name in names), "--checkpoint", "x.onnx"]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", _SCRIPT, *argv, "--csv", str(tmp_path / "out.csv")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    *other, last = done.stderr.strip().splitlines()
    assert other == []  # no warnings of decoders, no words of C libraries
    status, peak, seconds, slowest = json.loads(last)
    assert status == 1  # some are unreadable
    assert peak < 1_500_000, f"{peak} KiB"
    assert seconds < 10, f"{slowest}: {seconds} s"
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["path"]).name for row in rows} == set(names)
    refused = [row for row in rows if row["decision"] == "unreadable"]
    assert 150 < len(refused) < 250
    for row in refused:
        reason = row["reason"]
        assert 10 < len(reason) < 400, row
        assert reason.split()[0] in ("is", "has", "cannot", "needs", "declares"), row
        assert "\n" not in reason
    assert {row["decision"] for row in rows} <= {"unreadable", "confident", "uncertain"}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, file_content in [*hostile_images(), *hostile_scans()]:
        (folder / file_name).write_bytes(file_content)
