"""A data folder made ready: checked as a whole, decoded, every image in one split.

Which images choose the epoch and which are scored, by layout:

- `train valid [test]`: as the folders say;
- `train test` (the public download): a stratified tenth of the training images, no duplicate group
  split, becomes the validation split;
- any layout with an assignment (a splits file, or the record in a checkpoint): as that says.

Where the validation images train too, none choose the epoch.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tumorlens.data import cache
from tumorlens.data.duplicates import duplicate_groups
from tumorlens.data.folder import SPLIT_NAMES, ImageFile, refuse
from tumorlens.data.patients import Patients, check_overlap, units
from tumorlens.data.readers import ImageFacts
from tumorlens.data.splits import SplitFolder, hold_out
from tumorlens.errors import TumorlensError
from tumorlens.labels import same_class
from tumorlens.progress import Progress, silent

VALID_FRACTION = 0.1


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class Dataset:
    """N images, their labels and splits."""

    root: Path  # the data folder
    layout: str  # as in `folder.DataFolder`
    protocol: str  # in words, where the validation images come from
    classes: tuple[str, ...]  # name of each label
    paths: tuple[str, ...]  # (N,) relative to `root`
    images: npt.NDArray[np.uint8]  # (N, size, size) uint8
    labels: npt.NDArray[np.int64]  # (N,) int64 indices into `classes`
    splits: npt.NDArray[np.str_]  # (N,) "train", "valid" or "test"
    # fingerprints, digests: (N, 32) and (N, 16) uint8, see `cache.CachedImages`
    fingerprints: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]
    skipped: dict[str, str]  # path to the reason it was left out
    note: str  # what the user should know about the cache; empty if nothing
    patients: Patients | None = None  # whom the images show; None: not known
    # a sentence where patients are in more than one split and that was allowed; else ""
    overlap: str = ""
    unused: str = ""  # what of the folder is not used and why, in sentences; empty if all is
    facts: tuple[ImageFacts, ...] = ()  # what each file says of itself

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """Which images are in `split`."""
        return np.flatnonzero(self.splits == split)

    def fingerprint(self) -> str:
        """Hex digest of every path, label, split and file content: what data exactly this was."""
        whole = hashlib.blake2b(digest_size=16)
        for path, label, split, digest in zip(
            self.paths, self.labels, self.splits, self.digests, strict=True
        ):
            whole.update(f"{path}\0{self.classes[label]}\0{split}\0".encode() + digest.tobytes())
        return whole.hexdigest()

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """(N,) near-duplicate group of each image."""
        return duplicate_groups(self.fingerprints)

    @cached_property
    def units(self) -> npt.NDArray[np.int64]:
        """(N,) what is resampled as a whole: patients where known, else near-duplicate groups."""
        return units(self.groups, self.patients)

    def only(self, keep: npt.NDArray[np.int64]) -> "Dataset":
        """Some of its images, by index."""
        return replace(
            self,
            paths=tuple(self.paths[index] for index in keep),
            images=self.images[keep],
            labels=self.labels[keep],
            splits=self.splits[keep],
            fingerprints=self.fingerprints[keep],
            digests=self.digests[keep],
            patients=self.patients.only(keep) if self.patients else None,
            facts=tuple(self.facts[index] for index in keep) if self.facts else (),
        )

    def paths_of(self, split: str) -> tuple[str, ...]:
        """Paths of the images in `split`."""
        return tuple(self.paths[index] for index in self.indices(split))


def load(
    source: SplitFolder,
    size: int,
    files: Sequence[ImageFile] | None = None,
    *,
    classes: tuple[str, ...] = (),
    progress: Progress = silent,
) -> Dataset:
    """Decode a folder's images; what cannot be decoded is in `skipped`, with the reason.

    Args:
        source: the folder.
        size: side of the square, pixels.
        files: some of its files; None: all. One without a split is in the split "all".
        classes: those of the labels; the folder's own if there are none.
        progress: see `cache.load`.
    """
    folder, classes = source.folder, classes or source.folder.classes
    files = folder.files if files is None else files
    cached = cache.load(folder.root, [file.path for file in files], size, progress)
    keep = np.array([file.path not in cached.faults for file in files], dtype=bool)
    kept = [file for file, there in zip(files, keep, strict=True) if there]
    paths = tuple(file.path for file in kept)
    hashes = cached.fingerprints[keep]
    return Dataset(
        root=folder.root,
        layout=folder.layout,
        protocol="as the splits file says" if source.source else "as the folders say",
        classes=classes,
        paths=paths,
        images=cached.images if keep.all() else cached.images[keep],
        labels=np.array([classes.index(file.label) for file in kept], dtype=np.int64),
        splits=np.array([file.split or "all" for file in kept], dtype="<U5"),  # holds any split
        fingerprints=hashes,
        digests=cached.digests[keep],
        skipped=dict(cached.faults),
        note=cached.note,
        patients=source.patients.of(paths, hashes) if source.patients else None,
        unused=" ".join(filter(None, (folder.unused_sentence(), source.note))),
        facts=tuple(fact for fact in cached.facts if fact is not None),
    )


def load_for_training(
    source: SplitFolder,
    size: int,
    *,
    on_bad_image: Literal["stop", "skip"] = "stop",
    seed: int = 0,
    train_on_valid: bool = False,
    allow_patient_overlap: bool = False,
    progress: Progress = silent,
) -> Dataset:
    """Check and decode the whole folder, and give every image its split.

    Args:
        source: the data folder, with its splits and patients.
        size: side of the square, pixels.
        on_bad_image: "stop" lists every fault and raises; "skip" leaves undecodable files out.
        seed: decides which training images are set aside where the folder has no validation split.
        train_on_valid: set none aside, and let the validation images train too.
        allow_patient_overlap: say it instead of refusing, where a patient is in several splits.
        progress: see `cache.load`.

    Raises:
        TumorlensError: the folder's faults, all of them at once; nothing left to score; a patient
            in more than one split.
    """
    root, there = source.folder.root, source.folder.layout.split()
    if not source.source:
        _refuse_untrainable(root, there)
    if train_on_valid and "test" not in there:
        raise TumorlensError(
            f"--train_on_valid: {root} has no test split, so that nothing would be left to score; "
            "leave the flag out, or name a --splits file with test images."
        )
    if train_on_valid:
        merged = {file.path: file.split.replace("valid", "train") for file in source.folder.files}
        source = replace(source, folder=source.folder.with_splits(merged))
    data = load(source, size, progress=progress)
    data = _refuse_faults(source, data, on_bad_image)
    if train_on_valid:
        protocol = f"{data.protocol}, but they train too and the last epoch is kept"
        data = replace(data, protocol=protocol)
    elif "valid" not in there:
        data = _with_validation(data, seed)
    if data.patients is None:
        return data
    overlap = check_overlap(
        data.patients.names, data.splits, data.patients.source, allowed=allow_patient_overlap
    )
    return replace(data, overlap=overlap)


def _refuse_faults(
    source: SplitFolder, data: Dataset, on_bad_image: Literal["stop", "skip"]
) -> Dataset:
    """Raise with every fault of folder, splits and images; the same with what is left out said."""
    faults = class_faults(data)
    if on_bad_image == "stop":
        faults = [
            *source.folder.faults,
            *source.missing_faults,
            *data.skipped.values(),
            *faults,
        ]
        hint = "; or leave undecodable files out with --on_bad_image skip" if data.skipped else ""
    else:
        hint = f" after leaving out {len(data.skipped)} undecodable"
        if source.missing:
            gone = f"{source.source} lists {len(source.missing_faults)} files that are not there."
            data = replace(data, unused=f"{data.unused} {gone}".strip())
    refuse(source.folder.root, faults, hint)
    return data


def _refuse_untrainable(root: Path, there: Sequence[str]) -> None:
    """Raise where folders alone do not say what trains and what is scored."""
    if "train" in there and len(there) > 1:
        return
    if there != ["classes"]:
        raise TumorlensError(
            f"--data_dir {root}: found {'/, '.join(there)}/ alone; expected train/ valid/ [test/] "
            "or Training/ Testing/, each with class folders."
        )
    names = [child.name.lower() for child in root.resolve().parent.iterdir() if child.is_dir()]
    beside = {SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES}
    if root.name.lower() in SPLIT_NAMES and "train" in beside and len(beside) > 1:
        raise TumorlensError(
            f"--data_dir {root}: is one split of {root.parent}; give --data_dir {root.parent}, "
            "which has the validation or test images too."
        )
    raise TumorlensError(
        f"--data_dir {root}: class folders without train/ and valid/ around them; make a split "
        f"with `tumorlens split {shlex.quote(str(root))} --out splits.csv` and give it as --splits "
        "splits.csv."
    )


def class_faults(data: Dataset) -> list[str]:
    """What is wrong with the classes of each split that there is: missing, or one image only."""
    faults, root, classes = [], data.root, data.classes
    if len(classes) < 2:
        faults.append(f"{root}: only the class {', '.join(classes)}; a classifier needs two.")
    for split in data.layout.split():
        counts = Counter(classes[label] for label in data.labels[data.splits == split])
        found = ", ".join(f"{counts[name]} of {name}" for name in sorted(counts)) or "none"
        for label in classes:
            if counts[label] == 0:
                faults.append(f"{root}: class {label} has no image in {split}; found {found}.")
            elif split == "train" and counts[label] == 1:
                faults.append(f"{root}: class {label} has one image only in train; add more.")
    return faults


def _with_validation(data: Dataset, seed: int) -> Dataset:
    """The same with a tenth of the training images set aside to choose the epoch."""
    train = data.indices("train")
    shown = data.patients.only(train) if data.patients else None
    groups = units(duplicate_groups(data.fingerprints[train]), shown)
    held = hold_out(data.labels[train], groups, VALID_FRACTION, seed)
    splits = data.splits.copy()
    splits[train[held]] = "valid"
    together = "near-duplicates" if shown is None else "patients and near-duplicates"
    protocol = (
        f"a stratified {VALID_FRACTION:.0%} of the training images chooses the epoch, set "
        f"aside with seed {seed}; {together} stay together"
    )
    return replace(data, splits=splits, protocol=protocol)


def load_for_scoring(
    source: SplitFolder,
    size: int,
    classes: tuple[str, ...],
    *,
    split: str = "auto",
    on_bad_image: Literal["stop", "skip"] = "stop",
    progress: Progress = silent,
) -> Dataset:
    """Check and decode the images of one split.

    Args:
        source: the data folder, with its splits and patients.
        size: side of the square, pixels.
        classes: those that the network knows; labels become indices into them.
        split: "train", "valid", "test", or "auto": test where there is one, else valid, else, where
            the folder has no splits at all, every image ("all").
        on_bad_image: as for `load_for_training`.
        progress: see `cache.load`.

    Raises:
        TumorlensError: the folder's faults, all of them at once.
    """
    folder = source.folder
    root, there = folder.root, {file.split for file in folder.files}
    if split == "auto":
        split = next((name for name in ("test", "valid") if name in there), "")
        if not split and there != {""}:
            raise TumorlensError(
                f"--data_dir {root}: has training images alone; name a folder with test/ or "
                "valid/, or score them all the same with --split train."
            )
    elif split not in there:
        raise TumorlensError(
            f"--split {split}: {root} has no such split, only "
            f"{', '.join(sorted(there - {''})) or 'class folders'}."
        )
    files = [
        replace(file, label=same_class(file.label, classes)) for file in folder.of_split(split)
    ]
    unknown = sorted({file.label for file in files} - set(classes))
    if unknown:
        raise TumorlensError(
            f"--data_dir {root}: the checkpoint does not know the class {', '.join(unknown)}; it "
            f"was trained on {', '.join(classes)}."
        )
    data = load(source, size, files, classes=classes, progress=progress)
    faults = [*source.missing.get(split, ())]
    if on_bad_image == "stop":
        faults += data.skipped.values()
    refuse(root, faults, "; or score the others with --on_bad_image skip" if data.skipped else "")
    if not data.paths:
        raise TumorlensError(f"--data_dir {root}: no image left to score.")
    return data
