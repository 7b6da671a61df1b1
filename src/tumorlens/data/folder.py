"""Which images a data folder holds, of which class, in which split.

Layouts understood (docs/reference/folders.md draws them):

- `train/ valid/ [test/]`: the project's own; `val` and `validation` are `valid`;
- `Training/ Testing/` (or `train/ test/`): the public download's; a part of the training images
  has to be set aside to choose the epoch;
- one of these folders alone: to score or to audit;
- class folders alone: to score, or with a split made by `tumorlens split`.

Inside, the class folders are the classes, whatever their names or number (`tumorlens.labels` knows
some by several names). Images may lie deeper in them, also behind links; each folder is listed
once. Masks beside the images are no images.
"""

import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorlens.data.readers import SUFFIXES
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import composed
from tumorlens.labels import KNOWN_CLASSES, canonical_class, class_key, classes_of

SPLITS = ("train", "valid", "test")
# What else a split is called, by folders and in tables.
SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "val": "valid",
    "validation": "valid",
    "testing": "test",
}
# Left behind by file managers and file systems; what starts with a dot is too.
OF_SYSTEMS = frozenset(
    [
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "icon\r",
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    ]
)
_MASK_FOLDERS = frozenset({"mask", "masks"})
_MASK_ENDINGS = ("_mask", "-mask", "_seg", "_segmentation")
_LAYOUT_HELP = "expected train/ valid/ [test/] or Training/ Testing/, each with class folders"

# Why a file is not used.
_OTHER, _CLOSED, _MASK = "files of other kinds", "closed folders", "masks"
_BAD_NAME = "names that are not UTF-8 or have a backslash"
_SAME_NAME = "names that another file has in another form of Unicode"
_OUTSIDE, _TWICE = "images outside the class folders", "links to folders listed already"
# Of these something has to be done about.
_ADVICE = {
    _OTHER: "not a PNG, JPEG, TIFF, BMP, GIF or WebP image; move it elsewhere.",
    _BAD_NAME: "its name is not UTF-8 or has a backslash; rename it.",
    _CLOSED: "cannot be read; check its permissions.",
    _SAME_NAME: "another file has this name in another form of Unicode; rename one.",
}


@dataclass(frozen=True)
class ImageFile:
    """One image: `path` relative to the data folder with forward slashes; `split` "" if none."""

    path: str
    label: str
    split: str


@dataclass(frozen=True)
class DataFolder:
    """What `scan` found."""

    root: Path  # the data folder
    classes: tuple[str, ...]  # names in sorted order; a label's place in it is its index
    files: tuple[ImageFile, ...]  # sorted by path
    layout: str  # the splits that there are, such as "train valid test"; "classes": there are none
    # what is wrong with folders and file names, a sentence each; decoding finds more
    faults: tuple[str, ...] = ()
    # reason to the paths that are not used
    unused: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of_split(self, split: str) -> tuple[ImageFile, ...]:
        """The files of one split."""
        return tuple(file for file in self.files if file.split == split)

    def with_splits(self, assignment: Mapping[str, str], *, others: bool = False) -> "DataFolder":
        """The same folder, split as `assignment`, path to split, says.

        With `others`, files that it lacks are kept, without a split.
        """
        files = tuple(
            replace(file, split=assignment.get(file.path, ""))
            for file in self.files
            if others or file.path in assignment
        )
        splits = {file.split for file in files}
        layout = " ".join(name for name in SPLITS if name in splits)
        return replace(self, files=files, layout=layout)

    def unused_sentence(self, *, faults: bool = True) -> str:
        """What is not used, counted by reason; with `faults` also what they name; "" if all is."""
        parts = [
            f"{reason} ({len(paths):,}, such as {_shown(paths[0])})"
            for reason, paths in self.unused.items()
            if faults or reason not in _ADVICE
        ]
        return f"Not used of {self.root}: {', '.join(parts)}." if parts else ""


@dataclass(frozen=True)
class _Tree:
    """What is below a folder, by relative path, but for what file managers leave behind."""

    files: list[str]
    folders: dict[str, list[str]]  # sub-folders of each folder, by name; "" is the folder itself
    unused: dict[str, list[str]]  # folders that were not entered, by reason


