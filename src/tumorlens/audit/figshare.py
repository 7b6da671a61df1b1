"""The set that most public ones are made of, from figshare's MATLAB files to a data folder.

Jun Cheng: brain tumor dataset, figshare 2017, CC BY 4.0: 3,064 T1-weighted slices after contrast
agent. A file is a slice: the struct `cjdata` in HDF5 (MATLAB 7.3), whose arrays are transposed.
"""

import functools
import hashlib
import http.client
import io
import re
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tumorlens.data import public_patients
from tumorlens.data.public_patients import Counts
from tumorlens.errors import DISK_FULL, TumorlensError
from tumorlens.files import csv_text, write_image, write_text
from tumorlens.progress import Progress

PAGE = "https://doi.org/10.6084/m9.figshare.1512427"
LICENCE = "CC BY 4.0: name Jun Cheng and this page where you use it"
URL = "https://ndownloader.figshare.com/files"
# Name to number on figshare, bytes and MD5.
FILES = {
    "brainTumorDataPublic_1-766.zip": (3381290, 214_401_279, "74b949ad33f042e6e103523091cd1428"),
    "brainTumorDataPublic_767-1532.zip": (3381296, 217_848_429, "7e8a875500d2c8a346f270538e29890e"),
    "brainTumorDataPublic_1533-2298.zip": (
        *(3381293, 215_563_856),
        "8227bf6080cb71f15a88be8d25c79ae7",
    ),
    "brainTumorDataPublic_2299-3064.zip": (
        *(3381302, 231_679_762),
        "b378a80d6174e5317d59eb28430c6652",
    ),
    "cvind.mat": (7005344, 5_736, "5ea82eb3212c9fcb84290ccf0beb486d"),
}
KNOWN_COUNTS: Counts = {"All": {"glioma": 1426, "meningioma": 708, "pituitary": 930}}
PATIENTS, PUBLISHED, MASKS = "patients.csv", "published-folds.csv", "masks"

_LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}  # of cjdata.label
_FOLDS = "cvind"  # the file's name and its variable's: a number 1 to 5 for each slice
_MOST_BYTES = 50_000_000  # of one .mat file; the largest of the set has 0.8 MB
_EXPECTED = "expected the .mat files of " + PAGE + ", or the archives that they come in"

Content = Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class _Slice:
    """A file: `image` (H, W) uint16, `mask` (H, W) bool, upright; `raised`: had values below 0."""

    label: str
    examination: str
    image: npt.NDArray[np.uint16]
    mask: npt.NDArray[np.bool_]
    raised: bool

    @property
    def patient(self) -> str:
        """The letter that ends an identifier is taken for an examination of the same patient."""
        return re.sub(r"(?<=\d)[A-Za-z]$", "", self.examination)

    @property
    def site(self) -> str:
        """The style of the identifier, which is taken for the hospital."""
        return "letters" if self.examination[:1].isalpha() else "digits"


def count(folder: Path) -> Counts:
    """Images of a folder that `convert` filled, by class."""
    return {"All": {name: len(list((folder / name).glob("*.png"))) for name in KNOWN_COUNTS["All"]}}


def size_of(source: Path | None) -> int:
    """Bytes that will be fetched, or read from `source`."""
    if source is None:
        return sum(size for _, size, _ in FILES.values())
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(file.stat().st_size for file in files if file.suffix.lower() in (".mat", ".zip"))


