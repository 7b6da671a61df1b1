"""Do the places that a map marks carry the answer? Deletion and insertion (Petsiuk et al. 2018).

Deletion takes pixels out of the picture, the most relevant first, and puts the training pictures'
mean there: the sooner the class's probability falls, the smaller the area below the curve, the
better the map. Insertion brings them back into a blurred picture: the larger the area, the better.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from tumorlens.checkpoint.file import Preprocessing
from tumorlens.data.readers import resize
from tumorlens.explain.map_metrics import centre_map, head
from tumorlens.explain.measures import frame
from tumorlens.explain.overlay import on_picture
from tumorlens.progress import Progress, silent

Floats = npt.NDArray[np.float64]

STEPS = 20
ORDERS = ("map", "random", "centre")
GAMES = ("deletion", "insertion")
# Standard deviation of the blurred picture, in parts of its side: wide enough to hide a tumor.
BLUR = 1 / 16


@dataclass(frozen=True)
class Faithfulness:
    """Curves of N images.

    Attributes:
        at: (T,) share of the pixels taken out or put back, 0..1.
        curves: game to order to (N, T) probability of the target.
    """

    at: Floats
    curves: Mapping[str, Mapping[str, Floats]]

    def area(self, game: str, order: str) -> Floats:
        """(N,) area below each image's curve, 0..1."""
        values = self.curves[game][order]
        return np.asarray(np.trapezoid(values, self.at, axis=1), dtype=np.float64)


def faithfulness(
    network: nn.Module,
    preprocessing: Preprocessing,
    images: npt.NDArray[np.uint8],
    maps: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    *,
    map_size: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Faithfulness:
    """Play deletion and insertion with three orders of the pixels.

    `map` goes by the map; `random` by random values in cells as coarse as the map's, so that only
    the places differ and not the grain; `centre` outward from the middle of the head.

    Args:
        network: (N, C, S, S) to (N, K), in evaluation mode.
        preprocessing: from picture to input; its mean, normalised, is 0.
        images: (N, S, S) uint8, at the network's own size.
        maps: (N, h, w) over the same squares.
        targets: (N,) logit columns.
        map_size: side of the squares that the maps were made for, pixels; None: S.
        seed: of the random orders.
        device: where to compute; None: the CPU.
        progress: told of "faithfulness".
    """
    where = device or torch.device("cpu")
    network = network.to(where)
    rng = np.random.default_rng(seed)
    at = np.linspace(0, 1, STEPS + 1)
    curves = {game: {order: np.zeros((len(images), len(at))) for order in ORDERS} for game in GAMES}
    for index, image in enumerate(images):
        size = image.shape[0]
        blurred = ndimage.gaussian_filter(image.astype(np.float64), BLUR * size)
        picture = _input(preprocessing, image, where)
        start = {
            "deletion": (picture, torch.zeros_like(picture)),
            "insertion": (_input(preprocessing, blurred, where), picture),
        }
        noise = rng.random(maps.shape[1:]).astype(np.float32)
        square = map_size or size
        orders = {
            "map": on_picture(maps[index], size, size, square),
            "random": on_picture(noise, size, size, square),
            "centre": _centre(image),
        }
        for order, relevance in orders.items():
            rank = torch.from_numpy(_rank(relevance, rng)).to(where)
            for game, (before, after) in start.items():
                changed = rank[None] < torch.from_numpy(at).to(where)[:, None, None] * rank.numel()
                mixed = torch.where(changed[:, None], after, before)
                curves[game][order][index] = _probability(network, mixed, int(targets[index]))
        progress("faithfulness", index + 1, len(images))
    return Faithfulness(at, curves)


def _input(
    preprocessing: Preprocessing, grey: npt.NDArray[np.generic], device: torch.device
) -> Tensor:
    """(S, S) 0..255 to (C, S, S) normalised."""
    pictures = torch.from_numpy(grey.astype(np.float32)).to(device)[None]
    return preprocessing.normalise(pictures / 255)[0]


def _centre(image: npt.NDArray[np.uint8]) -> Floats:
    """The centre baseline at the network's own size."""
    size = image.shape[0]
    height, width = frame(size, size)
    return centre_map(head(resize(image, height, width)))[
        np.ix_(*(np.arange(size) * side // size for side in (height, width)))
    ]


def _rank(relevance: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(S, S) place of each pixel in the order, the most relevant 0; equal ones in random order."""
    order = np.lexsort((rng.random(relevance.size), -relevance.ravel()))
    rank = np.empty(relevance.size, dtype=np.int64)
    rank[order] = np.arange(relevance.size)
    return rank.reshape(relevance.shape)


@torch.inference_mode()
def _probability(network: nn.Module, inputs: Tensor, target: int) -> Floats:
    logits = network(inputs.contiguous(memory_format=torch.channels_last))
    found: Floats = torch.softmax(logits.double(), dim=1)[:, target].cpu().numpy()
    return found