def scan(root: Path, *, any_folder: bool = False) -> DataFolder:
    """List the images of a data folder; nothing is opened.

    With `any_folder`, where no image is in a class folder, those that are in none are taken.

    Raises:
        TumorlensError: no such folder, no image, or a layout that is not understood.
    """
    if not root.exists():
        raise TumorlensError(f"--data_dir {root}: there is no such folder; {_LAYOUT_HELP}.")
    if not root.is_dir():
        raise TumorlensError(f"--data_dir {root}: is a file, not a folder; {_LAYOUT_HELP}.")
    if not _is_portable(root.absolute().as_posix()):
        raise TumorlensError(f"--data_dir {_shown(str(root))}: {_ADVICE[_BAD_NAME]}")
    tree = _tree(root)
    splits = _split_folders(root, tree.folders[""])
    parents = [f"{name}/" for name in splits] or [""]
    for parent in parents:
        _refuse_nested(root, tree, parent)
    homes = [parent + name for parent in parents for name in _no_masks(tree, parent)]
    labels = _labels(root, homes)
    files, unused = _sorted_out(tree, labels, splits)
    if any_folder and not files:
        files = [ImageFile(path, "", "") for path in unused.pop(_OUTSIDE, [])]
    if not files:
        raise TumorlensError(f"--data_dir {root}: {_found(tree, unused)}; {_LAYOUT_HELP}.")
    faults = [
        f"{root / _shown(path)}: {_ADVICE[reason]}"
        for reason, paths in unused.items()
        for path in paths
        if reason in _ADVICE
    ]
    depth = 2 if splits else 1
    used = {"/".join(file.path.split("/")[:depth]) for file in files}
    faults += [
        f"{root / home}: no image of class {label} in it; add some or remove it."
        for home, label in labels.items()
        if home not in used
    ]
    faults += [
        f"{root / name}: no image in it; expected class folders with images."
        for name, split in splits.items()
        if not any(file.split == split for file in files)
    ]
    return DataFolder(
        root=root,
        classes=tuple(sorted({file.label for file in files})),
        files=tuple(files),
        layout=" ".join(name for name in SPLITS if name in splits.values()) or "classes",
        faults=tuple(faults),
        unused=unused,
    )


def _tree(root: Path) -> _Tree:
    """Go through a folder; links are followed last, and no folder is entered twice."""
    found = _Tree([], {}, {})
    entered: set[str] = set()
    waiting, links = deque([""]), deque[str]()
    while waiting or links:
        here = waiting.popleft() if waiting else links.popleft()
        real = os.path.realpath(root / here)
        if real in entered:
            found.unused.setdefault(_TWICE, []).append(here)
            continue
        entered.add(real)
        try:
            with os.scandir(root / here) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if not here:
                what = f"cannot be read ({error.strerror}); check its permissions."
                raise TumorlensError(f"--data_dir {root}: {what}") from error
            found.unused.setdefault(_CLOSED, []).append(here)
            continue
        found.folders[here] = []
        if here:
            above, _, name = here.rpartition("/")
            found.folders[above].append(name)
        for entry in entries:
            # Windows shows a file's streams as name:stream.
            if entry.name[0] == "." or entry.name.lower().partition(":")[0] in OF_SYSTEMS:
                continue
            path = f"{here}/{entry.name}" if here else entry.name
            if not os.path.isdir(entry):  # noqa: PTH112 (False also of a link to itself)
                found.files.append(path)
            elif not _is_portable(entry.name):
                found.unused.setdefault(_BAD_NAME, []).append(path)
            else:
                (links if entry.is_symlink() else waiting).append(path)
    found.files.sort()
    return found


