"""Do the places that a map marks carry the answer? Deletion and insertion (Petsiuk et al. 2018).

Deletion takes pixels out of the image, the most relevant first, and puts the training images'
mean there: the sooner the class's probability falls, the smaller the area below the curve, the
better the map. Insertion brings them back into a blurred image: the larger the area, the better.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor, nn

from tumorlens.checkpoint.session import Session
from tumorlens.explain import plots
from tumorlens.explain.gradcam import Maps, Sample
from tumorlens.explain.map_metrics import centre_map, head
from tumorlens.explain.overlay import on_image
from tumorlens.models.build import memory_format
from tumorlens.uncertainty.calibration import softmax

Floats = npt.NDArray[np.float64]
# Game to order to (N, T) probability of the target, calibrated where there is a temperature.
Curves = dict[str, dict[str, Floats]]

AT = np.linspace(0, 1, 21)  # share of the pixels taken out or put back
ORDERS = ("map", "random", "centre_prior")
GAMES = ("deletion", "insertion")
# Standard deviation of the blurred image, in parts of its side: wide enough to hide a tumor.
BLUR = 1 / 16


def of_faithfulness(samples: Sequence[Sample]) -> tuple[dict[str, Any], Figure]:
    """Deletion and insertion of each network, and their figure.

    The areas are JSON primitives: network to GAME_ORDER and GAME_map_minus_ORDER to value, low,
    high, n.
    """
    curves: dict[str, Curves] = {}
    areas: dict[str, Any] = {}
    for one in samples:
        found = faithfulness(one.session, one.maps, map_size=one.size, seed=one.seed)
        columns: dict[str, Floats] = {}
        for game in GAMES:
            area = {order: areas_below(found[game][order]) for order in ORDERS}
            columns |= {f"{game}_{order}": values for order, values in area.items()}
            for order in ORDERS[1:]:
                columns[f"{game}_map_minus_{order}"] = area["map"] - area[order]
        curves[one.name], areas[one.name] = found, one.means(columns)
    words = {
        "map": "by the map",
        "random": "in random order",
        "centre_prior": "from the head's middle",
    }
    lines = {
        f"{name}/{game}/{order}": (
            found[game][order].mean(axis=0),
            f"{words[order]}, area {areas[name][f'{game}_{order}']['value']:.3f}",
        )
        for name, found in curves.items()
        for game in GAMES
        for order in ORDERS
    }
    panels = {
        f"{name}: {game}": [f"{name}/{game}/{order}" for order in ORDERS]
        for name in curves
        for game in GAMES
    }
    axes = ("share of the pixels taken out or put back", "mean probability of the true class")
    count = len(samples[-1].maps)
    title = f"Deletion: lower is better; insertion: higher is better; {count} images"
    content = {
        "source": "Petsiuk et al. 2018; deletion to the training mean, insertion into a blurred "
        "image; area below the probability of the true class, calibrated where the network has a "
        "temperature",
        "sample": samples[-1].how,
        "networks": areas,
    }
    return content, plots.curves(lines, panels, AT, axes, title)


def faithfulness(
    session: Session, maps: Maps, *, map_size: int | None = None, seed: int = 0
) -> Curves:
    """Play deletion and insertion with three orders of the pixels, for each image's true class.

    `map` goes by the map; `random` by random values in cells as coarse as the map's, so that only
    the places differ and not the grain; `centre_prior` outward from the middle of the head.

    Args:
        map_size: side of the squares that the maps were made for, pixels; None: the network's own.
    """
    network, where = session.network.to(session.device), session.device
    preprocessing, images = session.checkpoint.preprocessing, session.data.images
    temperature = session.checkpoint.temperature or 1.0
    rng = np.random.default_rng(seed)
    curves = {game: {order: np.zeros((len(images), len(AT))) for order in ORDERS} for game in GAMES}
    for index, image in enumerate(images):
        size = image.shape[0]
        blurred = ndimage.gaussian_filter(image.astype(np.float64), BLUR * size)
        head_of = torch.from_numpy(image).to(where).float()[None] / 255
        pixels = preprocessing.normalise(preprocessing.frame(head_of))[0]
        hidden = torch.from_numpy(blurred).to(where).float()[None] / 255
        start = {
            "deletion": (pixels, torch.zeros_like(pixels)),  # the mean, normalised, is 0
            "insertion": (
                preprocessing.normalise(preprocessing.frame(hidden, head_of))[0],
                pixels,
            ),
        }
        noise = rng.random(maps.shape[1:]).astype(np.float32)
        square = map_size or size
        orders = {
            "map": on_image(maps[index], size, size, square),
            "random": on_image(noise, size, size, square),
            "centre_prior": _centre(image),
        }
        # How many pixels are changed at each step.
        counts = torch.from_numpy(np.ceil(AT * size**2).astype(np.int64)).to(where)[:, None, None]
        target = int(session.data.labels[index])
        for order, over_image in orders.items():
            over = torch.from_numpy(over_image)[None]
            relevance = preprocessing.frame(over, head_of.to(over))[0].numpy()
            changed = torch.from_numpy(_rank(relevance, rng)).to(where)[None] < counts
            for game, (before, after) in start.items():
                mixed = torch.where(changed[:, None], after, before)
                logits = _logits(network, mixed)
                curves[game][order][index] = softmax(logits, temperature)[:, target]
        session.progress("faithfulness", index + 1, len(images))
    return curves


def areas_below(curves: Floats) -> Floats:
    """(N, T) curves to (N,) areas below them, 0..1."""
    return np.asarray(np.trapezoid(curves, AT, axis=1), dtype=np.float64)


def _centre(image: npt.NDArray[np.uint8]) -> Floats:
    """The centre prior at the network's own size."""
    inside, size = head(image), image.shape[0]
    places = (np.arange(size) * side // size for side in inside.shape)
    return centre_map(inside)[np.ix_(*places)]


def _rank(relevance: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(S, S) place of each pixel in the order, the most relevant 0; equal ones in random order."""
    order = np.lexsort((rng.random(relevance.size), -relevance.ravel()))
    rank = np.empty(relevance.size, dtype=np.int64)
    rank[order] = np.arange(relevance.size)
    return rank.reshape(relevance.shape)


@torch.inference_mode()
def _logits(network: nn.Module, inputs: Tensor) -> Floats:
    logits: Tensor = network(inputs.contiguous(memory_format=memory_format(network)))
    return logits.cpu().double().numpy()
