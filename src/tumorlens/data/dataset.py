"""A data folder made ready: checked as a whole, decoded, every image in one part.

The three ways to choose the epoch and the test images, by layout:

- `train valid [test]`: as the folders say;
- `train test` (the public download): a stratified tenth of the training images, no duplicate group
  split, becomes the validation part;
- any layout with an assignment (a splits file, or the record in a checkpoint): as that says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tumorlens.data import cache
from tumorlens.data.copies import duplicate_groups
from tumorlens.data.folder import DataFolder, class_faults, refuse, scan
from tumorlens.data.splits import hold_out
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent

VALID_FRACTION = 0.1


@dataclass(frozen=True)
class Dataset:
    """N images, their labels and parts.

    Attributes:
        root: the data folder.
        layout: as in `folder.DataFolder`.
        protocol: in words, where the validation images come from.
        classes: name of each label.
        paths: (N,) relative to `root`.
        images: (N, size, size) uint8.
        labels: (N,) int64 indices into `classes`.
        parts: (N,) "train", "valid" or "test".
        fingerprints, digests: (N, 32) and (N, 16) uint8, see `cache.CachedImages`.
        skipped: path to the reason it was left out.
        note: what the user should know about the cache; empty if nothing.
    """

    root: Path
    layout: str
    protocol: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    parts: npt.NDArray[np.str_]
    fingerprints: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]
    skipped: dict[str, str]
    note: str

    def indices(self, part: str) -> npt.NDArray[np.int64]:
        """Which images are in `part`."""
        return np.flatnonzero(self.parts == part)

    def paths_of(self, part: str) -> tuple[str, ...]:
        """Paths of the images in `part`."""
        return tuple(self.paths[index] for index in self.indices(part))


def load_for_training(
    root: Path,
    size: int,
    *,
    assignment: Mapping[str, str] | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
    seed: int = 0,
    progress: Progress = silent,
) -> Dataset:
    """Check and decode the whole folder, and give every image its part.

    Args:
        root: the data folder.
        size: side of the square, pixels.
        assignment: path to "train", "valid" or "test"; files that it lacks are not used.
        on_bad_image: "stop" lists every fault and raises; "skip" leaves undecodable files out.
        seed: decides which training images are set aside where the folder has no validation part.
        progress: see `cache.load`.

    Raises:
        TumorlensError: the folder's faults, all of them at once.
    """
    folder = scan(root)
    if assignment is not None:
        folder = _assigned(folder, assignment)
    elif folder.layout == "classes":
        raise TumorlensError(
            f"--data_dir {root}: class folders without train/ and valid/ around them; make a split "
            f"with `tumorlens split {root} --out splits.csv` and give it as --splits splits.csv."
        )
    cached = cache.load(root, [file.path for file in folder.files], size, progress)
    skipped = dict(cached.faults)
    whole = folder.without(skipped)
    needed = [split for split in ("train", "valid", "test") if split in folder.layout.split()]
    faults = class_faults(whole, needed)
    if on_bad_image == "stop":
        faults = [*folder.faults, *cached.faults.values(), *faults]
        hint = "; put them right, or leave undecodable files out with --on_bad_image skip"
    else:
        hint = f" after leaving out {len(skipped)} undecodable"
    refuse(root, faults, hint)
    keep = np.array([file.path not in skipped for file in folder.files])
    labels = np.array([folder.classes.index(file.label) for file in whole.files], dtype=np.int64)
    parts = np.array([file.split for file in whole.files])
    fingerprints = cached.fingerprints[keep]
    protocol = "as the splits file says" if assignment is not None else "as the folders say"
    if "valid" not in folder.layout.split():
        train = parts == "train"
        groups = duplicate_groups(fingerprints[train])
        held = hold_out(labels[train], groups, VALID_FRACTION, seed)
        parts[np.flatnonzero(train)[held]] = "valid"
        protocol = (
            f"a stratified {VALID_FRACTION:.0%} of the training images chooses the epoch, set "
            f"aside with seed {seed}; images that show the same picture stay together"
        )
    return Dataset(
        root=root,
        layout=folder.layout,
        protocol=protocol,
        classes=folder.classes,
        paths=tuple(file.path for file in whole.files),
        images=cached.images if keep.all() else cached.images[keep],
        labels=labels,
        parts=parts,
        fingerprints=fingerprints,
        digests=cached.digests[keep],
        skipped=skipped,
        note=cached.note,
    )


def _assigned(folder: DataFolder, assignment: Mapping[str, str]) -> DataFolder:
    assigned = folder.with_splits(assignment)
    if not assigned.of_split("train"):
        example = next(iter(assignment), "nothing")
        raise TumorlensError(
            f"--splits: none of its training images is in {folder.root}; it lists {example}, the "
            f"folder has {folder.files[0].path}. Paths are relative to --data_dir."
        )
    return assigned
