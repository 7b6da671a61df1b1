"""Are images that are no brain MRI marked as out of distribution, and brain MRI not?

    python experiments/novelty_detection.py CHECKPOINT... [--data_dir DATA] [--out FOLDER]

False alarms: the share of the checkpoint's test images, which neither trained it nor set its
threshold, that are marked. Detection: the share of foreign images that are, kind by kind. They
come from packages alone: photographs, textures, text, microscopy and fundus images of
scikit-image and scikit-learn, handwritten digits, CT and other organs of pydicom, and noise and
plain patterns made here. A checkpoint without calibration gets it first. Writes
out-of-distribution.json, and out-of-distribution.csv with a row an image. Needs the extras `bench`
and `dicom`.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import skimage
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.session import ImageChoice, describe, images_of
from tumorlens.data import volumes as scans
from tumorlens.data.dataset import load_for_training
from tumorlens.data.readers import fit_square, to_grey
from tumorlens.evaluation.intervals import exact_interval
from tumorlens.files import write_json
from tumorlens.studies.run import code, machine
from tumorlens.training.calibrate import calibrate

Grey = npt.NDArray[np.uint8]

SKIMAGE = {
    "photograph": [
        *("astronaut", "camera", "chelsea", "coffee", "coins", "horse", "rocket"),
        *("motorcycle_left", "motorcycle_right", "clock_motion"),
    ],
    "texture": ["brick", "grass", "gravel"],
    "text or drawing": ["page", "text", "logo", "color", "chessboard_GRAY", "chessboard_RGB"],
    "microscopy or fundus": ["cell", "ihc", "microaneurysms", "retina"],
    "sky": ["hubble_deep_field", "moon"],
}
DICOM = {
    "other organ": ["CT_small", "693_J2KI", "liver_1frame", "JPEG2000", "J2K_pixelrep_mismatch"],
    "dose map": ["rtdose"],
}


@dataclass(frozen=True)
class Foreign:
    """An image that is no brain MRI."""

    kind: str
    name: str
    image: Grey


def foreign() -> Iterator[Foreign]:
    """All of them, the same each time."""
    folder = Path(skimage.__file__).parent / "data"
    for kind, names in SKIMAGE.items():
        for name in names:
            file = next(folder.glob(f"{name}.*"))
            with Image.open(file) as image:
                yield Foreign(kind, name, to_grey(image))
    for name, image in zip(("china", "flower"), load_sample_images().images, strict=True):
        yield Foreign("photograph", name, to_grey(Image.fromarray(image)))
    for index, digit in enumerate(load_digits().images[:50]):
        yield Foreign("digit", f"digit{index}", np.rint(digit * 255 / 16).astype(np.uint8))
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for kind, names in DICOM.items():
        for name in names:
            found = scans.read((folder / f"{name}.dcm").read_bytes(), "dicom", 10_000_000)
            yield Foreign(kind, name, found.slices[len(found.slices) // 2])
    rng = np.random.default_rng(0)
    for index in range(10):
        yield Foreign("noise", f"white{index}", rng.integers(0, 256, (128, 128)).astype(np.uint8))
        coarse = rng.integers(0, 256, (8, 8)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
        yield Foreign("noise", f"clouds{index}", np.array(smooth))
    ramp = np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1))
    axis = np.hypot(*np.meshgrid(np.arange(128) - 64, np.arange(128) - 64))
    for name, plain in {
        "black": np.zeros((128, 128)),
        "white": np.full((128, 128), 255),
        "ramp": ramp,
        "disc": np.where(axis < 50, 180, 0),
    }.items():
        yield Foreign("plain pattern", name, plain.astype(np.uint8))


def measure(file: Path, data_dir: Path | None) -> tuple[dict[str, Any], list[list[Any]]]:
    """One checkpoint's metrics, and its rows of the table."""
    loaded = checkpoints.load(file)
    source = images_of(loaded, ImageChoice(data_dir))
    data = load_for_training(source, loaded.preprocessing.image_size)
    if loaded.ood_threshold is None:
        loaded = calibrate(loaded, data)
    space = loaded.decision().space
    assert space is not None

    def distances(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        _, features = describe(
            loaded.network(), loaded.preprocessing, images, device=torch.device("cpu")
        )
        return space.distances(features)

    test = data.indices("test")
    of_test = distances(data.images[test])
    strange = list(foreign())
    size = loaded.preprocessing.image_size
    of_strange = distances(np.stack([fit_square(one.image, size) for one in strange]))
    marked = of_strange > space.threshold
    kinds = {}
    for kind in dict.fromkeys(one.kind for one in strange):
        mine = np.array([one.kind == kind for one in strange])
        kinds[kind] = {"n": int(mine.sum()), "detected": float(marked[mine].mean())}
    every = np.concatenate([of_test, of_strange])
    truth = np.concatenate([np.zeros(len(of_test)), np.ones(len(of_strange))])
    order = np.argsort(np.argsort(every)) + 1.0
    auroc = (order[truth == 1].mean() - (truth.sum() + 1) / 2) / (truth == 0).sum()
    alarms = of_test > space.threshold
    name = f"{loaded.model_name}, {loaded.settings.get('run', file.name)}"
    rows = [[name, "MRI", data.paths[i], f"{d:.4f}"] for i, d in zip(test, of_test, strict=True)]
    rows += [
        [name, one.kind, one.name, f"{d:.4f}"] for one, d in zip(strange, of_strange, strict=True)
    ]
    return {
        "network": loaded.model_name,
        "splits": str(loaded.settings.get("splits")),
        "fold": loaded.settings.get("fold"),
        "threshold": space.threshold,
        "false_alarms": {
            "n": len(of_test),
            "rate": float(alarms.mean()),
            "interval": exact_interval(int(alarms.sum()), len(alarms)),
            "wanted": loaded.calibration["false_alarms_wanted"],
        },
        "detection": {
            "n": len(strange),
            "rate": float(marked.mean()),
            "interval": exact_interval(int(marked.sum()), len(marked)),
            "mean_over_kinds": float(np.mean([kind["detected"] for kind in kinds.values()])),
            "by_kind": kinds,
        },
        "auroc": float(auroc),
    }, rows


def main() -> None:
    """Measure each checkpoint; write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "predict"
    )
    given = parser.parse_args()
    found, table = [], []
    for file in given.checkpoints:
        metrics, rows = measure(file, given.data_dir)
        found.append(metrics)
        table += rows
        alarm, caught = metrics["false_alarms"], metrics["detection"]
        print(
            f"{metrics['network']}: {alarm['rate']:.1%} of {alarm['n']} MRI marked, "
            f"{caught['rate']:.1%} of {caught['n']} others, AUROC {metrics['auroc']:.3f}",
            {kind: round(value["detected"], 2) for kind, value in caught["by_kind"].items()},
        )
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(
        given.out / "out-of-distribution.json",
        {"machine": machine(), **code(), "checkpoints": found},
    )
    with (given.out / "out-of-distribution.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["network", "kind", "name", "distance"])
        writer.writerows(table)


if __name__ == "__main__":
    main()
