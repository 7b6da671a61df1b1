"""A data folder made ready: checked as a whole, decoded, every image in one split.

Which images choose the epoch and which are scored, by layout:

- `train valid [test]`: as the folders say;
- `train test` (the public download): a stratified tenth of the training images, no duplicate group
  split, becomes the validation split;
- any layout with an assignment (a splits file, or the record in a checkpoint): as that says.

Where the validation images train too, none choose the epoch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tumorlens.data import cache
from tumorlens.data.duplicates import duplicate_groups
from tumorlens.data.folder import DataFolder, ImageFile, class_faults, refuse, scan, whole_of
from tumorlens.data.patients import Patients, PatientTable, check_overlap, units
from tumorlens.data.splits import hold_out
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent

VALID_FRACTION = 0.1


@dataclass(frozen=True)
class Dataset:
    """N images, their labels and splits.

    Attributes:
        root: the data folder.
        layout: as in `folder.DataFolder`.
        protocol: in words, where the validation images come from.
        classes: name of each label.
        paths: (N,) relative to `root`.
        images: (N, size, size) uint8.
        labels: (N,) int64 indices into `classes`.
        splits: (N,) "train", "valid" or "test".
        fingerprints, digests: (N, 32) and (N, 16) uint8, see `cache.CachedImages`.
        skipped: path to the reason it was left out.
        patients: whom the images show; None: not known.
        overlap: a sentence where patients are in more than one split and that was allowed; else "".
        note: what the user should know about the cache; empty if nothing.
    """

    root: Path
    layout: str
    protocol: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    splits: npt.NDArray[np.str_]
    fingerprints: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]
    skipped: dict[str, str]
    note: str
    patients: Patients | None = None
    overlap: str = ""

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

    def units(self) -> npt.NDArray[np.int64]:
        """(N,) what is resampled as a whole: patients where known, else near-duplicate groups."""
        return units(duplicate_groups(self.fingerprints), self.patients)

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
        )

    def paths_of(self, split: str) -> tuple[str, ...]:
        """Paths of the images in `split`."""
        return tuple(self.paths[index] for index in self.indices(split))


def load_for_training(
    root: Path,
    size: int,
    *,
    assignment: Mapping[str, str] | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
    seed: int = 0,
    train_on_valid: bool = False,
    patients: PatientTable | None = None,
    allow_patient_overlap: bool = False,
    progress: Progress = silent,
) -> Dataset:
    """Check and decode the whole folder, and give every image its split.

    Args:
        root: the data folder.
        size: side of the square, pixels.
        assignment: path to "train", "valid" or "test"; files that it lacks are not used.
        on_bad_image: "stop" lists every fault and raises; "skip" leaves undecodable files out.
        seed: decides which training images are set aside where the folder has no validation split.
        train_on_valid: set none aside, and let the validation images train too.
        patients: whom the images show; a patient is in one split only.
        allow_patient_overlap: say it instead of refusing, where a patient is in several.
        progress: see `cache.load`.

    Raises:
        TumorlensError: the folder's faults, all of them at once; nothing left to score; a patient
            in more than one split.
    """
    folder = scan(root)
    if assignment is not None:
        folder = _assigned(folder, assignment)
    elif folder.layout == "classes":
        parent = whole_of(root)
        if parent is not None:
            raise TumorlensError(
                f"--data_dir {root}: is one split of {parent}; give --data_dir {parent}, which has "
                "the validation or test images too."
            )
        raise TumorlensError(
            f"--data_dir {root}: class folders without train/ and valid/ around them; make a split "
            f"with `tumorlens split {root} --out splits.csv` and give it as --splits splits.csv."
        )
    if train_on_valid and "test" not in folder.layout.split():
        raise TumorlensError(
            f"--train_on_valid: {root} has no test split, so that nothing would be left to score; "
            "leave the flag out, or name a --splits file with test images."
        )
    if train_on_valid:
        folder = folder.with_splits(
            {file.path: {"valid": "train"}.get(file.split, file.split) for file in folder.files}
        )
    cached = cache.load(root, [file.path for file in folder.files], size, progress)
    skipped = dict(cached.faults)
    whole = folder.without(skipped)
    needed = ["train", *(split for split in ("valid", "test") if split in folder.layout.split())]
    faults = class_faults(whole, needed)
    if on_bad_image == "stop":
        faults = [*folder.faults, *cached.faults.values(), *faults]
        hint = "; or leave undecodable files out with --on_bad_image skip" if skipped else ""
    else:
        hint = f" after leaving out {len(skipped)} undecodable"
    refuse(root, faults, hint)
    data = _readable(
        folder, folder.files, cached, folder.classes, patients, assigned=assignment is not None
    )
    if train_on_valid:
        protocol = f"{data.protocol}, but they train too and the last epoch is kept"
        data = replace(data, protocol=protocol)
    elif "valid" not in folder.layout.split():
        data = _with_validation(data, seed)
    if data.patients is None:
        return data
    overlap = check_overlap(
        data.patients.names, data.splits, data.patients.source, allowed=allow_patient_overlap
    )
    return replace(data, overlap=overlap)


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


def _readable(
    folder: DataFolder,
    files: Sequence[ImageFile],
    cached: cache.CachedImages,
    classes: tuple[str, ...],
    patients: PatientTable | None,
    *,
    assigned: bool,
) -> Dataset:
    """The files that could be decoded; those without a split are of the split "all"."""
    kept = [file for file in files if file.path not in cached.faults]
    keep = np.array([file.path not in cached.faults for file in files], dtype=bool)
    paths = tuple(file.path for file in kept)
    return Dataset(
        root=folder.root,
        layout=folder.layout,
        protocol="as the splits file says" if assigned else "as the folders say",
        classes=classes,
        paths=paths,
        images=cached.images if keep.all() else cached.images[keep],
        labels=np.array([classes.index(file.label) for file in kept], dtype=np.int64),
        splits=np.array([file.split or "all" for file in kept], dtype="<U5"),  # holds any split
        fingerprints=cached.fingerprints[keep],
        digests=cached.digests[keep],
        skipped=dict(cached.faults),
        note=cached.note,
        patients=patients.of(paths, cached.fingerprints[keep]) if patients else None,
    )


def _assigned(folder: DataFolder, assignment: Mapping[str, str]) -> DataFolder:
    assigned = folder.with_splits(assignment)
    if not assigned.files:
        example = next(iter(assignment), "nothing")
        raise TumorlensError(
            f"--splits: none of its images is in {folder.root}; it lists {example}, the "
            f"folder has {folder.files[0].path}. Paths are relative to --data_dir."
        )
    return assigned


def load_for_scoring(
    root: Path,
    size: int,
    classes: tuple[str, ...],
    *,
    split: str = "auto",
    assignment: Mapping[str, str] | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
    patients: PatientTable | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Check and decode the images of one split.

    Args:
        root: the data folder.
        size: side of the square, pixels.
        classes: those that the network knows; labels become indices into them.
        split: "train", "valid", "test", or "auto": test where there is one, else valid, else, where
            the folder has no splits at all, every image ("all").
        assignment: path to split; None: as the folders say.
        on_bad_image: as for `load_for_training`.
        patients: whom the images show.
        progress: see `cache.load`.

    Raises:
        TumorlensError: the folder's faults, all of them at once.
    """
    folder = scan(root)
    if assignment is not None:
        folder = _assigned(folder, assignment)
    there = {file.split for file in folder.files}
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
    files = folder.of_split(split)
    strangers = sorted({file.label for file in files} - set(classes))
    if strangers:
        raise TumorlensError(
            f"--data_dir {root}: the checkpoint does not know the class {', '.join(strangers)}; it "
            f"was trained on {', '.join(classes)}."
        )
    wanted = {path for path, name in (assignment or {}).items() if name == split}
    missing = sorted(wanted - {file.path for file in files})
    cached = cache.load(root, [file.path for file in files], size, progress)
    faults = [f"{root / path}: listed, but there is no such file." for path in missing]
    if on_bad_image == "stop":
        faults += cached.faults.values()
    refuse(root, faults, "; or score the others with --on_bad_image skip" if cached.faults else "")
    if len(cached.faults) == len(files):
        raise TumorlensError(f"--data_dir {root}: no image left to score.")
    return _readable(folder, files, cached, classes, patients, assigned=assignment is not None)
