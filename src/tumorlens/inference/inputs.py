"""Files, folders, patterns and images in memory as grey slices, one after another. No torch.

Of the images nothing is kept but the file at hand: a million files take little more memory than
the largest of them.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tumorlens.data import dicom, readers, volumes
from tumorlens.data.folder import OF_SYSTEMS
from tumorlens.data.volumes import Axis
from tumorlens.errors import ScanError, TumorlensError

# Of a folder's files, those with these endings are taken, and DICOM files without any.
_SCANS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
_EXPECTED = f"files that end in {', '.join([*sorted(readers.SUFFIXES), *_SCANS])}, or DICOM files"


# Weights of red, green and blue in grey, as for files (ITU-R 601).
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image in memory, and its name: its place among what was given."""

    name: Path
    image: Image.Image


@dataclass(frozen=True, eq=False)
class Found:
    """A slice, or the reason why there is none."""

    path: Path  # of the file, as it was reached; `paths[N]` for an image in memory
    index: int | None  # of the slice within its file, 0-based; None: the file is one image
    image: npt.NDArray[np.uint8] | None  # (H, W) uint8; None: unreadable
    reason: str = ""  # why it is unreadable, or what of its header is not used; else empty


@dataclass(frozen=True)
class Listing:
    """The files that paths name."""

    # in the order of the paths; folders by name, a DICOM series from end to end
    files: list[Path | Pixels] = field(default_factory=list)
    # how many of what folders have are not taken, by reason
    left_out: Counter[str] = field(default_factory=Counter)


def listing(paths: Sequence[Any]) -> Listing:
    """Every file that `paths` name, and the images among them, see `pixels`.

    Raises:
        TumorlensError: a path or pattern that names nothing, a folder without an image, or an array
            that is none.
    """
    found = Listing()
    for place, path in enumerate(paths):
        if not isinstance(path, Path):
            found.files.append(pixels(path, f"paths[{place}]"))
            continue
        if os.path.lexists(path):
            matches = [path]
        else:
            matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (any depth)
        if not matches:
            raise TumorlensError(
                f"{path}: found nothing there; expected a file, a folder or a pattern such as "
                "'scans/*.dcm'."
            )
        before = len(found.files)
        for match in matches:
            if match.is_dir():
                _add_folder(match, found)
            else:
                found.files.append(match)
        if len(found.files) == before:
            why = ", ".join(f"{count:,} {reason}" for reason, count in found.left_out.items())
            raise TumorlensError(
                f"{path}: has no image in it{f', only {why}' if why else ''}; expected {_EXPECTED}."
            )
    return found


def pixels(given: Any, name: str) -> Pixels:
    """An image in memory, read as a file of the same pixels is.

    Args:
        given: an image of Pillow, of several frames the one that is shown; or an array, (H, W) or
            (H, W, 3) for red, green and blue, whole or real numbers. Values of 8 bits stay as they
            are; those of any other kind are scaled from the lowest to the highest.
        name: of it.

    Raises:
        TumorlensError: another shape or type.
    """
    if isinstance(given, Image.Image):
        several = getattr(given, "n_frames", 1) > 1
        return Pixels(Path(name), given.copy() if several else given)
    values = np.asarray(given)
    colour = values.ndim == 3 and values.shape[2] == len(_LUMA)
    if not (values.ndim == 2 or colour) or values.dtype.kind not in "uif" or not values.size:
        raise TumorlensError(
            f"{name}: found {type(given).__name__} of shape {values.shape} and type "
            f"{values.dtype}; expected a path, an image of Pillow, or an array of numbers, (H, W) "
            "or (H, W, 3). Give a volume as the list of its slices."
        )
    if values.dtype != np.uint8:
        grey = values @ np.array(_LUMA) if colour else values
        values = grey if grey.dtype == np.uint16 else grey.astype(np.float32)
    return Pixels(Path(name), Image.fromarray(values))


def _add_folder(folder: Path, found: Listing) -> None:
    """Add a folder's files, those of folders in it too; linked folders once."""
    seen = set()

    def closed(_error: OSError) -> None:
        found.left_out["folders that cannot be opened"] += 1

    for here, inner, names in os.walk(folder, onerror=closed, followlinks=True):
        if os.path.realpath(here) in seen:
            inner[:] = []
            found.left_out["folders that a link names again"] += 1
            continue
        seen.add(os.path.realpath(here))
        kept = sorted(name for name in inner if not _is_hidden(name))
        if hidden := len(inner) - len(kept):
            found.left_out["hidden folders"] += hidden
        inner[:] = kept
        taken: list[Path] = []
        series: list[Path] = []
        for file in (Path(here, name) for name in sorted(names)):
            reason, is_dicom = _left_out(file)
            if reason:
                found.left_out[reason] += 1
            else:
                (series if is_dicom else taken).append(file)
        found.files.extend(taken)
        if series[1:]:
            series.sort(key=dicom.series_position)
        found.files.extend(series)


def _left_out(file: Path) -> tuple[str, bool]:
    """Why a folder's file is not taken, "" if it is; and whether it is DICOM."""
    name = file.name.lower()
    if _is_hidden(name):
        return "hidden files", False
    if not file.is_file():
        return "broken links, pipes or devices", False
    # Scanners name their files 00000001, or by the numbers of the object: 1.3.12.2.1107.5.
    named = name.endswith((*readers.SUFFIXES, *_SCANS))
    numbered = not file.suffix or file.suffix[1:].isdigit()
    is_dicom = (named or numbered) and volumes.is_dicom(file)
    if is_dicom and dicom.is_directory(file):
        return "DICOMDIR (the index of a disc)", True
    if named or is_dicom:
        return "", is_dicom
    return f"{file.suffix.lower() or 'other'} files", False


def _is_hidden(name: str) -> bool:
    """Whether it is hidden or left behind by a file manager."""
    return name.startswith(".") or name.lower().partition(":")[0] in OF_SYSTEMS


def slices(file: Path | Pixels, axis: Axis = "axial", only: int | None = None) -> Iterator[Found]:
    """The slices of one file, or one `Found` with the reason why it has none.

    Args:
        file: an image, DICOM or NIfTI file, or an image in memory.
        axis: how a volume is cut.
        only: of a volume or a file of several frames, this one alone, 0-based.
    """
    content = file.image if isinstance(file, Pixels) else None
    file = file.name if isinstance(file, Pixels) else file
    try:
        scan = volumes.read(content or readers.content_of(file), axis=axis)
    except ScanError as error:
        pair = file.suffix.lower() == ".img"  # its content says nothing of what it is
        yield Found(file, None, None, volumes.PAIR if pair else str(error))
        return
    count = len(scan.slices)
    if count == 1 and not scan.kind.startswith("NIfTI"):
        yield Found(file, None, scan.slices[0], scan.note)
    elif only is not None and only >= count:
        yield Found(file, only, None, f"has the slices 0 to {count - 1}, no {only}")
    else:
        for index in range(count) if only is None else (only,):
            yield Found(file, index, scan.slices[index], scan.note)
