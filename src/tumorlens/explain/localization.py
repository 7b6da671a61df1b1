"""Does a network look at the tumor? Its maps measured against boxes or masks, and against chance.

Every map is that of the image's true class. Images without a box count in the bias of looking
alone. A centre prior, one Gaussian in the middle of every head, is measured beside the network:
what it reaches is no skill of a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.checkpoint.session import Session
from tumorlens.data.readers import read_grey, resize
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.evaluate import split_caveats
from tumorlens.evaluation.intervals import Estimates, estimates, primitives
from tumorlens.explain.map_metrics import (
    THRESHOLDS,
    Attribution,
    Fit,
    Mask,
    border,
    centre_map,
    fit,
    frame,
    head,
    look,
    skull,
)
from tumorlens.explain.maps import Maps, Way, maps_of
from tumorlens.explain.overlay import on_image
from tumorlens.explain.regions import Boxes

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

FIT = (
    "energy_pointing_game",
    "box_area_share",
    "pointing_game",
    "pointing_area_share",
    "average_precision",
)
ATTRIBUTION = ("outside_head", "border", "skull")
SPREAD = ("entropy", "spread")
SIZES = ("small", "medium", "large")
CENTRE = "centre_prior_"
RATIOS = {"energy_ratio": ("energy_pointing_game", "box_area_share")}
_LOOKING_RATIOS = {f"{name}_over_chance": (name, f"{name}_area") for name in ATTRIBUTION}


@dataclass(frozen=True)
class Scene:
    """What is measured of an image itself, whatever the network.

    Attributes:
        head: (H, W) in the frame, see `map_metrics.head`.
        areas: shares of the image that lie outside the head, at the border, on the skull.
        centre: how the centre prior fits; None: the image has no box.
    """

    head: Mask
    areas: dict[str, float]
    centre: Fit | None


@dataclass(frozen=True)
class Localization:
    """What `localize` found.

    Attributes:
        name: of the network.
        metrics: JSON primitives: how it was measured, then `network` and `centre_prior`, each
            subset to metric to value, low, high and n; `attribution` likewise.
        rows: one an image of the split, JSON primitives by column; None where it has no box.
        maps: (N, h, w) raw relevance, in the order of `rows`.
        size: side of the square input that the maps lie over, pixels.
    """

    name: str
    metrics: dict[str, Any]
    rows: tuple[Row, ...]
    maps: Maps
    size: int


def localize(
    session: Session,
    boxes: Boxes,
    way: Way,
    *,
    resamples: int = 2000,
    seed: int = 0,
    scenes: dict[Path, Scene] | None = None,
) -> Localization:
    """Measure a network's maps on all images of a session.

    Args:
        session: the network and the images; told of "explaining" and "measuring".
        boxes: where the tumors are.
        way: how maps are made.
        resamples, seed: of the intervals, bootstrap over patients, else near-duplicates.
        scenes: what is known of the images by path; what another network needs too is added.

    Raises:
        TumorlensError: faults of the boxes or the data; no image of the split has a box.
    """
    checkpoint, data = session.checkpoint, session.data
    boxed = np.array([path in boxes for path in data.paths])
    if not boxed.any():
        raise TumorlensError(
            f"--boxes {boxes.source}: none of the {len(boxed)} {session.split} images in "
            f"{data.root} has a box; it lists {next(iter(boxes.boxes or boxes.masks))}, the split "
            f"has {data.paths[0]}. Paths are relative to the data folder; --split names another "
            "split."
        )
    known = {} if scenes is None else scenes
    maps = maps_of(session, way, session.progress)
    measured = _measure(session, maps, way, boxes, known)
    cuts, why = _thresholds(session, boxes, way, known)
    rows = _rows(session, measured, cuts)
    caveats = split_caveats(checkpoint, session.split)
    if checkpoint.data is None:
        caveats.append("The checkpoint does not tell which images it was trained on.")
    metrics = {
        "network": checkpoint.model_name,
        "split": session.split,
        "images": len(rows),
        "images_with_box": int(boxed.sum()),
        "skipped": data.skipped,
        "boxes": boxes.source.name,
        "target": "the true class of each image",
        "layer": way.layer,
        "method": way.method,
        "input_pixels_for_maps": way.size_for(checkpoint),
        "cells": list(maps.shape[1:]),
        "empty_maps_with_box": int(sum(row["empty_map"] for row in rows if row["box_area_share"])),
        "interval": f"95%, percentile bootstrap over patients where they are known, else groups "
        f"of near-duplicates, {resamples} resamples",
        "iou_threshold": {"network": cuts[""], "centre_prior": cuts[CENTRE], "chosen_on": why},
        "caveats": caveats,
        **summarize(rows, resamples=resamples, seed=seed),
    }
    return Localization(checkpoint.model_name, metrics, rows, maps, way.size_for(checkpoint))


@dataclass(frozen=True)
class _Measured:
    """One image's metrics; `fits` by prefix, empty where it has no box."""

    looking: Attribution
    areas: dict[str, float]
    fits: dict[str, Fit]
    highest: float


def _measure(
    session: Session, maps: Maps, way: Way, boxes: Boxes, scenes: dict[Path, Scene]
) -> list[_Measured]:
    size = way.size_for(session.checkpoint)
    found = []
    for index, path in enumerate(session.data.paths):
        file = session.data.root / path
        if file not in scenes:
            scenes[file] = _scene(file, path, boxes)
        scene = scenes[file]
        height, width = scene.head.shape
        relevance = on_image(maps[index], height, width, size)
        fits = {}
        if scene.centre is not None:
            region = boxes.region(path, height, width)
            fits = {"": fit(relevance, region), CENTRE: scene.centre}
        looking = look(relevance, scene.head)
        found.append(_Measured(looking, scene.areas, fits, float(maps[index].max(initial=0))))
        session.progress("measuring", index + 1, len(maps))
    return found


