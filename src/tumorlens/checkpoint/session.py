"""A checkpoint with its images, opened once and handed down.

Whoever scores, compares or explains a network starts here: the checkpoint is read, its images are
found and decoded, patients and near-duplicates of training are told, and the network's logits and
features are computed once and kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tumorlens.checkpoint.file import Checkpoint, DataRecord, load
from tumorlens.data import cache
from tumorlens.data.dataset import Dataset, load_for_scoring
from tumorlens.data.duplicates import near_duplicates_in
from tumorlens.data.patients import check_overlap
from tumorlens.data.splits import SplitFolder, assigned, resolve
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import ByPath
from tumorlens.models.build import logits_and_features, memory_format
from tumorlens.progress import Progress, silent
from tumorlens.uncertainty.calibration import softmax

Floats = npt.NDArray[np.float64]

_RECORD = "the checkpoint's record of its images"  # what says the splits of its own folder


@dataclass(frozen=True)
class ImageChoice:
    """Which images a checkpoint is asked about, as the flags of the same names say."""

    data_dir: Path | None = None  # None: the folder remembered from training
    split: str = "auto"  # "auto": test where there is one, else validation
    # splits, fold: a split that overrides the remembered one
    splits: Path | None = None
    fold: int | None = None
    patients: Path | None = None  # a patients table that overrides the remembered one
    # say it instead of refusing, where patients were in training
    allow_patient_overlap: bool = False
    on_bad_image: Literal["stop", "skip"] = "stop"  # "stop" or "skip"


@dataclass(frozen=True, eq=False)
class Session:
    """A checkpoint and the images of one split."""

    checkpoint: Checkpoint  # as read
    path: Path  # the file, as the user named it
    network: nn.Module  # in evaluation mode, on `device`
    data: Dataset  # N images at the network's own size
    overlap: str  # a sentence where patients of these images were in training; else ""
    device: torch.device  # where to compute
    batch_size: int = 64  # images at once
    progress: Progress = field(default=silent, repr=False)  # told of the stages of the work
    choice: ImageChoice = ImageChoice()  # which images were asked for
    # their folder with all its splits; None: it has no other split
    source: SplitFolder | None = field(default=None, repr=False)
    # the same images at other sizes, as far as they were asked for; see `images_at`
    larger: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    @property
    def split(self) -> str:
        """ "train", "valid", "test", or "all" where the folder has no splits."""
        return str(self.data.splits[0])

    @property
    def split_caveats(self) -> list[str]:
        """What the split says of metrics of its images: that they are optimistic, or memory."""
        if self.split == "train":
            return ["Memory, not skill: these are the images that the network was trained on."]
        if self.split == "valid" and self.checkpoint.trained_on_valid:
            return [
                "Memory, not skill, as far as these are its own validation images: the network was "
                "trained on those too (--train_on_valid)."
            ]
        if self.split == "valid":
            return [
                "Optimistic: these are the validation images, which selected the model. Score "
                "images that had no say in it."
            ]
        return []

    @property
    def logits(self) -> Floats:
        """(N, K) float64."""
        return self.outputs[0]

    @cached_property
    def probabilities(self) -> Floats:
        """(N, K) float64, calibrated where the checkpoint has a temperature."""
        return softmax(self.logits, self.checkpoint.temperature or 1.0)

    @cached_property
    def outputs(self) -> tuple[Floats, Floats]:
        """Logits (N, K) and features (N, D), float64."""
        return describe(
            self.network,
            self.checkpoint.preprocessing,
            self.data.images,
            device=self.device,
            batch_size=self.batch_size,
            stage="predicting",
            progress=self.progress,
        )

    @cached_property
    def duplicates(self) -> npt.NDArray[np.str_] | None:
        """(N,) near-duplicates of training images: "", "exact" or "near"; None: not known."""
        record = self.checkpoint.data
        if record is None or self.split == "train":
            return None
        return near_duplicates_of_training(record, self.data)

    def images_at(self, size: int) -> npt.NDArray[np.uint8]:
        """(N, size, size) uint8: the same images at another size."""
        if size == self.checkpoint.preprocessing.image_size:
            return self.data.images
        if size not in self.larger:
            found = cache.load(self.data.root, self.data.paths, size, self.progress)
            self.larger[size] = found.images
        return self.larger[size]

    def only(self, keep: npt.NDArray[np.int64]) -> "Session":
        """Some of its images."""
        larger = {size: images[keep] for size, images in self.larger.items()}
        return replace(self, data=self.data.only(keep), larger=larger)

    def of_split(self, split: str) -> "Session | None":
        """The same network with another split of the same folder; None: it has no such split."""
        if self.source is None or split not in self.source.folder.layout.split():
            return None
        choice = replace(self.choice, split=split)
        data, overlap = _decoded(self.checkpoint, self.source, choice, self.progress)
        return replace(self, data=data, overlap=overlap, choice=choice, larger={})


def open_session(
    checkpoint: Path | Checkpoint,
    images: ImageChoice,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Progress = silent,
    network: nn.Module | None = None,
) -> Session:
    """Read a checkpoint and decode the images that it is asked about.

    Args:
        checkpoint: the file, or what was read from it.
        network: the checkpoint's, where it is built already.

    Raises:
        TumorlensError: faults of the checkpoint, the folder, the split or the patients table.
    """
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    path = checkpoint if isinstance(checkpoint, Path) else checkpoint.path
    found = images_of(loaded, images, progress)
    data, overlap = _decoded(loaded, found, images, progress)
    return Session(
        checkpoint=loaded,
        path=path or Path(loaded.model_name),
        network=(network or loaded.network()).to(device),
        data=data,
        overlap=overlap,
        device=device,
        batch_size=batch_size,
        progress=progress,
        choice=images,
        source=found,
    )


def _decoded(
    loaded: Checkpoint, source: SplitFolder, images: ImageChoice, progress: Progress
) -> tuple[Dataset, str]:
    """The images of a split, and what is to be said of their patients."""
    data = load_for_scoring(
        source,
        loaded.preprocessing.image_size,
        loaded.classes,
        split=images.split,
        on_bad_image=images.on_bad_image,
        progress=progress,
    )
    return data, _overlap(loaded, data, source, images)


def images_of(loaded: Checkpoint, images: ImageChoice, progress: Progress = silent) -> SplitFolder:
    """The data folder to use with a checkpoint, its splits and patients.

    The user's own choice counts. Else the folder, the split and the patients of training do, as the
    checkpoint remembers them: the split where the folder has the same files (it may have moved),
    the patients where it has some of theirs.

    Args:
        images: `data_dir`, `splits`, `fold` and `patients` count.

    Raises:
        TumorlensError: no folder is known, the remembered one is gone, or faults of the folder or a
            table.
    """
    record = loaded.data
    root = images.data_dir or loaded.data_dir
    if root is None:
        raise TumorlensError(
            f"--checkpoint {loaded.path}: remembers no data folder; name one with --data_dir."
        )
    if not root.is_dir() and images.data_dir is None:
        raise TumorlensError(
            f"--checkpoint {loaded.path}: the data folder that it remembers, {root}, is gone; name "
            "its new place with --data_dir."
        )
    size = loaded.preprocessing.image_size
    found = resolve(root, images.splits, images.fold, images.patients, size=size, progress=progress)
    if record is None:
        return found
    there = ByPath({file.path: "" for file in found.folder.files})
    if found.patients is None and record.patients is not None:
        known = any(path in there for path in record.patients.rows)
        found = replace(found, patients=record.patients if known else None)
    held_back = [*record.test, *record.valid]
    if images.splits is not None or (
        images.data_dir is not None and not all(path in there for path in held_back)
    ):
        return found
    remembered = {"train": record.train, "valid": record.valid, "test": record.test}
    by_path = {path: split for split, paths in remembered.items() for path in paths}
    return assigned(found.folder, by_path, _RECORD, found.patients, record.skipped)


def near_duplicates_of_training(record: DataRecord, data: Dataset) -> npt.NDArray[np.str_]:
    """(N,) "exact", "near" or "": which images are near-duplicates of the training images.

    From what the checkpoint keeps of these: the digest of each file's bytes, and a perceptual hash.
    """
    near = near_duplicates_in(record.fingerprints, data.fingerprints).found
    known = {digest.tobytes() for digest in record.digests}
    exact = np.array([digest.tobytes() in known for digest in data.digests], dtype=bool)
    return np.where(exact, "exact", np.where(near, "near", ""))


def _overlap(loaded: Checkpoint, data: Dataset, source: SplitFolder, images: ImageChoice) -> str:
    """A sentence where patients of the images were in training and that is allowed; else ""."""
    record, table, split = loaded.data, source.patients, str(data.splits[0])
    if record is None:
        return ""
    # What was allowed when the network was trained is told of its own splits, not asked for again.
    told = record.overlap if source.source == _RECORD else ""
    if data.patients is None or table is None or split == "train":
        return told
    try:
        trained = table.of(record.train, record.fingerprints).names
    except TumorlensError:  # a table of other people's images knows none of the training images
        return told
    names = np.concatenate([trained, data.patients.names])
    splits = np.array(["train"] * len(trained) + [split] * len(data.paths))
    allowed = images.allow_patient_overlap or bool(told)
    return check_overlap(names, splits, data.patients.source, allowed=allowed)


def input_batches(
    network: nn.Module,
    preprocessing: Callable[[Tensor], Tensor],
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64] | None = None,
    *,
    device: torch.device,
    batch_size: int,
) -> Iterator[tuple[Tensor, int]]:
    """Images as a network's inputs, batch by batch.

    Yields:
        (n, C, S, S) on `device`, and how many images came before it.
    """
    count = len(images) if indices is None else len(indices)
    for start in range(0, count, batch_size):
        chosen = slice(start, start + batch_size)
        some = images[chosen] if indices is None else images[indices[chosen]]
        batch = torch.from_numpy(np.array(some)).to(device)
        yield preprocessing(batch).contiguous(memory_format=memory_format(network)), start


def describe(
    network: nn.Module,
    preprocessing: Callable[[Tensor], Tensor],
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64] | None = None,
    *,
    device: torch.device,
    batch_size: int = 64,
    stage: str = "describing",
    progress: Progress = silent,
) -> tuple[Floats, Floats]:
    """`logits_and_features` of many images, by a network in evaluation mode.

    Args:
        network: moved to `device`.
        preprocessing: from (n, S, S) uint8 to (n, C, S, S).
        images: (M, S, S) uint8.
        indices: (N,) which of them, in this order; None: all.

    Returns:
        Logits (N, K) and features (N, D), float64; D is 0 where the network has none.
    """
    network = network.to(device, memory_format=memory_format(network))  # type: ignore[call-overload]
    total = len(images) if indices is None else len(indices)
    logits, features = [], []
    with torch.inference_mode():
        for inputs, before in input_batches(
            network, preprocessing, images, indices, device=device, batch_size=batch_size
        ):
            outputs, of_them = logits_and_features(network, inputs)
            # To the CPU first: not every device has 64-bit numbers.
            logits.append(outputs.cpu().double().numpy())
            features.append(of_them.cpu().double().numpy())
            progress(stage, before + len(inputs), total)
    return np.concatenate(logits), np.concatenate(features)
