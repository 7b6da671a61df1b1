"""What an export is compared with its checkpoint on, before it is kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tumorlens.checkpoint.file import Checkpoint, load
from tumorlens.checkpoint.session import ImageChoice, describe, open_session
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent
from tumorlens.settings import ExportSettings
from tumorlens.uncertainty.calibration import softmax

if TYPE_CHECKING:
    from tumorlens.export.int8 import Cost

Squares = npt.NDArray[np.uint8]

# Images for the comparison.
COMPARED = 32


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path  # the file
    size: int  # in bytes
    precision: str  # "fp32", "fp16" or "int8"
    # how far it is from the checkpoint; in 8 bits, how far the graph in 32 bits is
    parity: "Parity"
    cost: "Cost | None" = None  # what 8 bits cost; None: not 8 bits
    # path of each image that could not be decoded to the reason; for int8 alone
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from its checkpoint."""

    images: str  # what was compared, in words
    count: int  # how many
    # logits, features, probabilities: largest absolute difference from PyTorch's; probabilities are
    # calibrated where the checkpoint has a temperature
    logits: float
    features: float
    probabilities: float


def compared(
    checkpoint: Checkpoint,
    squares: Squares,
    images: str,
    batches: Iterable[Sequence[npt.NDArray[np.floating[Any]]]],
) -> Parity:
    """How far outputs are from those of a checkpoint's network in PyTorch.

    `batches` has logits (n, K) and features (n, D) of the first n squares, (N, S, S), each.
    """
    wanted = describe(
        checkpoint.network(), checkpoint.preprocessing, squares, device=torch.device("cpu")
    )
    temperature = checkpoint.temperature or 1.0
    differences = []
    for logits, features in batches:
        own, its = (
            softmax(one[: len(logits)].astype(np.float64), temperature)
            for one in (logits, wanted[0])
        )
        pairs = ((logits, wanted[0]), (features, wanted[1]), (own, its))
        differences.append([np.abs(mine - one[: len(mine)]).max(initial=0) for mine, one in pairs])
    # NaN stays NaN.
    return Parity(images, len(squares), *(float(one) for one in np.max(differences, axis=0)))


def checkpoint_and_images(
    settings: ExportSettings, progress: Progress = silent
) -> tuple[Checkpoint, Squares, str]:
    """The checkpoint, a few validation images, (N, S, S), N at least 2, and what they are in words.

    Where none can be had and none is named, they are noise.
    """
    images = ImageChoice(
        settings.data_dir,
        "valid",
        settings.splits,
        settings.fold,
        allow_patient_overlap=True,  # nothing is scored
        on_bad_image="skip",
    )
    try:
        session = open_session(
            settings.checkpoint, images, device=torch.device("cpu"), progress=progress
        )
        loaded, squares = session.checkpoint, spread_out(session.data.images)
    except TumorlensError:
        if settings.data_dir is not None or settings.splits is not None:
            raise
        loaded, squares = load(settings.checkpoint), np.empty((0, 0, 0), dtype=np.uint8)
    if len(squares) < 2:
        return loaded, _noise(loaded.preprocessing.image_size), "images of noise"
    return loaded, squares, "validation images"


def spread_out(images: Squares) -> Squares:
    """At most `COMPARED` images, evenly from first to last: classes lie in a row."""
    places = np.linspace(0, max(len(images) - 1, 0), min(COMPARED, len(images)))
    return images[places.round().astype(np.int64)]


def _noise(side: int) -> Squares:
    """Noise of every grain, from single pixels to large patches, dark to bright."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(COMPARED):
        grain = 2 ** (number % 5)
        cells = -(-side // grain)
        noise = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
        images.append(np.kron(noise, np.ones((grain, grain), dtype=np.uint8))[:side, :side])
    return np.stack(images)