def _scene(file: Path, path: str, boxes: Boxes) -> Scene:
    grey = read_grey(file)
    height, width = frame(*grey.shape)
    head_mask = head(resize(grey, height, width))
    centre = None
    if path in boxes:
        centre = fit(centre_map(head_mask), boxes.region(path, height, width))
    areas = {
        "outside_head_area": float((~head_mask).mean()),
        "border_area": float(border(head_mask.shape).mean()),
        "skull_area": float(skull(head_mask).mean()),
    }
    return Scene(head_mask, areas, centre)


def _thresholds(
    session: Session, boxes: Boxes, way: Way, scenes: dict[Path, Scene]
) -> tuple[dict[str, float | None], str]:
    """Where the maps of network and centre are cut, for IoU; and who chose it, in words.

    Boxed validation images choose: the threshold of the highest mean intersection over union.
    """
    none: dict[str, float | None] = {"": None, CENTRE: None}
    if session.split == "valid":
        return none, "nothing: the validation images are those scored, so IoU is left out"
    valid = session.of_split("valid")
    if valid is None:
        return none, "nothing: there is no validation split, so IoU is left out"
    keep = np.flatnonzero([path in boxes for path in valid.data.paths])
    if len(keep) == 0:
        return none, "nothing: no validation image has a box, so IoU is left out"
    valid = valid.only(keep)
    measured = _measure(valid, maps_of(valid, way, session.progress), way, boxes, scenes)
    means = {prefix: np.mean([one.fits[prefix].overlap for one in measured], 0) for prefix in none}
    found = {prefix: float(THRESHOLDS[mean.argmax()].round(2)) for prefix, mean in means.items()}
    return {**found}, f"the {len(keep)} validation images with a box"


def _rows(
    session: Session, measured: Sequence[_Measured], thresholds: Mapping[str, float | None]
) -> tuple[Row, ...]:
    data, classes = session.data, session.checkpoint.classes
    probabilities, groups = session.probabilities, data.units()
    areas = [one.fits[""].area if one.fits else np.nan for one in measured]
    cuts = np.nanquantile(areas, [1 / 3, 2 / 3])
    rows = []
    for index, one in enumerate(measured):
        label = classes[data.labels[index]]
        prediction = classes[int(probabilities[index].argmax())]
        row: Row = {
            "path": data.paths[index],
            "label": label,
            "prediction": prediction,
            "right": prediction == label,
            "probability_of_label": float(probabilities[index, data.labels[index]]),
            "group": int(groups[index]),
            "size": SIZES[int((areas[index] > cuts).sum())] if one.fits else None,
            "map_highest": one.highest,
            "empty_map": one.looking.empty,
        }
        row |= {name: None for prefix in ("", CENTRE) for name in _named(prefix, None, None)}
        for prefix, found in one.fits.items():
            row |= _named(prefix, found, thresholds[prefix])
        looking = asdict(one.looking)
        row |= {name: looking[name] for name in (*ATTRIBUTION, *SPREAD)} | one.areas
        rows.append(row)
    return tuple(rows)


def _named(prefix: str, found: Fit | None, threshold: float | None) -> Row:
    """A fit's metrics by column; the chance levels have no prefix, they are the image's."""
    values: Row = {"energy_pointing_game": None, "pointing_game": None, "average_precision": None}
    values["iou"] = None
    chance: Row = {"box_area_share": None, "pointing_area_share": None}
    if found is not None:
        at = None if threshold is None else int(np.abs(THRESHOLDS - threshold).argmin())
        values = {
            "energy_pointing_game": found.energy,
            "pointing_game": found.hit,
            "average_precision": found.precision,
            "iou": None if at is None else float(found.overlap[at]),
        }
        chance = {"box_area_share": found.area, "pointing_area_share": found.pointing_area}
    return {f"{prefix}{name}": value for name, value in values.items()} | chance


def summarize(rows: Sequence[Row], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """The metrics behind rows: `network`, `centre_prior` and `attribution`, as JSON primitives.

    Subsets of the boxed images: all, each class, tumors by size (thirds of the boxed images), right
    and wrong predictions. `attribution` covers all images and each class, and for each class its
    gap to the other classes.
    """
    boxed = [row for row in rows if row["box_area_share"] is not None]
    splits = {
        "network": _fits(boxed, "", resamples, seed),
        "centre_prior": _fits(boxed, CENTRE, resamples, seed),
        "attribution": _looking(rows, resamples, seed),
    }
    return {name: primitives(found) for name, found in splits.items()}


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


def groups_of(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """(N,) what is resampled as a whole."""
    return np.array([row["group"] for row in rows], dtype=np.int64)


def _fits(boxed: Sequence[Row], prefix: str, resamples: int, seed: int) -> Estimates:
    shared = ("box_area_share", "pointing_area_share")
    names = [*FIT, *([] if boxed[0][f"{prefix}iou"] is None else ["iou"])]
    columns = {name: column(boxed, name if name in shared else f"{prefix}{name}") for name in names}
    return estimates(
        columns,
        subsets(boxed),
        groups_of(boxed),
        ratios=RATIOS,
        proportions=("pointing_game",),
        resamples=resamples,
        seed=seed,
    )


def _looking(rows: Sequence[Row], resamples: int, seed: int) -> Estimates:
    names = [*ATTRIBUTION, *(f"{name}_area" for name in ATTRIBUTION), *SPREAD]
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
        groups_of(rows),
        ratios=_LOOKING_RATIOS,
        contrasts=contrasts,
        resamples=resamples,
        seed=seed,
    )
    return {name: metrics for name, metrics in found.items() if not name.startswith("not ")}
