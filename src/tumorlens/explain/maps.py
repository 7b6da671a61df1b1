"""The maps of many images, batch by batch."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint.file import Checkpoint, Preprocessing
from tumorlens.checkpoint.session import describe, images_of, input_batches
from tumorlens.data.dataset import Dataset, load_for_scoring
from tumorlens.data.folder import scan
from tumorlens.explain import gradcam
from tumorlens.progress import Progress, silent
from tumorlens.settings import MAP_LAYER, MAP_METHOD, MapMethod

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """How maps are made.

    Attributes:
        layer: module whose output is explained, see `gradcam.grad_cam`.
        method: see `gradcam.relevance`.
        size: side of the square that the network is shown for its map, pixels; None: the size it
            was trained at. A larger one gives finer maps; what the network answers is always told
            at its own size.
    """

    layer: str = MAP_LAYER
    method: MapMethod = MAP_METHOD
    size: int | None = None

    def size_for(self, checkpoint: Checkpoint) -> int:
        """Side of the network's input for its map, pixels."""
        return self.size or checkpoint.preprocessing.image_size


def maps_of(
    network: nn.Module,
    preprocessing: Preprocessing,
    images: npt.NDArray[np.uint8],
    targets: npt.NDArray[np.int64],
    way: Way,
    *,
    device: torch.device,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Maps:
    """Explain each image for its own target.

    Args:
        network: (N, C, S, S) to (N, K).
        preprocessing: from picture to input.
        images: (N, S, S) uint8, S being the size of `way`.
        targets: (N,) logit columns.
        way: layer and method.
        device: where to compute; the network is moved there.
        batch_size: images at once.
        progress: told of the stage "explaining".

    Returns:
        (N, h, w) float32 >= 0.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = []
    for inputs, before in input_batches(
        preprocessing, images, device=device, batch_size=batch_size
    ):
        columns = torch.from_numpy(targets[before : before + len(inputs)]).to(device)
        maps = gradcam.grad_cam(network, inputs, columns, way.layer, way.method)
        found.append(maps.float().cpu().numpy())
        progress("explaining", before + len(inputs), len(images))
    return np.concatenate(found)


@dataclass(frozen=True)
class Part:
    """One part of a data folder, decoded for a checkpoint.

    Attributes:
        data: at the network's own size.
        large: (N, S, S) uint8 at the size of the maps; the same array where that is the own size.
        part: "train", "valid", "test" or "all".
    """

    data: Dataset
    large: npt.NDArray[np.uint8]
    part: str

    def only(self, keep: npt.NDArray[np.int64]) -> "Part":
        """Some of its images."""
        data = replace(
            self.data,
            paths=tuple(self.data.paths[index] for index in keep),
            images=self.data.images[keep],
            labels=self.data.labels[keep],
            parts=self.data.parts[keep],
            fingerprints=self.data.fingerprints[keep],
            digests=self.data.digests[keep],
            patients=self.data.patients.only(keep) if self.data.patients else None,
        )
        return Part(data, self.large[keep], self.part)


def load_part(
    checkpoint: Checkpoint,
    way: Way,
    *,
    data_dir: Path | None = None,
    split: str = "auto",
    progress: Progress = silent,
) -> Part:
    """Decode a part of a checkpoint's data folder, at both sizes; undecodable files are left out.

    Raises:
        TumorlensError: see `evaluate.images_of` and `dataset.load_for_scoring`.
    """
    root, assignment = images_of(checkpoint, data_dir, None, None)
    own, size = checkpoint.preprocessing.image_size, way.size_for(checkpoint)
    loaded = [
        load_for_scoring(
            root,
            side,
            checkpoint.classes,
            part=split,
            assignment=assignment,
            on_bad_image="skip",
            patients=checkpoint.data.patients if checkpoint.data else None,
            progress=progress,
        )
        for side in dict.fromkeys((own, size))
    ]
    return Part(loaded[0], loaded[-1].images, str(loaded[0].parts[0]))


def parts_there(checkpoint: Checkpoint, data_dir: Path | None = None) -> set[str]:
    """The parts that a checkpoint's data folder has."""
    root, assignment = images_of(checkpoint, data_dir, None, None)
    if assignment is not None:
        return set(assignment.values())
    return {file.split for file in scan(root).files}


def answers(
    checkpoint: Checkpoint,
    network: nn.Module,
    part: Part,
    *,
    device: torch.device,
    batch_size: int = 32,
    progress: Progress = silent,
) -> npt.NDArray[np.float64]:
    """(N, K) logits at the network's own size."""
    return describe(
        network,  # type: ignore[arg-type]
        checkpoint.preprocessing,
        part.data.images,
        device=device,
        batch_size=batch_size,
        stage="predicting",
        progress=progress,
    )[0]
