"""What many tests need: a cache of their own, and small data sets of drawn images."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# One thread a test: workers run side by side, and sums come out in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TUMORLENS_CACHE", str(folder))
    return folder


@pytest.fixture
def real_data() -> Path:
    """The public data set; skips where this checkout has none beside it."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real data set is not beside this checkout ({REAL_DATA})")
    return REAL_DATA


def drawn(label: int, number: int, size: int = 48) -> np.ndarray:
    """A grey image that a small network learns to tell by `label`: a blob in one of four corners.

    Images of different `number` are no near-duplicates of one another.
    """
    rng = np.random.default_rng((label, number))
    noise = rng.normal(60, 25, (8, 8)).clip(0, 255).astype(np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)).copy()
    top, left = (size // 8, size * 5 // 8)[label // 2], (size // 8, size * 5 // 8)[label % 2]
    image[top : top + size // 4, left : left + size // 4] = 230
    return image


@pytest.fixture
def record_of() -> Callable[..., Any]:
    """What a checkpoint remembers of the images that it was trained on: record_of(dataset)."""
    from tumorlens.checkpoint.file import DataRecord

    def make(data: Any) -> DataRecord:
        train = data.indices("train")
        return DataRecord(
            data_dir=str(data.root.resolve()),
            layout=data.layout,
            protocol=data.protocol,
            train=data.paths_of("train"),
            valid=data.paths_of("valid"),
            test=data.paths_of("test"),
            skipped={},
            fingerprints=data.fingerprints[train],
            digests=data.digests[train],
        )

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a data folder: make_folder({"train": 6, "valid": 3}, classes=("a", "b"))."""

    def make(
        counts: dict[str, int],
        classes: tuple[str, ...] = ("glioma", "meningioma", "notumor", "pituitary"),
        name: str = "data",
        size: int = 48,
    ) -> Path:
        root = tmp_path / name
        first = 0
        for split, count in counts.items():
            for label, class_name in enumerate(classes):
                folder = root / split / class_name
                folder.mkdir(parents=True)
                for number in range(count):
                    image = Image.fromarray(drawn(label, first + number, size))
                    image.save(folder / f"{class_name}{first + number:03d}.png")
            first += count
        return root

    return make


@pytest.fixture
def dicom_bytes() -> Callable[..., bytes]:
    """Make a DICOM file of 2 x 2 pixels: dicom_bytes(frames=2, WindowCenter=100, WindowWidth=50).

    Frame i holds `pixels` divided by i + 1.
    """
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    uid = pydicom.uid

    def make(
        frames: int = 1,
        pixels: Sequence[Sequence[int]] = ((0, 160), (320, 400)),
        **tags: object,
    ) -> bytes:
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = uid.MRImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
        data.SOPClassUID, data.SOPInstanceUID = uid.MRImageStorage, uid.generate_uid()
        data.Rows, data.Columns = 2, 2
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 0
        stored = np.array(pixels, np.uint16)
        data.PixelData = b"".join((stored // (frame + 1)).tobytes() for frame in range(frames))
        if frames > 1:
            data.NumberOfFrames = frames
        for name, value in tags.items():
            setattr(data, name, value)
        stream = io.BytesIO()
        data.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    return make