def _split_folders(root: Path, names: Sequence[str]) -> dict[str, str]:
    """The folders that are splits, and which."""
    found = {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
    for split in SPLITS:
        both = [name for name in found if found[name] == split]
        if len(both) > 1:
            same = f"{_names(both, 'and')} are both the {split} split"
            raise TumorlensError(f"--data_dir {root}: {same}; keep one, or merge them.")
    return found


def _no_masks(tree: _Tree, parent: str) -> list[str]:
    """The folders in `parent`, "" or "SPLIT/", but for those of masks."""
    inside = tree.folders[parent.rstrip("/")]
    return [name for name in inside if name.lower() not in _MASK_FOLDERS]


def _refuse_nested(root: Path, tree: _Tree, parent: str) -> None:
    """Raise where splits or classes lie deeper than directly in `parent`: "" or "SPLIT/"."""
    names = _no_masks(tree, parent)
    classes = {class_key(name) for name in names}
    for name in names:
        below = tree.folders[parent + name]
        inner = [inside for inside in below if inside.lower() in SPLIT_NAMES]
        again = [inside for inside in below if class_key(inside) in classes]
        known = [inside for inside in below if canonical_class(inside) in KNOWN_CLASSES]
        around = len(names) == 1 and canonical_class(name) not in KNOWN_CLASSES
        place = f"--data_dir {root}: {parent}{name}/ has"
        if parent and name.lower() in SPLIT_NAMES:
            raise TumorlensError(f"{place[:-4]} is a split in a split; move it up.")
        if inner and not any(tree.folders[f"{parent}{name}/{inside}"] for inside in inner):
            raise TumorlensError(
                f"{place} {_names(inner)} in it, but a split has class folders, not a class "
                f"splits; {_LAYOUT_HELP}."
            )
        if inner or (around and known):
            do = "move them up" if parent else f"give --data_dir {root / name}"
            raise TumorlensError(f"{place} {_names(inner or below)} in it; {do}.")
        if again:
            raise TumorlensError(
                f"{place} {_names(again)} in it, which are beside it too; move it elsewhere."
            )


def _labels(root: Path, homes: Sequence[str]) -> dict[str, str]:
    """The class of each class folder; raises where two of one split, or two spellings, are one."""
    named = classes_of(home.rpartition("/")[2] for home in homes)
    labels = {home: named[home.rpartition("/")[2]] for home in homes}
    folders: dict[tuple[str, str], list[str]] = {}
    spellings: dict[str, set[str]] = {}
    for home, label in labels.items():
        folders.setdefault((home.rpartition("/")[0], label), []).append(home)
        spellings.setdefault(class_key(label), set()).add(label)
    for (_, label), same in folders.items():
        if len(same) > 1:
            both = f"{_names(same, 'and')} are both class {label}"
            raise TumorlensError(f"--data_dir {root}: {both}; rename one, or merge them.")
    for names in spellings.values():
        if len(names) > 1:
            raise TumorlensError(
                f"--data_dir {root}: one class is spelled {', '.join(sorted(names))}; name its "
                "folders alike."
            )
    return labels


def _sorted_out(
    tree: _Tree, labels: Mapping[str, str], splits: Mapping[str, str]
) -> tuple[list[ImageFile], dict[str, list[str]]]:
    """The images of the class folders, and reason to what is not used."""
    files, unused = [], {reason: list(paths) for reason, paths in tree.unused.items()}
    stems = {os.path.splitext(path)[0] for path in tree.files}  # noqa: PTH122 (for each file)
    taken: set[str] = set()
    for path in tree.files:
        parts = path.split("/")
        home = "/".join(parts[: 2 if splits else 1])
        inside = home in labels and home != path
        stem, suffix = os.path.splitext(path)  # noqa: PTH122
        image = suffix.lower() in SUFFIXES
        if not image and not inside:
            continue
        mask = not _MASK_FOLDERS.isdisjoint(part.lower() for part in parts[:-1]) or any(
            stem.lower().endswith(end) and stem[: -len(end)] in stems for end in _MASK_ENDINGS
        )
        checks = (
            (_BAD_NAME, not _is_portable(path)),
            (_SAME_NAME, composed(path) in taken),
            (_MASK, mask),
            (_OTHER, not image),
            (_OUTSIDE, not inside),
        )
        reason = next((reason for reason, holds in checks if holds), "")
        if reason:
            unused.setdefault(reason, []).append(path)
        else:
            files.append(ImageFile(path, labels[home], splits.get(parts[0], "")))
            taken.add(composed(path))
    return files, unused


def _found(tree: _Tree, unused: Mapping[str, Sequence[str]]) -> str:
    """What a folder without an image of a class has."""
    if _OUTSIDE in unused:
        count = len(unused[_OUTSIDE])
        which = "1 image" if count == 1 else f"{count:,} images"
        return f"{which} without a class folder around"
    endings = Counter(os.path.splitext(path)[1].lower() for path in tree.files)  # noqa: PTH122
    if endings:
        there = ", ".join(f"{count:,} {end or 'others'}" for end, count in endings.most_common(4))
        return f"no image found that can be read, only {there}"
    return f"no image found, only {_names(tree.folders['']) or 'an empty folder'}"


def _names(folders: Sequence[str], word: str = "") -> str:
    names = [f"{folder}/" for folder in folders]
    if word:
        return f" {word} ".join(names)
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _is_portable(path: str) -> bool:
    """Whether tables can hold it; Python keeps bytes that are no UTF-8 as lone surrogates."""
    return "\\" not in path and not any("\ud800" <= letter <= "\udfff" for letter in path)


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def refuse(root: Path, faults: Sequence[str], hint: str = "") -> None:
    """Raise one error that lists all `faults`; none, no error."""
    if not faults:
        return
    more = f"\n  ... and {len(faults) - 50} more" if len(faults) > 50 else ""
    lines = "".join(f"\n  - {fault}" for fault in faults[:50])
    plural = "fault" if len(faults) == 1 else "faults"
    raise TumorlensError(
        f"--data_dir {root}: {len(faults)} {plural} found before the first step{hint}:{lines}{more}"
    )
