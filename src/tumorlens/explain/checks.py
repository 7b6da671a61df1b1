"""Checks of the maps on a sample: are they faithful, learned, and the same for other seeds?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.errors import TumorlensError
from tumorlens.evaluation import plots
from tumorlens.evaluation.intervals import estimates, primitives
from tumorlens.explain import plots as draw
from tumorlens.explain.faithfulness import GAMES, ORDERS, Faithfulness, faithfulness
from tumorlens.explain.mapped import Maps, Part, Way, load_part, maps_of
from tumorlens.explain.regions import read_boxes
from tumorlens.explain.sanity import Similarity, between, cascade, floor, similarity
from tumorlens.explain.sanity import steps as stages
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress
from tumorlens.settings import GradcamSettings

_WORDS = {"ssim": "SSIM", "rank": "rank correlation"}


@dataclass(frozen=True)
class Network:
    """A checkpoint, its network, and what it is called beside another."""

    name: str
    loaded: Checkpoint
    model: ResNet


def _way(settings: GradcamSettings) -> Way:
    return Way(settings.layer, settings.method, settings.map_size)


def _sample(settings: GradcamSettings, loaded: Checkpoint, progress: Progress) -> tuple[Part, str]:
    """Images to measure on, the same for each network of the same split; and which, in words."""
    way = _way(settings)
    part = load_part(
        loaded, way, data_dir=settings.data_dir, split=settings.split, progress=progress
    )
    candidates = np.arange(len(part.data.paths))
    which = ""
    if settings.boxes:
        annotated = read_boxes(settings.boxes)
        candidates = np.array(
            [index for index, path in enumerate(part.data.paths) if path in annotated]
        )
        which = " with a box"
    rng = np.random.default_rng(settings.seed)
    drawn = np.sort(rng.permutation(candidates)[: settings.sample])
    if len(drawn) < 2:
        raise TumorlensError(
            f"--split {part.part}: {len(drawn)} image, expected two or more to measure on; name "
            "another part."
        )
    return part.only(drawn), (
        f"{len(drawn)} of {len(candidates)} {part.part} images{which}, drawn with seed "
        f"{settings.seed}; maps of the true class"
    )


def _maps(
    loaded: Checkpoint,
    model: nn.Module,
    sample: Part,
    settings: GradcamSettings,
    device: torch.device,
) -> Maps:
    return maps_of(
        model,
        loaded.preprocessing,
        sample.large,
        sample.data.labels,
        _way(settings),
        device=device,
        batch_size=settings.batch_size,
    )


def _estimated(
    columns: Mapping[str, npt.NDArray[np.float64]], sample: Part, settings: GradcamSettings
) -> dict[str, dict[str, float | int]]:
    whole = {"all": np.ones(len(sample.data.paths), dtype=bool)}
    found = estimates(
        columns, whole, sample.data.units(), resamples=settings.resamples, seed=settings.seed
    )
    return primitives(found)["all"]


def of_faithfulness(
    settings: GradcamSettings,
    networks: Sequence[Network],
    out_dir: Path,
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Deletion and insertion of each network: areas with intervals, and `faithfulness.png`.

    Returns:
        JSON primitives: network to GAME_ORDER and GAME_map_minus_ORDER to value, low, high, n.

    Raises:
        TumorlensError: faults of the data.
    """
    curves: dict[str, Faithfulness] = {}
    areas: dict[str, Any] = {}
    how = ""
    for one in networks:
        sample, how = _sample(settings, one.loaded, progress)
        found = faithfulness(
            one.model,
            one.loaded.preprocessing,
            sample.data.images,
            _maps(one.loaded, one.model, sample, settings, device),
            sample.data.labels,
            map_size=_way(settings).size_for(one.loaded),
            seed=settings.seed,
            device=device,
            progress=progress,
        )
        columns: dict[str, npt.NDArray[np.float64]] = {}
        for game in GAMES:
            area = {order: found.area(game, order) for order in ORDERS}
            columns |= {f"{game}_{order}": values for order, values in area.items()}
            for order in ORDERS[1:]:
                columns[f"{game}_map_minus_{order}"] = area["map"] - area[order]
        curves[one.name], areas[one.name] = found, _estimated(columns, sample, settings)
    words = {"map": "by the map", "random": "in random order", "centre": "from the head's middle"}
    lines = {
        f"{name}/{game}/{order}": (
            found.curves[game][order].mean(axis=0),
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
    title = f"Deletion (low is good) and insertion (high is good): {how}"
    at = next(iter(curves.values())).at
    plots.save(draw.curves(lines, panels, at, axes, title), out_dir / "faithfulness.png")
    return {
        "source": "Petsiuk et al. 2018; deletion to the training mean, insertion into a blurred "
        "picture; area below the probability of the true class",
        "sample": how,
        "networks": areas,
    }


def of_sanity(
    settings: GradcamSettings,
    networks: Sequence[Network],
    out_dir: Path,
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Similarity of the maps after each step of randomisation, and `sanity.png`.

    Returns:
        JSON primitives: network to step to `ssim` and `rank`, and the same for maps of different
        images, which is where maps that have fallen apart end.

    Raises:
        TumorlensError: faults of the data.
    """
    content: dict[str, Any] = {}
    how = ""
    for one in networks:
        sample, how = _sample(settings, one.loaded, progress)
        size = _way(settings).size_for(one.loaded)
        before = _maps(one.loaded, one.model, sample, settings, device)
        steps: dict[str, Any] = {}
        for number, (name, network) in enumerate(cascade(one.loaded, settings.seed), 1):
            after = _maps(one.loaded, network, sample, settings, device)
            steps[name] = _alike(similarity(before, after, size), sample, settings)
            progress("sanity", number, len(stages(one.model)))
        content[one.name] = {
            "steps": steps,
            "maps_of_different_images": _alike(
                floor(before, size, settings.seed), sample, settings
            ),
            "empty_maps": int((before.max(axis=(1, 2)) <= 0).sum()),
        }
    first = content[networks[0].name]
    figure = draw.steps(
        {
            words: {name: step[key] for name, step in first["steps"].items()}
            for key, words in _WORDS.items()
        },
        {words: first["maps_of_different_images"][key]["value"] for key, words in _WORDS.items()},
        "similarity to the map of the trained network",
        f"{networks[0].name}, weights made random from the last layer to the first: {how}",
    )
    plots.save(figure, out_dir / "sanity.png")
    return {
        "source": "Adebayo et al. 2018, cascading randomisation; each step keeps the ones before",
        "sample": how,
        "networks": content,
    }


def check_seeds(first: Checkpoint, files: Sequence[Path]) -> None:
    """See that checkpoints are of one kind: network, size, classes.

    Raises:
        TumorlensError: one is of another kind, or no checkpoint.
    """
    for file in files:
        if (other := _kind(checkpoints.load(file))) != (own := _kind(first)):
            raise TumorlensError(
                f"--agree {file}: is {other}, --checkpoint is {own}; name other seeds of the same."
            )


def _kind(loaded: Checkpoint) -> str:
    size, classes = loaded.preprocessing.image_size, ", ".join(loaded.classes)
    return f"a {loaded.model_name} at {size} px for {classes}"


def _alike(found: Similarity, sample: Part, settings: GradcamSettings) -> dict[str, Any]:
    return _estimated({"ssim": found.ssim, "rank": found.rank}, sample, settings)


def of_agreement(
    settings: GradcamSettings,
    first: Network,
    out_dir: Path,
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """How alike the maps of several seeds are, and `agreement.png`.

    Returns:
        JSON primitives: `between_networks`, the mean over pairs, and `maps_of_different_images`.

    Raises:
        TumorlensError: faults of the data.
    """
    sample, how = _sample(settings, first.loaded, progress)
    maps = [_maps(first.loaded, first.model, sample, settings, device)]
    for number, file in enumerate(settings.agree, 1):
        loaded = checkpoints.load(file)
        maps.append(_maps(loaded, loaded.network(), sample, settings, device))
        progress("agreement", number, len(settings.agree))
    size = _way(settings).size_for(first.loaded)
    together = _alike(between(maps, size), sample, settings)
    apart = _alike(floor(maps[0], size, settings.seed), sample, settings)
    figure = draw.steps(
        {words: {f"{len(maps)} seeds": together[key]} for key, words in _WORDS.items()},
        {words: apart[key]["value"] for key, words in _WORDS.items()},
        "mean similarity over pairs of networks",
        f"Do seeds of {first.loaded.model_name} agree? {how}",
    )
    plots.save(figure, out_dir / "agreement.png")
    return {
        "checkpoints": [str(first.loaded.path), *map(str, settings.agree)],
        "sample": how,
        "between_networks": together,
        "maps_of_different_images": apart,
    }
