"""Files, folders and patterns as grey slices, one after another. No torch.

Of the images nothing is kept but the slice at hand: a million files take little more memory than
the largest of them.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data import readers
from tumorlens.data import volumes as scans
from tumorlens.data.volumes import Axis
from tumorlens.errors import TumorlensError, UnreadableImageError

# Of a folder's files, those with these endings are taken, and DICOM files without any.
_SCANS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Found:
    """A slice, or the reason why there is none.

    Attributes:
        path: of the file, as it was reached.
        index: of the slice within its file, 0-based; None: the file is one image.
        image: (H, W) uint8; None: unreadable.
        reason: why it is unreadable; empty where it is not.
    """

    path: Path
    index: int | None
    image: npt.NDArray[np.uint8] | None
    reason: str = ""


def files(paths: Sequence[Path]) -> Iterator[Path]:
    """Every file that `paths` name, in their order; folders are gone through by name.

    Within a folder the files of a DICOM series come in the order in which they lie in the body.

    Raises:
        TumorlensError: a path or pattern that names nothing, or a folder without an image.
    """
    for path in paths:
        if path.is_dir():
            found = False
            for file in _in_folder(path):
                found = True
                yield file
            if not found:
                raise TumorlensError(
                    f"{path}: has no image in it; expected files that end in "
                    f"{', '.join(sorted(readers.SUFFIXES) + list(_SCANS))}, or DICOM files."
                )
        elif path.exists():
            yield path
        else:
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (any depth)
            if not matches:
                raise TumorlensError(
                    f"{path}: found nothing there; expected a file, a folder or a pattern such as "
                    "'scans/*.dcm'."
                )
            for match in matches:
                file = Path(match)
                yield from _in_folder(file) if file.is_dir() else (file,)


def _in_folder(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        taken = [Path(here, name) for name in sorted(names) if _is_taken(Path(here, name))]
        yield from _placed(taken)


def _placed(taken: list[Path]) -> list[Path]:
    """The same files, those of DICOM last and in the order of the body."""
    series = [file for file in taken if scans.kind_of_file(file) == "dicom"]
    if len(series) < 2:
        return taken
    among = set(series)
    others = [file for file in taken if file not in among]
    return others + sorted(series, key=scans.series_position)


def _is_taken(file: Path) -> bool:
    name = file.name.lower()
    if name.startswith("."):
        return False
    if name.endswith((*readers.SUFFIXES, *_SCANS)):
        return True
    # Scanners name their files 00000001, or by the numbers of the object: 1.3.12.2.1107.5.
    nameless = not file.suffix or file.suffix[1:].isdigit()
    return nameless and scans.kind_of_file(file) == "dicom"


def slices(file: Path, axis: Axis = "axial", only: int | None = None) -> Iterator[Found]:
    """The slices of one file, or one `Found` with the reason why it has none.

    Args:
        file: an image, DICOM or NIfTI file.
        axis: how a volume is cut.
        only: of a volume or a file of several frames, this one alone, 0-based.
    """
    kind = scans.kind_of_file(file)
    if kind is None:
        try:
            yield Found(file, None, readers.read_grey(file))
        except UnreadableImageError as error:
            yield Found(file, None, None, _without(str(error), file))
        return
    try:
        stack = scans.read(file.read_bytes(), kind, readers.MAX_PIXELS, axis).slices
    except OSError as error:
        yield Found(file, None, None, f"cannot be read ({error.strerror})")
        return
    except scans.ScanError as error:
        yield Found(file, None, None, str(error))
        return
    if kind == "dicom" and len(stack) == 1:
        yield Found(file, None, stack[0])
        return
    if only is not None and only >= len(stack):
        yield Found(file, only, None, f"has the slices 0 to {len(stack) - 1}, no {only}")
        return
    for index in range(len(stack)) if only is None else (only,):
        yield Found(file, index, stack[index])


def _without(sentence: str, file: Path) -> str:
    return sentence.removeprefix(f"{file}: ").rstrip(".")
