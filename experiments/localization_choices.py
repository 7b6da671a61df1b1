"""Which layer and method put the maps on the tumors? On validation images alone.

python experiments/localization_choices.py CHECKPOINT... --boxes boxes.csv [--data_dir data]
    [--patients public] [--sizes 96] [--limit 400] [--out results/localization/layer_choice.json]

For each checkpoint, layer, method and size of the square that the network is shown: energy-based
pointing game over the box's area share, and the pointing game, for all images and for each class,
with 95% intervals over patients. The layer that is best for Grad-CAM is the default of `gradcam`.
"""

import argparse
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data.readers import read_grey
from tumorlens.evaluation.intervals import estimates, primitives
from tumorlens.explain.gradcam import Way, maps_of
from tumorlens.explain.localization import AREAS, METRICS, RATIOS
from tumorlens.explain.map_metrics import fit, frame
from tumorlens.explain.overlay import on_image
from tumorlens.explain.regions import Boxes, read_boxes
from tumorlens.files import write_json

LAYERS = (
    *("layer1", "layer2", "layer3", "layer4"),
    *("layer1*layer2", "layer2*layer3", "layer3*layer4"),
)
COLUMNS = (*METRICS, *AREAS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--boxes", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--patients", type=Path, default=Path("public"))
    parser.add_argument("--split", default="valid")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96])
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--methods", nargs="+", default=("gradcam", "hirescam"))
    parser.add_argument("--limit", type=int, default=400, help="boxed images, drawn with seed 0")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    started, boxes, rows = time.perf_counter(), read_boxes(given.boxes), []
    for file in given.checkpoints:
        session, candidates = _boxed(file, boxes, given)
        regions = _regions(session, boxes)
        for size in given.sizes:
            session.images_at(size)  # decoded before the time is taken
            for layer in given.layers:
                for method in given.methods:
                    way = Way(layer, method, size)
                    rows.append(_row(session, way, regions, given.resamples))
    commit = subprocess.run(
        ("git", "describe", "--always", "--dirty"), capture_output=True, text=True, check=True
    )
    write_json(
        given.out,
        {
            "command": shlex.join(["python", *sys.argv]),
            "commit": commit.stdout.strip(),
            "machine": f"{platform.machine()}, {given.threads} thread, shared with other work",
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "split": given.split,
            "images": f"{len(session.data.paths)} of {candidates} with a box, drawn with seed 0",
            "patients": len(np.unique(session.data.units)),
            "interval": f"95%, bootstrap over patients, {given.resamples} resamples",
            "best": _ranked(rows),
            "rows": rows,
        },
    )


def _boxed(file: Path, boxes: Boxes, given: argparse.Namespace) -> tuple[Session, int]:
    images = ImageChoice(given.data_dir, given.split, patients=given.patients, on_bad_image="skip")
    session = open_session(file, images, device=torch.device("cpu"), batch_size=32)
    boxed = [index for index, path in enumerate(session.data.paths) if path in boxes]
    if not boxed:
        raise SystemExit(f"none of the {session.split} images has a box in {given.boxes}")
    drawn = np.random.default_rng(0).permutation(boxed)[: given.limit]
    return session.only(np.sort(drawn)), len(boxed)


def _regions(session: Session, boxes: Boxes) -> list[np.ndarray]:
    data = session.data
    frames = [frame(*read_grey(data.root / path).shape) for path in data.paths]
    return [boxes.region(path, *sides) for path, sides in zip(data.paths, frames, strict=True)]


def _row(session: Session, way: Way, regions: list[np.ndarray], resamples: int) -> dict[str, Any]:
    loaded, data = session.checkpoint, session.data
    started = time.perf_counter()
    maps = maps_of(session, way)
    seconds = time.perf_counter() - started
    size = way.size_for(loaded)
    fits = [
        fit(on_image(relevance, *region.shape, size), region)
        for relevance, region in zip(maps, regions, strict=True)
    ]
    labels = np.array([data.classes[label] for label in data.labels])
    found = estimates(
        {name: np.array([getattr(one, name) for one in fits]) for name in COLUMNS},
        {"all": np.ones(len(fits), dtype=bool)}
        | {str(name): labels == name for name in np.unique(labels)},
        data.units,
        ratios=RATIOS,
        proportions=("pointing_game",),
        resamples=resamples,
    )
    ratio, hit = found["all"]["energy_ratio"], found["all"]["pointing_game"]
    print(
        f"{loaded.model_name} {way.layer} {way.method} {size} px: energy ratio {ratio.value:.2f} "
        f"({ratio.low:.2f}, {ratio.high:.2f}), pointing {hit.value:.2f}, {seconds:.0f} s",
        file=sys.stderr,
    )
    return {
        "model": loaded.model_name,
        "map_size": size,
        "layer": way.layer,
        "method": way.method,
        "cells": "x".join(map(str, maps.shape[1:])),
        "empty_maps": int((maps.max(axis=(1, 2)) <= 0).sum()),
        "seconds_for_maps": round(seconds, 2),
        "subsets": primitives(found),
    }


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each way's mean over the checkpoints, the highest energy ratio first."""
    by_way: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        way = (row["method"], row["layer"], row["map_size"])
        by_way.setdefault(way, []).append(row["subsets"]["all"])
    means = [
        {
            **dict(zip(("method", "layer", "map_size"), way, strict=True)),
            "energy_ratio": round(np.mean([one["energy_ratio"]["value"] for one in found]), 3),
            "pointing_game": round(np.mean([one["pointing_game"]["value"] for one in found]), 3),
        }
        for way, found in by_way.items()
    ]
    return sorted(means, key=lambda one: (one["method"], -one["energy_ratio"]))


if __name__ == "__main__":
    main()
