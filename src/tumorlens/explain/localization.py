"""Do a network's maps lie on the tumor? Measured against boxes or masks, and against chance.

Every map is that of the image's true class. Images without a box count for the attribution outside
the tumor alone. A centre prior, one Gaussian in the middle of every head, is measured beside the
network: what it reaches is no skill of a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.checkpoint.session import Session
from tumorlens.data.readers import read_grey
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import Estimates, estimates, primitives
from tumorlens.explain.gradcam import Maps, Way, maps_of
from tumorlens.explain.map_metrics import (
    THRESHOLDS,
    Attribution,
    Fit,
    Mask,
    attribution,
    centre_map,
    fit,
    head,
)
from tumorlens.explain.overlay import on_image
from tumorlens.explain.regions import Boxes
from tumorlens.models.build import map_layer

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

METRICS = ("energy_pointing_game", "pointing_game", "average_precision")
AREAS = ("box_area_share", "pointing_area_share")
ATTRIBUTION = ("outside_head", "border", "skull")
SPREAD = ("entropy", "spread")
SIZES = ("small", "medium", "large")
CENTRE = "centre_prior_"
RATIOS = {"energy_ratio": ("energy_pointing_game", "box_area_share")}


@dataclass(frozen=True)
class Scene:
    """What is measured of an image itself, whatever the network."""

    head: Mask  # (H, W) in the frame, see `map_metrics.head`
    even: Attribution  # of a map that is the same everywhere: the shares of the area


@dataclass(frozen=True, eq=False)
class Localization:
    """How the maps of a network lie."""

    name: str  # of the network
    # JSON primitives: how it was measured, then `network` and `centre_prior`, each subset to metric
    # to value, low, high and n; `attribution` likewise
    metrics: dict[str, Any]
    # one an image of the split, JSON primitives by column; None where it has no box
    rows: tuple[Row, ...]
    maps: Maps  # (N, h, w) raw relevance, in the order of `rows`
    size: int  # side of the square input that the maps lie over, pixels


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
        scenes: what is known of the images by path; what another network needs too is added.

    Raises:
        TumorlensError: faults of the boxes or the data; no image of the split has a box.
    """
    checkpoint, data = session.checkpoint, session.data
    with_box = sum(path in boxes for path in data.paths)
    if not with_box:
        raise TumorlensError(
            f"--boxes {boxes.source}: none of the {len(data.paths)} {session.split} images in "
            f"{data.root} has a box; it lists {next(iter(boxes.boxes or boxes.masks))}, the split "
            f"has {data.paths[0]}. Paths are relative to the data folder; --split names another "
            "split."
        )
    known = {} if scenes is None else scenes
    valid, why = _validation(session, boxes)
    maps, measured = _measure(session, way, boxes, known)
    cuts: dict[str, float | None] = {"": None, CENTRE: None}
    if valid is not None:  # the highest mean IoU of these decides
        _, of_valid = _measure(valid, way, boxes, known)
        for prefix in cuts:
            means = np.mean([one.fits[prefix].overlap for one in of_valid], axis=0)
            cuts[prefix] = float(THRESHOLDS[means.argmax()].round(2))
    rows = _rows(session, measured, cuts)
    caveats = session.split_caveats
    if checkpoint.data is None:
        caveats.append("The checkpoint does not say which images it was trained on.")
    metrics = {
        "network": checkpoint.model_name,
        "split": session.split,
        "images": len(rows),
        "images_with_box": with_box,
        "skipped": data.skipped,
        "boxes": boxes.source.name,
        "target": "the true class of each image",
        "layer": way.layer or map_layer(session.network),
        "method": way.method,
        "input_pixels_for_maps": way.size_for(checkpoint),
        "cells": list(maps.shape[1:]),
        "empty_maps_with_box": int(sum(row["empty_map"] for row in rows if row["box_area_share"])),
        "interval": f"95%, percentile bootstrap over patients where they are known, else groups "
        f"of near-duplicates, {resamples} resamples",
        "iou_threshold": {"network": cuts[""], "centre_prior": cuts[CENTRE], "chosen_on": why},
        "caveats": caveats,
        **_summary(rows, resamples=resamples, seed=seed),
    }
    return Localization(checkpoint.model_name, metrics, rows, maps, way.size_for(checkpoint))


@dataclass(frozen=True)
class _Measured:
    """One image; `fits` by prefix of their columns, empty where it has no box."""

    scene: Scene
    attribution: Attribution
    fits: dict[str, Fit]
    highest: float


def _measure(
    session: Session, way: Way, boxes: Boxes, scenes: dict[Path, Scene]
) -> tuple[Maps, list[_Measured]]:
    maps, measured = maps_of(session, way, session.progress), []
    for index, path in enumerate(session.data.paths):
        file = session.data.root / path
        if file not in scenes:
            head_mask = head(read_grey(file))
            scenes[file] = Scene(head_mask, attribution(np.zeros(head_mask.shape), head_mask))
        scene = scenes[file]
        height, width = scene.head.shape
        relevance = on_image(maps[index], height, width, way.size_for(session.checkpoint))
        lies, fits = attribution(relevance, scene.head), {}
        if path in boxes:
            region = boxes.region(path, height, width)
            fits = {"": fit(relevance, region), CENTRE: fit(centre_map(scene.head), region)}
        measured.append(_Measured(scene, lies, fits, float(maps[index].max(initial=0))))
        session.progress("measuring", index + 1, len(maps))
    return maps, measured


