"""Which images a data folder holds, of which class, in which split.

Layouts understood (docs/data.md draws them):

- `train/ valid/ [test/]`: the project's own; `val` and `validation` are `valid`;
- `Training/ Testing/` (or `train/ test/`): the public download's; a part of the training images
  has to be set aside to choose the epoch;
- class folders alone: needs a split made by `tumorlens split`.

Inside, the class folders are the classes, whatever their names or number (`tumorlens.labels` knows
some by several names); images may lie deeper in them.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tumorlens.data.readers import SUFFIXES
from tumorlens.errors import TumorlensError
from tumorlens.labels import canonical_class

SPLITS = ("train", "valid", "test")
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
# Left behind by file managers in almost every folder that people share.
_LITTER = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
_LAYOUT_HELP = "expected train/ valid/ [test/] or Training/ Testing/, each with class folders"


@dataclass(frozen=True)
class ImageFile:
    """One image: `path` relative to the data folder with forward slashes; `split` "" if none."""

    path: str
    label: str
    split: str


@dataclass(frozen=True)
class DataFolder:
    """What `scan` found.

    Attributes:
        root: the data folder.
        classes: names in sorted order; a label's place in it is its index.
        files: sorted by path.
        layout: "train valid test", "train valid", "train test" or "classes".
        faults: what is wrong with folders and file names, a sentence each; decoding finds more.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    layout: str
    faults: tuple[str, ...] = ()

    def of_split(self, split: str) -> tuple[ImageFile, ...]:
        """The files of one split."""
        return tuple(file for file in self.files if file.split == split)

    def with_splits(self, assignment: Mapping[str, str]) -> "DataFolder":
        """The same folder, split as `assignment` (path to split) says; other files are left out."""
        files = tuple(
            replace(file, split=assignment[file.path])
            for file in self.files
            if file.path in assignment
        )
        splits = {file.split for file in files}
        return replace(
            self, files=files, layout=" ".join(name for name in SPLITS if name in splits)
        )

    def without(self, paths: Iterable[str]) -> "DataFolder":
        """The same folder without the files of these paths."""
        gone = set(paths)
        return replace(self, files=tuple(file for file in self.files if file.path not in gone))


def scan(root: Path) -> DataFolder:
    """List the images of a data folder; nothing is opened.

    Raises:
        TumorlensError: no such folder, or a layout that is not understood.
    """
    if not root.exists():
        raise TumorlensError(f"--data_dir {root}: there is no such folder; {_LAYOUT_HELP}.")
    if not root.is_dir():
        raise TumorlensError(f"--data_dir {root}: is a file, not a folder; {_LAYOUT_HELP}.")
    try:
        children = _folders(root)
    except OSError as error:
        raise TumorlensError(
            f"--data_dir {root}: cannot be read ({error.strerror}); check its permissions."
        ) from error
    split_folders = [(child, _SPLIT_FOLDERS.get(child.name.lower())) for child in children]
    found = {split for _, split in split_folders if split}
    if "train" in found and found & {"valid", "test"}:
        pairs = [(child, split) for child, split in split_folders if split]
        layout = " ".join(name for name in SPLITS if name in found)
    elif found:
        raise TumorlensError(f"--data_dir {root}: found {_names(children)} alone; {_LAYOUT_HELP}.")
    else:
        pairs, layout = [(root, "")], "classes"
    faults: list[str] = []
    files: list[ImageFile] = []
    for folder, split in pairs:
        listed = _class_files(root, folder, split or "", faults)
        if layout != "classes" and not listed:
            faults.append(f"{folder}: no image in it; expected class folders with images.")
        files += listed
    if not files:
        loose = sum(child.suffix.lower() in SUFFIXES for child in root.iterdir())
        found_instead = (
            f"{loose:,} images without a class folder around them"
            if loose
            else f"no image found, only {_names(children) or 'an empty folder'}"
        )
        raise TumorlensError(f"--data_dir {root}: {found_instead}; {_LAYOUT_HELP}.")
    classes = tuple(sorted({file.label for file in files}))
    return DataFolder(
        root, classes, tuple(sorted(files, key=lambda file: file.path)), layout, tuple(faults)
    )


def _class_files(root: Path, folder: Path, split: str, faults: list[str]) -> list[ImageFile]:
    files: list[ImageFile] = []
    for class_folder in _folders(folder):
        label = canonical_class(class_folder.name)
        before = len(files)
        for parent, names, leaves in os.walk(class_folder):
            names[:] = sorted(name for name in names if not name.startswith("."))
            below = Path(parent).relative_to(root).as_posix()
            for leaf in sorted(leaves):
                if leaf.startswith(".") or leaf.lower() in _LITTER:
                    continue
                if os.path.splitext(leaf)[1].lower() in SUFFIXES:  # noqa: PTH122 (for each file)
                    files.append(ImageFile(f"{below}/{leaf}", label, split))
                else:
                    faults.append(
                        f"{parent}/{leaf}: not a PNG, JPEG, TIFF, BMP or WebP image; move it "
                        "elsewhere."
                    )
        if len(files) == before:
            faults.append(
                f"{class_folder}: no image of class {label} in it; add some or remove it."
            )
    return files


def _folders(folder: Path) -> list[Path]:
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def _names(folders: list[Path]) -> str:
    names = [f"{folder.name}/" for folder in folders]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def whole_of(split: Path) -> Path | None:
    """The data folder that `split` is the train, valid or test folder of; None: of none."""
    whole = split.resolve().parent
    if split.name.lower() not in _SPLIT_FOLDERS:
        return None
    found = {_SPLIT_FOLDERS.get(child.name.lower()) for child in _folders(whole)}
    return split.parent if "train" in found and found & {"valid", "test"} else None


def class_faults(folder: DataFolder, needed: Iterable[str]) -> list[str]:
    """What is wrong with the classes of the splits in `needed`: missing, or one image only."""
    faults = []
    if len(folder.classes) < 2:
        faults.append(
            f"{folder.root}: only the class {', '.join(folder.classes)}; a classifier needs two."
        )
    for split in needed:
        counts = Counter(file.label for file in folder.of_split(split))
        for label in folder.classes:
            if counts[label] == 0:
                faults.append(
                    f"{folder.root}: class {label} has no image in {split}; found "
                    f"{dict(sorted(counts.items()))}."
                )
            elif split == "train" and counts[label] == 1:
                faults.append(
                    f"{folder.root}: class {label} has one image only in train; add more."
                )
    return faults


def refuse(root: Path, faults: list[str], hint: str = "") -> None:
    """Raise one error that lists all `faults`; none, no error."""
    if not faults:
        return
    shown = faults[:50]
    more = f"\n  ... and {len(faults) - 50} more" if len(faults) > 50 else ""
    lines = "".join(f"\n  - {fault}" for fault in shown)
    plural = "fault" if len(faults) == 1 else "faults"
    raise TumorlensError(
        f"--data_dir {root}: {len(faults)} {plural} found before the first step{hint}:{lines}{more}"
    )
