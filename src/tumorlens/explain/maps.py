"""The maps of a session's images, each for its true class; all of them, or those of a sample."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session, input_batches
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import estimates, primitives
from tumorlens.explain.gradcam import grad_cam
from tumorlens.explain.regions import Boxes
from tumorlens.models.build import memory_format
from tumorlens.progress import Progress, silent
from tumorlens.settings import (
    MAP_METHOD,
    METHOD_NAMES,
    GradcamSettings,
    MapMethod,
)

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """How maps are made."""

    # module whose output is explained, see `gradcam.grad_cam`; None: its default
    layer: str | None = None
    method: MapMethod = MAP_METHOD  # see `gradcam.relevance`
    # side of the square that the network is shown for its map, pixels; None: the size it was
    # trained at. A larger one gives finer maps; predictions are always those at its own size.
    size: int | None = None

    @property
    def title(self) -> str:
        """The method's name and the layer."""
        return f"{METHOD_NAMES[self.method]} at {self.layer or 'each default layer'}"

    def size_for(self, checkpoint: Checkpoint) -> int:
        """Side of the network's input for its map, pixels."""
        return self.size or checkpoint.preprocessing.image_size


def maps_of(session: Session, way: Way, progress: Progress = silent) -> Maps:
    """Explain each image for its true class.

    Returns:
        (N, h, w) float32 >= 0.
    """
    network = session.network
    network = network.to(session.device, memory_format=memory_format(network))  # type: ignore[call-overload]
    preprocessing = session.checkpoint.preprocessing
    images = session.images_at(way.size_for(session.checkpoint))
    found = []
    for inputs, before in input_batches(
        network, preprocessing, images, device=session.device, batch_size=session.batch_size
    ):
        these = slice(before, before + len(inputs))
        columns = torch.from_numpy(session.data.labels[these]).to(session.device)
        maps = grad_cam(network, inputs, columns, way.layer, way.method).float().cpu()
        found.append(preprocessing.unframed(maps, torch.from_numpy(images[these])).numpy())
        progress("explaining", before + len(inputs), len(images))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Sample:
    """Images that the checks of the maps are made on."""

    name: str  # of the network, beside another
    session: Session  # these images alone
    way: Way  # how their maps are made
    maps: Maps  # (N, h, w)
    how: str  # in words, which images they are
    # resamples, seed: of the intervals
    resamples: int
    seed: int

    @property
    def size(self) -> int:
        """Side of the squares that the maps lie over, pixels."""
        return self.way.size_for(self.session.checkpoint)

    def maps_by(self, network: nn.Module, checkpoint: Checkpoint | None = None) -> Maps:
        """Another network's maps of the images; of this checkpoint, unless another is named."""
        loaded = checkpoint or self.session.checkpoint
        return maps_of(replace(self.session, network=network, checkpoint=loaded), self.way)

    def means(self, columns: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
        """Mean of each column, (N,) values: name to value, low, high, n."""
        data = self.session.data
        whole = {"all": np.ones(len(data.paths), dtype=bool)}
        found = estimates(columns, whole, data.units(), resamples=self.resamples, seed=self.seed)
        return primitives(found)["all"]


def draw(
    name: str,
    session: Session,
    way: Way,
    settings: GradcamSettings,
    boxes: Boxes | None,
    maps: Maps | None,
) -> Sample:
    """Draw a sample; the same for each network of the same split.

    Args:
        settings: `sample`, `seed` and `resamples` count.
        boxes: where there are any, images with a box alone.

    Raises:
        TumorlensError: fewer than two images.
    """
    paths, split = session.data.paths, session.split
    candidates = np.flatnonzero([boxes is None or path in boxes for path in paths])
    which = "" if boxes is None else " with a box"
    rng = np.random.default_rng(settings.seed)
    drawn = np.sort(rng.permutation(candidates)[: settings.sample])
    if len(drawn) < 2:
        raise TumorlensError(
            f"--split {split}: {len(drawn)} image, expected two or more to measure on; name "
            "another split."
        )
    some = session.only(drawn)
    return Sample(
        name=name,
        session=some,
        way=way,
        maps=maps_of(some, way) if maps is None else maps[drawn],
        how=f"{len(drawn)} of {len(candidates)} {split} images{which}, drawn with seed "
        f"{settings.seed}; maps of the true class",
        resamples=settings.resamples,
        seed=settings.seed,
    )