def _validation(session: Session, boxes: Boxes) -> tuple[Session | None, str]:
    """The validation images with a box, on which maps are cut for IoU; and what chose the cut."""
    if session.split == "valid":
        return None, "nothing: the validation images are those scored, so IoU is left out"
    valid = session.of_split("valid")
    if valid is None:
        return None, "nothing: there is no validation split, so IoU is left out"
    keep = np.flatnonzero([path in boxes for path in valid.data.paths])
    if len(keep) == 0:
        return None, "nothing: no validation image has a box, so IoU is left out"
    return valid.only(keep), f"the {len(keep)} validation images with a box"


def _rows(
    session: Session, measured: Sequence[_Measured], thresholds: Mapping[str, float | None]
) -> tuple[Row, ...]:
    data, classes = session.data, session.checkpoint.classes
    probabilities, groups = session.probabilities, data.units
    areas = [one.fits[""].box_area_share if one.fits else np.nan for one in measured]
    thirds = np.nanquantile(areas, [1 / 3, 2 / 3])
    rows = []
    for index, one in enumerate(measured):
        label, best = int(data.labels[index]), int(probabilities[index].argmax())
        row: Row = {
            "path": data.paths[index],
            "label": classes[label],
            "prediction": classes[best],
            "right": label == best,
            "probability": float(probabilities[index, best]),
            "probability_of_label": float(probabilities[index, label]),
            "group": int(groups[index]),
            "size": SIZES[int((areas[index] > thirds).sum())] if one.fits else None,
            "map_highest": one.highest,
            "empty_map": one.attribution.empty,
        }
        row |= {name: getattr(one.fits.get(""), name, None) for name in AREAS}
        for prefix, threshold in thresholds.items():
            found = one.fits.get(prefix)
            row |= {f"{prefix}{name}": getattr(found, name, None) for name in METRICS}
            row[f"{prefix}iou"] = None
            if found is not None and threshold is not None:
                at = int(np.abs(THRESHOLDS - threshold).argmin())
                row[f"{prefix}iou"] = float(found.overlap[at])
        row |= {name: getattr(one.attribution, name) for name in (*ATTRIBUTION, *SPREAD)}
        row |= {f"{name}_area": getattr(one.scene.even, name) for name in ATTRIBUTION}
        rows.append(row)
    return tuple(rows)


def _summary(rows: Sequence[Row], *, resamples: int, seed: int) -> dict[str, Any]:
    """The metrics behind rows: `network`, `centre_prior` and `attribution`, as JSON primitives.

    Subsets of the images with a box: all, each class, tumors by size (thirds of these images),
    right and wrong predictions. `attribution` covers all images and each class, and for each class
    its gap to the other classes.
    """
    with_box = [row for row in rows if row["box_area_share"] is not None]
    found = {
        "network": _of_fits(with_box, "", resamples, seed),
        "centre_prior": _of_fits(with_box, CENTRE, resamples, seed),
        "attribution": _of_attribution(rows, resamples, seed),
    }
    return {name: primitives(one) for name, one in found.items()}


def column(rows: Sequence[Row], name: str) -> Floats:
    """(N,) values, NaN where there are none."""
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)


def subsets(rows: Sequence[Row]) -> dict[str, npt.NDArray[np.bool_]]:
    """(N,) which of the images with a box are in which subset."""
    found = {"all": np.ones(len(rows), dtype=bool)}
    for key, names in (("label", sorted({row["label"] for row in rows})), ("size", SIZES)):
        found |= {name: np.array([row[key] == name for row in rows]) for name in names}
    found["right"] = np.array([bool(row["right"]) for row in rows])
    found["wrong"] = ~found["right"]
    return found


def groups_of(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """(N,) what is resampled as a whole."""
    return np.array([row["group"] for row in rows], dtype=np.int64)


def _of_fits(rows: Sequence[Row], prefix: str, resamples: int, seed: int) -> Estimates:
    columns = {name: column(rows, f"{prefix}{name}") for name in METRICS}
    columns |= {name: column(rows, name) for name in AREAS}
    if rows[0][f"{prefix}iou"] is not None:
        columns["iou"] = column(rows, f"{prefix}iou")
    return estimates(
        columns,
        subsets(rows),
        groups_of(rows),
        ratios=RATIOS,
        proportions=("pointing_game",),
        resamples=resamples,
        seed=seed,
    )


def _of_attribution(rows: Sequence[Row], resamples: int, seed: int) -> Estimates:
    names = [*ATTRIBUTION, *(f"{name}_area" for name in ATTRIBUTION), *SPREAD]
    inside = {"all": np.ones(len(rows), dtype=bool)}
    contrasts = {}
    for label in sorted({row["label"] for row in rows}):
        inside[label] = np.array([row["label"] == label for row in rows])
        inside[f"not {label}"] = ~inside[label]
        contrasts[f"{label} minus the others"] = (label, f"not {label}")
    found = estimates(
        {name: column(rows, name) for name in names},
        inside,
        groups_of(rows),
        ratios={f"{name}_over_chance": (name, f"{name}_area") for name in ATTRIBUTION},
        contrasts=contrasts,
        resamples=resamples,
        seed=seed,
    )
    return {name: metrics for name, metrics in found.items() if not name.startswith("not ")}
