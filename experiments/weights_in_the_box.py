"""Which weights come with tumorlens, and what half precision changes in them.

    python experiments/weights_in_the_box.py CHECKPOINT... --data_dir DATA

Of each network's checkpoints, all trained on `Training` of the public set, the one with the best
validation macro F1 is taken, never by its test score; it gets calibration where it has none (a
checkpoint of before there was any), and goes to src/tumorlens/weights in half precision. Whole and
rounded it predictions all test images: `results/weights/NAME.json` has the scores and every image
    whose
class changed; where more than one does, nothing is written.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import IN_THE_BOX, Checkpoint
from tumorlens.checkpoint.session import (
    ImageChoice,
    describe,
    images_of,
    near_duplicates_of_training,
)
from tumorlens.data.dataset import Dataset, load_for_scoring, load_for_training
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.scores import score
from tumorlens.export.safetensors_file import half_precision_of
from tumorlens.files import environment, write_json
from tumorlens.labels import MODEL_NAMES
from tumorlens.studies.run import code, machine
from tumorlens.training.calibrate import calibrate
from tumorlens.uncertainty.calibration import calibrated, softmax

OUT = Path(__file__).parent.parent / "results" / "weights"
MOST_CHANGED = 1


def main() -> None:
    """Choose, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data_dir", type=Path, required=True)
    given = parser.parse_args()
    every = [checkpoints.load(path) for path in given.checkpoints]
    for name in MODEL_NAMES:
        runs = [one for one in every if one.model_name == name]
        if runs:
            box(max(runs, key=lambda one: one.selected["valid_macro_f1"]), runs, given.data_dir)


def box(chosen: Checkpoint, runs: list[Checkpoint], data_dir: Path) -> None:
    """Write one network's file and what it was measured at."""
    if chosen.data is None or any(not path.startswith("Testing") for path in chosen.data.test):
        raise SystemExit(f"{chosen.path}: is no run of the official protocol.")
    source = images_of(chosen, ImageChoice(data_dir))
    size = chosen.preprocessing.image_size
    if chosen.temperature is None:
        chosen = calibrate(chosen, load_for_training(source, size))
    test = load_for_scoring(source, size, chosen.classes, split="test")
    small = half_precision_of(chosen)
    whole, light = predictions(chosen, test), predictions(small, test)
    changed = np.flatnonzero(whole.argmax(axis=1) != light.argmax(axis=1))
    if len(changed) > MOST_CHANGED:
        raise SystemExit(f"{chosen.path}: half precision changes {len(changed)} classes.")
    path = IN_THE_BOX / f"{chosen.model_name}.safetensors"
    checkpoints.save(small, path)
    assert chosen.data is not None
    copies = near_duplicates_of_training(chosen.data, test)
    scores = score(
        Predictions(
            path.as_posix(),
            chosen.classes,
            test.paths,
            test.labels,
            softmax(light, chosen.temperature or 1.0),
            copies,
        )
    )
    sure = calibrated(test.labels, light, chosen.temperature, chosen.uncertainty_threshold)
    record = {
        "what": "weights that come with tumorlens",
        "command": f"python experiments/weights_in_the_box.py CHECKPOINT... --data_dir {data_dir}",
        "machine": machine(),
        **code(),
        "runs": 1,
        "bytes": path.stat().st_size,
        "chosen_of": [
            {
                "run": f"{one.settings['run']}, recipe {one.settings['recipe']}",
                "valid_macro_f1": one.selected["valid_macro_f1"],
                "chosen": one.path == chosen.path,
            }
            for one in runs
        ],
        "selected": chosen.selected,
        "test_images": len(test.paths),
        "class_changed_by_half_precision": [test.paths[index] for index in changed],
        "largest_difference_of_a_logit": float(np.abs(whole - light).max()),
        "validation": chosen.calibration,
        "calibrated": vars(sure) if sure else None,
        "scores": scores.to_dict(),
        **environment(),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    write_json(OUT / f"{chosen.model_name}.json", record)
    told = ("bytes", "chosen_of", "class_changed_by_half_precision")
    print(json.dumps({key: record[key] for key in told}, indent=1))


def predictions(loaded: Checkpoint, data: Dataset) -> np.ndarray:
    """(N, K) logits."""
    device = torch.device("cpu")
    network = loaded.network()
    return describe(network, loaded.preprocessing, data.images, device=device)[0]


if __name__ == "__main__":
    main()
