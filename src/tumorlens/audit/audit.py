"""What is wrong with a folder of images: near-duplicates, conflicts, shortcuts."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.audit.overlap import LEAKS, PatientOverlap, patient_facts, patient_overlap
from tumorlens.audit.shortcuts import Shortcut, shortcuts
from tumorlens.data import cache
from tumorlens.data.duplicates import RADIUS
from tumorlens.data.folder import SPLITS, DataFolder, ImageFile, scan
from tumorlens.data.hashing import TRANSFORMS
from tumorlens.data.pairs import SAME_DETAILS, THUMBNAIL, Pairs, find_pairs
from tumorlens.data.patients import Patients, PatientTable, overlaps
from tumorlens.data.readers import SUFFIXES, ImageFacts
from tumorlens.errors import TumorlensError
from tumorlens.files import SCHEMA
from tumorlens.labels import canonical_class
from tumorlens.progress import Progress, silent

# How a near-duplicate was made, the plainest first.
KINDS = ("exact", "re-encoded", "mirrored", "turned")

_FEWEST_FOR_SHORTCUTS = 20
_SUFFIXES = tuple(SUFFIXES)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """For each of T images of one split its nearest near-duplicate in another, worst first.

    Worst are conflicting labels, then byte-identical files, then the greatest similarity.

    Attributes:
        image, duplicate: (T,) indices.
        pair: (T,) the pair that they are.
        others: (T,) how many more near-duplicates of the image the other split has.
    """

    image: Indices
    duplicate: Indices
    pair: Indices
    others: Indices

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Audit:
    """What `audit` found in N images.

    Attributes:
        root: the folder.
        layout: see `folder.DataFolder`; "" where the folders say nothing.
        paths: (N,) readable images, relative to `root`, sorted.
        labels: (N,) class, "" where the folders name none.
        splits: (N,) "train", "valid", "test", or "" where the folders name none.
        images: (N, 96, 96) uint8 thumbnails.
        pairs: images that show the same image.
        groups: (N,) images of one group show one image.
        shortcuts: properties of files and how well they predict the class, best first; empty where
            there are fewer than two classes.
        unreadable: path to the reason.
        other_faults: what else is wrong with folders and file names.
        note: what the user should know about the cache; empty if nothing.
        patients: whom the images show; None: not known.
    """

    root: Path
    layout: str
    paths: tuple[str, ...]
    labels: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    images: npt.NDArray[np.uint8]
    pairs: Pairs
    groups: Indices
    shortcuts: tuple[Shortcut, ...]
    unreadable: dict[str, str]
    other_faults: tuple[str, ...]
    note: str = ""
    patients: Patients | None = None

    @cached_property
    def kinds(self) -> npt.NDArray[np.str_]:
        """(P,) how each pair's copy was made, a name in `KINDS`."""
        transform = self.pairs.transform
        return np.select(
            [self.pairs.exact, transform == "identity", np.isin(transform, ["flip_lr", "flip_ud"])],
            KINDS[:3],
            default=KINDS[3],
        )

    @cached_property
    def conflicting(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the two images of a pair have different labels."""
        one, other = self.labels[self.pairs.first], self.labels[self.pairs.second]
        return np.asarray((one != other) & (one != "") & (other != ""))

    @cached_property
    def across(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the two images of a pair are in different splits."""
        one, other = self.splits[self.pairs.first], self.splits[self.pairs.second]
        return np.asarray((one != other) & (one != "") & (other != ""))

    def duplicates(self, split: str, other: str) -> Matches:
        """Images of `split` with a near-duplicate in `other`; within one split, all but the first.

        Within one split (`split` equal to `other`) an image's duplicate comes before it in `paths`.
        """
        first, second = self.pairs.first, self.pairs.second
        forward = (self.splits[first] == split) & (self.splits[second] == other)
        backward = (self.splits[second] == split) & (self.splits[first] == other)
        if split == other:
            forward = np.zeros_like(forward)
        pair = np.concatenate([np.flatnonzero(forward), np.flatnonzero(backward)])
        image = np.concatenate([first[forward], second[backward]])
        duplicate = np.concatenate([second[forward], first[backward]])
        order = np.lexsort((image, *self._badness(pair)))
        image, at, count = np.unique(image[order], return_index=True, return_counts=True)
        pair, duplicate = pair[order][at], duplicate[order][at]
        order = np.lexsort((image, *self._badness(pair)))
        return Matches(image[order], duplicate[order], pair[order], count[order] - 1)

    def _badness(self, pair: Indices) -> tuple[npt.NDArray[Any], ...]:
        """Keys for lexsort, the last the most important."""
        pairs = self.pairs
        return -pairs.similarity[pair], ~pairs.exact[pair], ~self.conflicting[pair]

    def leaks(self) -> Iterator[tuple[str, str, Matches]]:
        """Splits of `LEAKS` between which there are near-duplicates, and which images those are."""
        for split, other in LEAKS:
            found = self.duplicates(split, other)
            if len(found):
                yield split, other, found

    @cached_property
    def patient_overlap(self) -> list[PatientOverlap]:
        """Splits of `LEAKS` that share patients, and how many images that is; empty: none known."""
        if self.patients is None:
            return []
        return patient_overlap(self.patients.names, self.splits, self.labels)

    def count_of(self, check: str) -> int:
        """How many there are of a check of --fail_on.

        "leak" and "patients" count images, "conflict" pairs, "unreadable" files.
        """
        if check == "patients":
            if self.patients is None:
                return 0
            shared = {one.patient for one in overlaps(self.patients.names, self.splits)}
            return int(np.isin(self.patients.names, sorted(shared)).sum())
        if check == "leak":
            return len({int(image) for *_, found in self.leaks() for image in found.image})
        return int(self.conflicting.sum()) if check == "conflict" else len(self.unreadable)

    def count_of_splits(self) -> int:
        """How many splits have images."""
        return len(set(self.splits.tolist()) - {""})

    def balance(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split."""
        counts = Counter(zip(self.splits.tolist(), self.labels.tolist(), strict=True))
        classes = sorted(set(self.labels.tolist()))
        return {
            split: {label: counts[split, label] for label in classes}
            for split in (*SPLITS, "")
            if any(counts[split, label] for label in classes)
        }

    def leak_table(self, split: str, found: Matches) -> dict[str, dict[str, int]]:
        """By class: images of `split`, how many have a near-duplicate, and of which kind."""
        inside = self.splits == split
        return {
            label: self.leak_counts(inside & (self.labels == label), found)
            for label in sorted(set(self.labels[inside].tolist()))
        }

    def leak_counts(self, chosen: npt.NDArray[np.bool_], found: Matches) -> dict[str, int]:
        """Of the images `chosen`, (N,): how many, how many with a near-duplicate, of which kind."""
        kinds = self.kinds[found.pair[chosen[found.image]]]
        return {
            "images": int(chosen.sum()),
            "with_near_duplicate": len(kinds),
            **{kind: int((kinds == kind).sum()) for kind in KINDS},
        }

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        sizes = np.bincount(self.groups, minlength=1)
        transforms = Counter(self.pairs.transform.tolist())
        return {
            "schema": SCHEMA,
            "layout": self.layout,
            "images": len(self.paths),
            "unreadable": self.unreadable,
            "other_faults": list(self.other_faults),
            "balance": self.balance(),
            "near_duplicates": {
                "fingerprint_bits_at_most": RADIUS,
                "similarity_at_least": SAME_DETAILS,
                "pairs": len(self.pairs),
                "by_kind": {kind: int((self.kinds == kind).sum()) for kind in KINDS},
                "by_transform": {name: transforms[name] for name in TRANSFORMS},
                "within_splits": len(self.pairs) - int(self.across.sum()),
                "across_splits": int(self.across.sum()),
                "groups": int((sizes > 1).sum()),
                "images_in_groups": int(sizes[sizes > 1].sum()),
                "largest_group": int(sizes.max()),
            },
            "leaks": [
                {
                    "split": split,
                    "in": other,
                    **self.leak_counts(self.splits == split, found),
                    "by_class": self.leak_table(split, found),
                }
                for split, other, found in self.leaks()
            ],
            "patients": None
            if self.patients is None
            else patient_facts(self.patients, self.splits, self.patient_overlap),
            "conflicts": [
                {
                    "paths": [self.paths[one], self.paths[other]],
                    "labels": [str(self.labels[one]), str(self.labels[other])],
                    "transform": str(transform),
                    "similarity": round(float(value), 4),
                }
                for one, other, transform, value in zip(
                    self.pairs.first[self.conflicting],
                    self.pairs.second[self.conflicting],
                    self.pairs.transform[self.conflicting],
                    self.pairs.similarity[self.conflicting],
                    strict=True,
                )
            ],
            "shortcuts": [shortcut.to_dict() for shortcut in self.shortcuts],
        }


def audit(
    root: Path,
    assignment: Mapping[str, str] | None = None,
    progress: Progress = silent,
    patients: PatientTable | None = None,
) -> Audit:
    """Look for what is wrong with a folder of images.

    Args:
        root: any folder with images in it; splits and classes are told by its folders.
        assignment: path to "train", "valid" or "test", instead of the folders.
        progress: told of the stages of `cache.load` and `pairs.find_pairs`.
        patients: whom the images show.

    Raises:
        TumorlensError: no such folder, no image in it, or `patients` knows none of them.
    """
    folder = _listed(root)
    paths = [file.path for file in folder.files]
    cached = cache.load(root, paths, THUMBNAIL, progress)
    keep = np.array([path not in cached.faults for path in paths], dtype=bool)
    whole = bool(keep.all())
    files = [file for file, kept in zip(folder.files, keep, strict=True) if kept]
    labels = np.array([file.label for file in files], dtype=np.str_)
    splits = np.array(
        [file.split if assignment is None else assignment.get(file.path, "") for file in files],
        dtype=np.str_,
    )
    images = cached.images if whole else cached.images[keep]
    pairs = find_pairs(images, cached.fingerprints[keep], cached.digests[keep], splits, progress)
    groups = pairs.groups(len(files))
    facts = [fact for fact in cached.facts if fact is not None]
    return Audit(
        root=root,
        layout=folder.layout,
        paths=tuple(file.path for file in files),
        labels=labels,
        splits=splits,
        images=images,
        pairs=pairs,
        groups=groups,
        shortcuts=_shortcuts(images, facts, labels, groups),
        unreadable=dict(cached.faults),
        other_faults=folder.faults,
        note=cached.note,
        patients=patients.of([file.path for file in files], cached.fingerprints[keep])
        if patients
        else None,
    )


def _shortcuts(
    images: npt.NDArray[np.uint8],
    facts: list[ImageFacts],
    labels: npt.NDArray[np.str_],
    groups: Indices,
) -> tuple[Shortcut, ...]:
    named = np.flatnonzero(labels != "")
    classes, indices = np.unique(labels[named], return_inverse=True)
    if len(classes) < 2 or len(named) < _FEWEST_FOR_SHORTCUTS:
        return ()
    return shortcuts(
        images[named] if len(named) < len(images) else images,
        [facts[index] for index in named],
        indices.astype(np.int64),
        classes.tolist(),
        groups[named],
    )


def _listed(root: Path) -> DataFolder:
    """Every image below `root`: with class and split where the layout is understood."""
    if not root.is_dir():
        return scan(root)  # which says what is wrong
    try:
        folder = scan(root)
    except TumorlensError:  # any folder will do here, so its layout is no fault
        folder = DataFolder(root, (), (), "")
    listed = {file.path for file in folder.files}
    strays = [path for path in _walk(root) if path not in listed]
    if folder.files and not strays:
        return folder
    if folder.files:
        outside = (
            f"{root}: {len(strays)} images outside the class folders, such as {strays[0]}, were "
            "not looked at; name their folder to audit them."
        )
        return replace(folder, faults=(*folder.faults, outside))
    if not strays:
        raise TumorlensError(
            f"{root}: no image in it or below it; expected PNG, JPEG, TIFF, BMP or WebP files."
        )
    files = tuple(ImageFile(path, _class_of(path), "") for path in strays)
    return replace(folder, files=files)


def _walk(root: Path) -> Iterator[str]:
    for parent, names, leaves in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        inside = Path(parent).relative_to(root).as_posix()
        for leaf in sorted(leaves):
            if not leaf.startswith(".") and leaf.lower().endswith(_SUFFIXES):
                yield leaf if inside == "." else f"{inside}/{leaf}"


def _class_of(path: str) -> str:
    """The innermost folder's name, where the layout says nothing better."""
    folders = path.split("/")[:-1]
    return canonical_class(folders[-1]) if folders else ""
