"""Does a network look at the tumor? Its maps measured against boxes or masks, and against chance.

Every map is that of the image's true class. Images without a box count in the bias of looking
alone. A centre baseline, one Gaussian in the middle of every head, is measured beside the network:
what it reaches is no skill of a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.data.readers import read_grey, resize
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.evaluate import part_caveats
from tumorlens.evaluation.intervals import Estimates, estimates, primitives
from tumorlens.explain.map_metrics import Looking, border, centre_map, head, look, skull
from tumorlens.explain.mapped import Part, Way, answers, load_part, maps_of, parts_there
from tumorlens.explain.measures import THRESHOLDS, Fit, fit, frame, in_frame
from tumorlens.explain.regions import Boxes, read_boxes
from tumorlens.progress import Progress, silent
from tumorlens.settings import MAP_LAYER, MAP_METHOD, MapMethod
from tumorlens.uncertainty.calibration import softmax

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

FIT = ("energy_in_box", "box_area_share", "pointing_game", "pointing_chance", "average_precision")
LOOKING = ("outside_head", "border", "skull")
SPREAD = ("entropy", "spread")
SIZES = ("small", "medium", "large")
CENTRE = "centre_"
RATIOS = {"energy_over_chance": ("energy_in_box", "box_area_share")}
_LOOKING_RATIOS = {f"{name}_over_chance": (name, f"{name}_area") for name in LOOKING}


@dataclass(frozen=True)
class Localization:
    """What `localize` found.

    Attributes:
        name: of the network.
        figures: JSON primitives: how it was measured, then `network` and `centre`, each subset to
            figure to value, low, high and n; `looking` likewise.
        rows: one an image of the part, JSON primitives by column; None where it has no box.
        maps: (N, h, w) raw relevance, in the order of `rows`.
        size: side of the square input that the maps lie over, pixels.
        root: the data folder.
        boxes: the annotation.
    """

    name: str
    figures: dict[str, Any]
    rows: tuple[Row, ...]
    maps: npt.NDArray[np.float32]
    size: int
    root: Path
    boxes: Boxes


def localize(
    checkpoint: Checkpoint,
    boxes: Path,
    *,
    data_dir: Path | None = None,
    split: str = "auto",
    layer: str = MAP_LAYER,
    method: MapMethod = MAP_METHOD,
    map_size: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | None = None,
    network: nn.Module | None = None,
    progress: Progress = silent,
) -> Localization:
    """Measure a checkpoint's maps on all images of a part.

    Args:
        checkpoint: the network, its classes, its data.
        boxes: CSV or folder of masks, see `boxes.read_boxes`.
        data_dir: folder with the images; None: the one that the checkpoint remembers.
        split: "train", "valid", "test" or "auto", test where there is one, else valid.
        layer, method, map_size: how maps are made, see `mapped.Way`.
        resamples, seed: of the intervals, bootstrap over patients, else near-duplicates.
        batch_size: images at once.
        device: where to compute; None: the CPU.
        network: the checkpoint's, where the caller has built it already.
        progress: told of "explaining" and "measuring".

    Raises:
        TumorlensError: faults of the boxes or the data; no image of the part has a box.
    """
    annotated = read_boxes(boxes)
    way = Way(layer, method, map_size)
    where = device or torch.device("cpu")
    model = checkpoint.network() if network is None else network
    part = load_part(checkpoint, way, data_dir=data_dir, split=split, progress=progress)
    boxed = np.array([path in annotated for path in part.data.paths])
    if not boxed.any():
        raise TumorlensError(
            f"--boxes {boxes}: none of the {len(boxed)} {part.part} images in {part.data.root} "
            f"has a box; it lists {_example(annotated)}, the part has {part.data.paths[0]}. Paths "
            "are relative to the data folder; --split names another part."
        )

    def mapped(some: Part) -> npt.NDArray[np.float32]:
        return maps_of(
            model,
            checkpoint.preprocessing,
            some.large,
            some.data.labels,
            way,
            device=where,
            batch_size=batch_size,
            progress=progress,
        )

    size = way.size_for(checkpoint)
    maps = mapped(part)
    logits = answers(checkpoint, model, part, device=where, batch_size=batch_size)
    measured = _measure(part, maps, size, annotated, progress)
    held, why = _held_back(checkpoint, way, part.part, data_dir, annotated, progress)
    thresholds: dict[str, float | None] = {"": None, CENTRE: None}
    if held is not None:
        chooses = _measure(held, mapped(held), size, annotated, progress)
        thresholds = {prefix: _best_threshold(chooses, prefix) for prefix in thresholds}
    rows = _rows(part, softmax(logits), checkpoint.classes, measured, thresholds)
    figures = {
        "network": checkpoint.model_name,
        "part": part.part,
        "images": len(rows),
        "images_with_box": int(boxed.sum()),
        "skipped": part.data.skipped,
        "boxes": boxes.name,
        "target": "the true class of each image",
        "layer": layer,
        "method": method,
        "input_pixels_for_maps": size,
        "cells": list(maps.shape[1:]),
        "empty_maps_with_box": int(sum(row["empty_map"] for row in rows if row["box_area_share"])),
        "interval": f"95%, percentile bootstrap over patients where they are known, else groups "
        f"of near-duplicates, {resamples} resamples",
        "iou_threshold": {
            "network": thresholds[""],
            "centre": thresholds[CENTRE],
            "chosen_on": why,
        },
        "caveats": _caveats(checkpoint, part),
        **summarize(rows, resamples=resamples, seed=seed),
    }
    return Localization(checkpoint.model_name, figures, rows, maps, size, part.data.root, annotated)


def _example(annotated: Boxes) -> str:
    return next(iter(annotated.boxes or annotated.masks))


def _caveats(checkpoint: Checkpoint, part: Part) -> list[str]:
    found = part_caveats(checkpoint, part.part)
    if checkpoint.data is None:
        found.append("The checkpoint does not tell which images it was trained on.")
    return found


def _held_back(
    checkpoint: Checkpoint,
    way: Way,
    scored: str,
    data_dir: Path | None,
    annotated: Boxes,
    progress: Progress,
) -> tuple[Part | None, str]:
    """Boxed validation images, which choose the threshold of the outline; and that in words."""
    if scored == "valid":
        return None, "nothing: the validation images are those scored, so IoU is left out"
    if "valid" not in parts_there(checkpoint, data_dir):
        return None, "nothing: there is no validation part, so IoU is left out"
    part = load_part(checkpoint, way, data_dir=data_dir, split="valid", progress=progress)
    keep = np.flatnonzero([path in annotated for path in part.data.paths])
    if len(keep) == 0:
        return None, "nothing: no validation image has a box, so IoU is left out"
    return part.only(keep), f"the {len(keep)} validation images with a box"


@dataclass(frozen=True)
class _Measured:
    """One image's figures; `fits` by prefix, empty where it has no box."""

    looking: Looking
    areas: dict[str, float]
    fits: dict[str, Fit]
    highest: float