def fetch(into: Path, progress: Progress) -> None:
    """Fetch what is missing of the archives; a file that broke off goes on from there.

    Raises:
        TumorlensError: no network, a line that broke, or a file that is not figshare's.
    """
    total, before = size_of(None), 0
    try:
        for name, (number, size, md5) in FILES.items():
            if not (into / name).exists():
                part = into / f"{name}.part"
                for done in _appended(f"{URL}/{number}", part, size):
                    progress("downloading", (before + done) // 1_000_000, total // 1_000_000, "MB")
                with part.open("rb") as whole:
                    found = hashlib.file_digest(whole, lambda: hashlib.md5(usedforsecurity=False))
                if found.hexdigest() != md5:
                    part.unlink()
                    raise TumorlensError(
                        f"figshare's {name} came damaged, or is another file now, and was deleted; "
                        f"run the same command again, or fetch it from {PAGE} by a browser and "
                        "name its folder by --from."
                    )
                part.rename(into / name)
            before += size
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise TumorlensError(
                f"{into.parent}: the disk is full; free some room, then run the same command again."
            ) from error
        raise TumorlensError(
            f"figshare cannot be reached, or the line broke ({error}); run the same command again "
            f"and it goes on where it stopped, or fetch the files from {PAGE} by a browser and "
            "name their folder by --from."
        ) from error


def _appended(url: str, part: Path, size: int) -> Iterator[int]:
    """Bytes that `part` has, block by block until it has all."""
    done = part.stat().st_size if part.exists() else 0
    if done < size:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        with urllib.request.urlopen(request, timeout=60) as answer:
            done = done if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            with part.open("ab" if done else "wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
                    done += len(block)
                    yield done
        if done < size:
            raise ConnectionError(f"{done:,} of {size:,} bytes came")


def convert(source: Path, beside: Path, out: Path, progress: Progress) -> tuple[str, ...]:
    """Make the data folder `out` of a folder or archive of .mat files.

    Layout: `CLASS/NUMBER.png` (16-bit grey, the values of the file), `masks/CLASS/NUMBER.png` (0
    and 255), `patients.csv` (path, label, patient, examination, site, run, fold: folds and runs are
    those of `public-patients`, which keep patients together) and, where cvind.mat is there,
    `published-folds.csv`.

    Args:
        source: a folder, searched deep, or an archive; archives may be in archives.
        beside: a folder on the same disk, for what is not whole yet.
        out: gets all of it, at the end.
        progress: called after each slice.

    Returns:
        What the user should know, a sentence each.

    Raises:
        TumorlensError: no h5py, no .mat file, one that is no slice of the set or there twice.
    """
    # Files that the public set has under a wrong label have no fold there.
    known = {row["patient"]: row for row in public_patients.table().rows if row["fold"]}
    rows, unmasked, raised = [], 0, 0
    with tempfile.TemporaryDirectory(dir=beside) as made, ExitStack() as archives:
        files = _numbered(source, archives)
        folds = _published(*files.pop(_FOLDS)) if _FOLDS in files else None
        for done, (number, (name, content)) in enumerate(files.items(), start=1):
            if folds is not None and int(number) > len(folds):
                raise TumorlensError(f"--from {name}: cvind.mat has {len(folds):,} slices alone.")
            one = _read(name, content)
            path = f"{one.label}/{int(number):04d}.png"
            write_image(Path(made, path), one.image)
            if one.mask.any():
                write_image(Path(made, MASKS, path), one.mask * np.uint8(255))
            unmasked += not one.mask.any()
            raised += one.raised
            place = known.get(one.patient, {"run": "", "fold": ""})
            published = "" if folds is None else str(folds[int(number) - 1])
            who = (path, one.label, one.patient, one.examination, one.site)
            rows.append((*who, place["run"], place["fold"], published))
            progress("reading slices", done, len(files))
        rows.sort()
        header = ["path", "label", "patient", "examination", "site"]
        write_text(
            Path(made, PATIENTS), csv_text([*header, "run", "fold"], [row[:-1] for row in rows])
        )
        if folds is not None:
            those = [(*row[:5], row[-1]) for row in rows]
            write_text(Path(made, PUBLISHED), csv_text([*header, "fold"], those))
        # The table comes last: where it is, all is there.
        for whole in sorted(Path(made).iterdir(), key=lambda path: path.name == PATIENTS):
            shutil.rmtree(out / whole.name, ignore_errors=True)
            whole.replace(out / whole.name)
    return _notes(rows, unmasked, raised, folds is not None)


def _notes(
    rows: Sequence[tuple[str, ...]], unmasked: int, raised: int, published: bool
) -> tuple[str, ...]:
    patients = {row[2] for row in rows}
    where = defaultdict(set)
    for row in rows:
        where[row[2]].add(row[-1])
    apart = sum(len(folds) > 1 for folds in where.values())
    homeless = sum(not row[6] for row in rows)
    sentences = {
        f"{len(patients):,} patients, {len({row[3] for row in rows}):,} examinations.": True,
        f"{PUBLISHED} has {apart} patients in more than one fold, so that it needs "
        f"--allow_patient_overlap; {PATIENTS} keeps each patient in one.": bool(apart),
        f"There is no cvind.mat, so {PUBLISHED} is not written.": not published,
        f"{homeless:,} images have no fold in {PATIENTS}: the built-in table does not know "
        "their patients.": bool(homeless),
        f"{unmasked:,} images have no mask: theirs marks nothing.": bool(unmasked),
        f"{raised:,} images had values below 0; each was raised until its lowest is 0.": bool(
            raised
        ),
    }
    return tuple(sentence for sentence, holds in sentences.items() if holds)


def _numbered(source: Path, archives: ExitStack) -> dict[str, tuple[str, Content]]:
    """Number of each slice to its file, and `cvind` to that of the folds, in the files' order."""
    if not source.exists():
        raise TumorlensError(f"--from {source}: there is no such folder; {_EXPECTED}.")
    found: dict[str, tuple[str, Content]] = {}
    try:
        for name, content in _files(source, archives):
            stem = PurePosixPath(name).stem.lower()
            if stem != _FOLDS and not (stem.isdecimal() and int(stem)):
                raise TumorlensError(
                    f"--from {name}: is named neither by a number nor cvind.mat; {_EXPECTED}."
                )
            key = stem.lstrip("0")
            if key in found:
                raise TumorlensError(
                    f"--from {name}: is there as {found[key][0]} too; name the folder of one of "
                    "them."
                )
            found[key] = name, content
    except (zipfile.BadZipFile, OSError) as error:
        raise TumorlensError(f"--from {source}: cannot be read ({error}); {_EXPECTED}.") from error
    if not found.keys() - {_FOLDS}:
        raise TumorlensError(f"--from {source}: has no slice; {_EXPECTED}.")
    return found


def _files(source: Path, archives: ExitStack) -> Iterator[tuple[str, Content]]:
    """Name and content of every .mat file in a folder or an archive."""
    for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if file.name.startswith("."):
            continue
        if file.suffix.lower() == ".mat":
            yield file.as_posix(), file.read_bytes
        elif file.suffix.lower() == ".zip":
            opened = archives.enter_context(file.open("rb"))
            yield from _packed(opened, file.as_posix(), archives)


def _packed(file: IO[bytes], place: str, archives: ExitStack) -> Iterator[tuple[str, Content]]:
    """Likewise of an archive and those in it, which `archives` closes."""
    archive = archives.enter_context(zipfile.ZipFile(file))
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        name = f"{place}/{member.filename}"
        if path.name.startswith("."):
            continue
        if path.suffix.lower() == ".zip":
            yield from _packed(archives.enter_context(archive.open(member)), name, archives)
        elif path.suffix.lower() == ".mat":
            if member.file_size > _MOST_BYTES:
                raise TumorlensError(
                    f"--from {name}: has {member.file_size:,} bytes unpacked; {_EXPECTED}."
                )
            yield name, functools.partial(archive.read, member)


def reader() -> Any:
    """The package h5py.

    Raises:
        TumorlensError: it is not installed.
    """
    try:
        import h5py  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise TumorlensError(
            "the figshare set needs the package h5py, which is not installed; install the extra: "
            "pip install 'tumorlens[figshare]'."
        ) from error
    return h5py


def _opened(name: str, content: Content) -> Any:
    try:
        return reader().File(io.BytesIO(content()), "r")
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise TumorlensError(
            f"--from {name}: is no MATLAB 7.3 file, or a damaged one; {_EXPECTED}."
        ) from error


def _read(name: str, content: Content) -> _Slice:
    with _opened(name, content) as file:
        try:
            data: Mapping[str, Any] = file["cjdata"]
            label = _LABELS[int(data["label"][()].item())]
            examination = "".join(map(chr, data["PID"][()].ravel().tolist())).strip()
            image, mask = data["image"][()].T, data["tumorMask"][()].T
        except Exception as error:  # whatever a file of another kind has there
            raise TumorlensError(
                f"--from {name}: is no slice of the set ({error}); {_EXPECTED}."
            ) from error
    lowest = min(int(image.min(initial=0)), 0) if image.dtype.kind in "iu" else None
    if image.ndim != 2 or mask.shape != image.shape or image.dtype.itemsize != 2 or lowest is None:
        raise TumorlensError(
            f"--from {name}: has an image of {image.shape} {image.dtype} and a mask of "
            f"{mask.shape}; expected whole numbers of 16 bits, and both of one size."
        )
    grey = (image.astype(np.int32) - lowest).astype(np.uint16)
    return _Slice(label, examination, grey, mask > 0, lowest < 0)


def _published(name: str, content: Content) -> list[int]:
    """The published fold of each slice, from 0."""
    with _opened(name, content) as file:
        try:
            folds = [int(fold) - 1 for fold in file[_FOLDS][()].ravel()]
        except Exception as error:  # whatever a file of another kind has there
            raise TumorlensError(
                f"--from {name}: has no folds ({error}); expected those of {PAGE}."
            ) from error
    if not set(folds) <= set(range(public_patients.FOLDS)):
        raise TumorlensError(
            f"--from {name}: has the folds {dict(Counter(folds))}; expected 1 to 5."
        )
    return folds
