"""Which layer, method and size of input puts the maps on the tumors? On validation images alone.

python experiments/localization_choices.py CHECKPOINT... --boxes boxes.csv [--data_dir data]
    [--sizes 96 128 160 224] [--limit 400] [--out results/explain/choices.csv]

A row for each checkpoint, layer, method and size of the square that the network is shown: energy in
the box over chance and the pointing game, for all and for each class, with 95% intervals over
groups of copies. What is best here becomes the default, and is then scored on test images.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data.duplicates import duplicate_groups
from tumorlens.data.readers import read_grey
from tumorlens.evaluation.intervals import Estimates, estimates
from tumorlens.explain.gradcam import METHODS
from tumorlens.explain.map_metrics import fit, frame
from tumorlens.explain.maps import Way, maps_of
from tumorlens.explain.overlay import on_image
from tumorlens.explain.regions import Boxes, read_boxes

LAYERS = (
    "layer1",
    "layer2.0",
    "layer2",
    "layer3",
    "layer4",
    "layer1*layer2",
    "layer2*layer3",
    "layer3*layer4",
)
COLUMNS = ("energy", "area", "hit", "precision")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--boxes", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 160, 224])
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--limit", type=int, default=400, help="boxed images, drawn with seed 0")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    boxes = read_boxes(given.boxes)
    rows: list[dict[str, object]] = []
    for file in given.checkpoints:
        session = _boxed(file, boxes, given)
        for size in given.sizes:
            session.images_at(size)  # decoded before the time is taken
            for layer in given.layers:
                for method in given.methods:
                    rows += _rows(session, Way(layer, method, size), boxes, given)
        if given.out:  # after each checkpoint: an interruption loses no finished one
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("w", newline="", encoding="utf-8") as out:
                _write(out, rows)
    if not given.out:
        _write(sys.stdout, rows)
    _print_best(rows)


def _boxed(file: Path, boxes: Boxes, given: argparse.Namespace) -> Session:
    images = ImageChoice(
        given.data_dir, given.split, allow_patient_overlap=True, on_bad_image="skip"
    )
    session = open_session(file, images, device=torch.device("cpu"), batch_size=32)
    boxed = [index for index, path in enumerate(session.data.paths) if path in boxes]
    if not boxed:
        raise SystemExit(f"none of the {session.split} images has a box in {given.boxes}")
    drawn = np.random.default_rng(0).permutation(boxed)[: given.limit]
    return session.only(np.sort(drawn))


def _rows(
    session: Session, way: Way, boxes: Boxes, given: argparse.Namespace
) -> list[dict[str, object]]:
    loaded = session.checkpoint
    started = time.perf_counter()
    maps = maps_of(session, way)
    seconds = time.perf_counter() - started
    metrics = _metrics(session, maps, way.size_for(loaded), boxes, given)
    print(
        f"{loaded.model_name} {way.layer} {way.method} {way.size}: "
        f"{metrics['all']['ratio'].value:.2f} times chance, "
        f"pointing {metrics['all']['hit'].value:.2f}",
        file=sys.stderr,
    )
    return [
        {
            "checkpoint": session.path.as_posix(),
            "model": loaded.model_name,
            "trained_at": loaded.preprocessing.image_size,
            "part": session.split,
            "map_size": way.size,
            "layer": way.layer,
            "method": way.method,
            "cells": "x".join(map(str, maps.shape[1:])),
            "images": subset,
            "n": found["energy"].n,
            "energy_pointing_game": _round(found["energy"].value),
            "chance": _round(found["area"].value),
            "energy_ratio": _round(found["ratio"].value),
            "ratio_low": _round(found["ratio"].low),
            "ratio_high": _round(found["ratio"].high),
            "pointing_game": _round(found["hit"].value),
            "pointing_low": _round(found["hit"].low),
            "pointing_high": _round(found["hit"].high),
            "average_precision": _round(found["precision"].value),
            "seconds_for_maps": round(seconds, 2),
        }
        for subset, found in metrics.items()
    ]


def _metrics(
    session: Session,
    maps: np.ndarray,
    size: int,
    boxes: Boxes,
    given: argparse.Namespace,
) -> Estimates:
    data = session.data
    fits = []
    for path, relevance in zip(data.paths, maps, strict=True):
        height, width = frame(*read_grey(data.root / path).shape)
        region = boxes.region(path, height, width)
        fits.append(fit(on_image(relevance, height, width, size), region))
    labels = np.array([data.classes[label] for label in data.labels])
    return estimates(
        {name: np.array([getattr(one, name) for one in fits]) for name in COLUMNS},
        {"all": np.ones(len(fits), dtype=bool)}
        | {str(name): labels == name for name in np.unique(labels)},
        duplicate_groups(data.fingerprints),
        ratios={"ratio": ("energy", "area")},
        proportions=("hit",),
        resamples=given.resamples,
    )


def _round(value: float) -> float:
    return round(value, 5)


def _write(out, rows: Sequence[dict[str, object]]) -> None:  # type: ignore[no-untyped-def]
    table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)


def _print_best(rows: Sequence[dict[str, object]]) -> None:
    """By the mean over checkpoints, of all images."""
    found: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for row in rows:
        if row["images"] == "all":
            way = (row["layer"], row["method"], row["map_size"])
            values = (float(str(row["energy_ratio"])), float(str(row["pointing_game"])))
            found.setdefault(way, []).append(values)
    ranked = sorted(
        found.items(), key=lambda item: -float(np.mean([ratio for ratio, _ in item[1]]))
    )
    print("Best ten by energy over chance, mean over checkpoints:", file=sys.stderr)
    for (layer, method, size), means in ranked[:10]:
        ratio, hit = np.mean(means, axis=0)
        line = f"  {layer:22} {method:10} {size} px: {ratio:.2f} times chance, pointing {hit:.3f}"
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