def _measure(
    part: Part,
    maps: npt.NDArray[np.float32],
    size: int,
    annotated: Boxes,
    progress: Progress,
) -> list[_Measured]:
    found = []
    for index, path in enumerate(part.data.paths):
        grey = read_grey(part.data.root / path)
        height, width = frame(*grey.shape)
        head_mask = head(resize(grey, height, width))
        relevance = in_frame(maps[index], height, width, size)
        fits = {}
        if path in annotated:
            region = annotated.region(path, height, width)
            fits = {"": fit(relevance, region), CENTRE: fit(centre_map(head_mask), region)}
        areas = {
            "outside_head_area": float((~head_mask).mean()),
            "border_area": float(border(head_mask.shape).mean()),
            "skull_area": float(skull(head_mask).mean()),
        }
        found.append(
            _Measured(look(relevance, head_mask), areas, fits, float(maps[index].max(initial=0)))
        )
        progress("measuring", index + 1, len(maps))
    return found


def _best_threshold(measured: Sequence[_Measured], prefix: str) -> float:
    """The threshold with the highest mean intersection over union."""
    mean = np.mean([one.fits[prefix].overlap for one in measured], axis=0)
    return float(THRESHOLDS[int(mean.argmax())].round(2))


def _rows(
    part: Part,
    probabilities: Floats,
    classes: Sequence[str],
    measured: Sequence[_Measured],
    thresholds: Mapping[str, float | None],
) -> tuple[Row, ...]:
    groups = part.data.units()
    areas = [one.fits[""].area if one.fits else np.nan for one in measured]
    cuts = np.nanquantile(areas, [1 / 3, 2 / 3])
    rows = []
    for index, one in enumerate(measured):
        label = classes[part.data.labels[index]]
        prediction = classes[int(probabilities[index].argmax())]
        row: Row = {
            "path": part.data.paths[index],
            "label": label,
            "prediction": prediction,
            "right": prediction == label,
            "probability_of_label": float(probabilities[index, part.data.labels[index]]),
            "group": int(groups[index]),
            "size": SIZES[int((areas[index] > cuts).sum())] if one.fits else None,
            "map_highest": one.highest,
            "empty_map": one.looking.empty,
        }
        row |= {name: None for prefix in ("", CENTRE) for name in _named(prefix, None, None)}
        for prefix, found in one.fits.items():
            row |= _named(prefix, found, thresholds[prefix])
        looking = asdict(one.looking)
        row |= {name: looking[name] for name in (*LOOKING, *SPREAD)} | one.areas
        rows.append(row)
    return tuple(rows)


