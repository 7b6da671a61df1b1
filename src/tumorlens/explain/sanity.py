"""Do maps depend on what the network learned, and do two networks of one kind agree?

Adebayo et al. 2018, "Sanity checks for saliency maps": weights are made random again from the last
layer to the first, step upon step. A map that stays as it was shows the image, not the network.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy import ndimage
from torch import nn

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.explain import plots
from tumorlens.explain.gradcam import Maps, Sample
from tumorlens.explain.overlay import on_image
from tumorlens.models.build import build_random

Floats = npt.NDArray[np.float64]
Similarity = dict[str, Floats]  # "ssim" and "rank" of N pairs of maps, see `similarity`

# Maps are compared as images of this side; the window of SSIM is `_WINDOW` of its pixels.
_SIDE, _WINDOW = 56, 7
_WORDS = {"ssim": "SSIM", "rank": "rank correlation"}


def of_sanity(samples: Sequence[Sample]) -> tuple[dict[str, Any], Figure]:
    """Similarity of the maps after each step of randomisation, and the first network's figure.

    JSON primitives: network to step to `ssim` and `rank`, and the same for maps of different
    images, where maps of random weights end.
    """
    content: dict[str, Any] = {}
    for one in samples:
        session, stages = one.session, steps(one.session.network)
        found: dict[str, Any] = {}
        for number, (name, network) in enumerate(cascade(session.checkpoint, one.seed), 1):
            found[name] = one.means(similarity(one.maps, one.maps_by(network), one.size))
            session.progress("sanity", number, len(stages))
        content[one.name] = {
            "steps": found,
            "maps_of_different_images": one.means(floor(one.maps, one.size, one.seed)),
            "empty_maps": int((one.maps.max(axis=(1, 2)) <= 0).sum()),
        }
    first = content[samples[0].name]
    figure = plots.steps(
        {
            words: {name: step[key] for name, step in first["steps"].items()}
            for key, words in _WORDS.items()
        },
        {words: first["maps_of_different_images"][key]["value"] for key, words in _WORDS.items()},
        "similarity to the trained network's map, -1 to 1",
        f"Sanity check of {samples[0].name}: weights made random step by step",
    )
    source = "Adebayo et al. 2018, cascading randomisation; each step keeps the ones before"
    return {"source": source, "sample": samples[-1].how, "networks": content}, figure


def of_agreement(sample: Sample, seeds: Mapping[Path, Checkpoint]) -> tuple[dict[str, Any], Figure]:
    """How alike the maps of a network and of its other seeds are, over pairs; and their figure."""
    maps = [sample.maps]
    for number, loaded in enumerate(seeds.values(), 1):
        maps.append(sample.maps_by(loaded.network(), loaded))
        sample.session.progress("agreement", number, len(seeds))
    together = sample.means(between(maps, sample.size))
    apart = sample.means(floor(maps[0], sample.size, sample.seed))
    first = sample.session.checkpoint
    figure = plots.steps(
        {words: {f"{len(maps)} seeds": together[key]} for key, words in _WORDS.items()},
        {words: apart[key]["value"] for key, words in _WORDS.items()},
        "mean similarity over pairs, -1 to 1",
        f"Agreement of {len(maps)} seeds of {first.model_name}, {len(sample.maps)} images",
    )
    content = {
        "checkpoints": [str(first.path), *map(str, seeds)],
        "sample": sample.how,
        "between_networks": together,
        "maps_of_different_images": apart,
    }
    return content, figure


def similarity(one: Maps, other: Maps, size: int) -> Similarity:
    """Compare maps pair by pair; those of other layers or sizes by their places in the image.

    Both are (N, h, w) over the same N squares of side `size`, pixels.

    Returns:
        (N,), -1..1: `ssim`, of the maps scaled to 0..1 each, and `rank`, Spearman's correlation of
        the cells, NaN where a map is the same everywhere and has no order.
    """
    images = [_images(maps, size) for maps in (one, other)]
    if one.shape == other.shape:
        cells = [maps.reshape(len(maps), -1).astype(np.float64) for maps in (one, other)]
    else:
        cells = [shown.reshape(len(shown), -1) for shown in images]
    return {
        "ssim": np.array([ssim(a, b) for a, b in zip(*images, strict=True)]),
        "rank": np.array([_spearman(a, b) for a, b in zip(*cells, strict=True)]),
    }


def floor(maps: Maps, size: int, seed: int = 0) -> Similarity:
    """How alike maps of different images are: what remains when nothing of the image counts.

    Each of the N >= 2 maps is paired with that of another image, in a circle drawn with `seed`.
    """
    order = np.random.default_rng(seed).permutation(len(maps))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return similarity(maps, maps[other], size)


def _images(maps: Maps, size: int) -> Floats:
    """(N, h, w) to (N, side, side), each from 0 to 1; a map of nothing stays 0."""
    shown = np.stack([on_image(one, _SIDE, _SIDE, size) for one in maps])
    low = shown.min(axis=(1, 2), keepdims=True)
    span = shown.max(axis=(1, 2), keepdims=True) - low
    scaled: Floats = np.divide(shown - low, span, out=np.zeros_like(shown), where=span > 0)
    return scaled


def ssim(one: Floats, other: Floats) -> float:
    """Mean structural similarity of two images in 0..1 (Wang et al. 2004, eq. 13).

    Windows of 7 x 7 pixels of equal weight, those inside the image, K1 0.01, K2 0.03.
    """

    def mean(values: Floats) -> Floats:
        edge = _WINDOW // 2
        found: Floats = ndimage.uniform_filter(values, _WINDOW)[edge:-edge, edge:-edge]
        return found

    one_mean, other_mean = mean(one), mean(other)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)  # variances of samples
    one_variance = sample * (mean(one * one) - one_mean**2)
    other_variance = sample * (mean(other * other) - other_mean**2)
    covariance = sample * (mean(one * other) - one_mean * other_mean)
    first, second = 0.01**2, 0.03**2
    above = (2 * one_mean * other_mean + first) * (2 * covariance + second)
    below = (one_mean**2 + other_mean**2 + first) * (one_variance + other_variance + second)
    return float((above / below).mean())


def _spearman(one: Floats, other: Floats) -> float:
    from scipy.stats import spearmanr  # noqa: PLC0415 (half a second)

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other).statistic)


def steps(network: nn.Module) -> dict[str, list[str]]:
    """What is made random, from the last to the first: layers, and blocks of a sequence one by one.

    Each step's name to the modules of it: a norm goes with the layer before it.
    """
    found: dict[str, list[str]] = {}
    for path in _units(network, ""):
        module = network.get_submodule(path)
        if found and not any(one.ndim > 1 for one in module.parameters()):
            next(reversed(found.values())).append(path)
        else:
            found[path] = [path]
    return dict(reversed(found.items()))


def _units(network: nn.Module, prefix: str) -> Iterator[str]:
    """Paths of the parts with parameters, in the network's order."""
    for name, child in network.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList):
            yield from _units(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name


def cascade(checkpoint: Checkpoint, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The network with ever more of its weights as before training, another start than its own.

    Batch norm's running metrics go with the weights of their block.

    Yields:
        The step's name and the network, the same object each time, in evaluation mode.
    """
    network = checkpoint.network()
    # Any start but the one that the network was trained from, should that have had this seed.
    fresh = build_random(checkpoint.model_name, len(checkpoint.classes), seed + 1_000_003)
    for name, parts in steps(network).items():
        for part in parts:
            network.get_submodule(part).load_state_dict(fresh.get_submodule(part).state_dict())
        yield name, network.eval()


def between(maps: Sequence[Maps], size: int) -> Similarity:
    """Agreement of several networks' maps: the mean over their pairs, image by image.

    `maps` has (N, h, w) of each of M >= 2 networks, over the same squares of side `size`, pixels.
    """
    pairs = [similarity(one, other, size) for one, other in itertools.combinations(maps, 2)]
    ranks = np.stack([pair["rank"] for pair in pairs])
    known = np.isfinite(ranks)
    with np.errstate(invalid="ignore"):
        rank: Floats = np.where(known, ranks, 0).sum(axis=0) / known.sum(axis=0)
    return {"ssim": np.mean([pair["ssim"] for pair in pairs], axis=0), "rank": rank}