def _named(prefix: str, found: Fit | None, threshold: float | None) -> Row:
    """A fit's figures by column; the chance levels have no prefix, they are the picture's."""
    values: Row = {"energy_in_box": None, "pointing_game": None, "average_precision": None}
    values["iou"] = None
    chance: Row = {"box_area_share": None, "pointing_chance": None}
    if found is not None:
        at = None if threshold is None else int(np.abs(THRESHOLDS - threshold).argmin())
        values = {
            "energy_in_box": found.energy,
            "pointing_game": found.hit,
            "average_precision": found.precision,
            "iou": None if at is None else float(found.overlap[at]),
        }
        chance = {"box_area_share": found.area, "pointing_chance": found.hit_by_chance}
    return {f"{prefix}{name}": value for name, value in values.items()} | chance


def summarize(rows: Sequence[Row], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """The figures behind rows: `network`, `centre` and `looking`, as JSON primitives.

    Subsets of the boxed images: all, each class, tumors by size (thirds of the boxed images), right
    and wrong answers. `looking` covers all images and each class, and for each class its gap to the
    other classes.
    """
    boxed = [row for row in rows if row["box_area_share"] is not None]
    parts = {
        "network": _fits(boxed, "", resamples, seed),
        "centre": _fits(boxed, CENTRE, resamples, seed),
        "looking": _looking(rows, resamples, seed),
    }
    return {name: primitives(found) for name, found in parts.items()}


def column(rows: Sequence[Row], name: str) -> Floats:
    """(N,) values, NaN where there are none."""
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)


def subsets(rows: Sequence[Row]) -> dict[str, npt.NDArray[np.bool_]]:
    """Who is in which subset of the boxed images."""
    found = {"all": np.ones(len(rows), dtype=bool)}
    for name in sorted({row["label"] for row in rows}):
        found[name] = np.array([row["label"] == name for row in rows])
    for name in SIZES:
        found[name] = np.array([row["size"] == name for row in rows])
    found["right"] = np.array([bool(row["right"]) for row in rows])
    found["wrong"] = ~found["right"]
    return found


def _groups(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    return np.array([row["group"] for row in rows], dtype=np.int64)


def _fits(boxed: Sequence[Row], prefix: str, resamples: int, seed: int) -> Estimates:
    shared = ("box_area_share", "pointing_chance")
    names = [*FIT, *([] if boxed[0][f"{prefix}iou"] is None else ["iou"])]
    columns = {name: column(boxed, name if name in shared else f"{prefix}{name}") for name in names}
    return estimates(
        columns,
        subsets(boxed),
        _groups(boxed),
        ratios=RATIOS,
        proportions=("pointing_game",),
        resamples=resamples,
        seed=seed,
    )


def _looking(rows: Sequence[Row], resamples: int, seed: int) -> Estimates:
    names = [*LOOKING, *(f"{name}_area" for name in LOOKING), *SPREAD]
    labels = sorted({row["label"] for row in rows})
    inside = {"all": np.ones(len(rows), dtype=bool)}
    contrasts = {}
    for name in labels:
        inside[name] = np.array([row["label"] == name for row in rows])
        inside[f"not {name}"] = ~inside[name]
        contrasts[f"{name} minus the others"] = (name, f"not {name}")
    found = estimates(
        {name: column(rows, name) for name in names},
        inside,
        _groups(rows),
        ratios=_LOOKING_RATIOS,
        contrasts=contrasts,
        resamples=resamples,
        seed=seed,
    )
    return {name: figures for name, figures in found.items() if not name.startswith("not ")}
