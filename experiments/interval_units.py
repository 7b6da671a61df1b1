"""How much wider is an interval when patients are resampled than when images are?

    python experiments/interval_units.py [FOLDER]

FOLDER is a study's (default: results/patients). Each network's finished runs, one a fold, are
pooled: every image is scored once, by the network that never saw its patient. Writes
FOLDER/intervals_over_patients_and_images.json: of each metric the width of its 95% interval by both
units, and their ratio.
"""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tumorlens.comparison.run_files import read_study
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.scores import score
from tumorlens.files import write_json
from tumorlens.studies.run import code, machine

FOLDER = Path(__file__).parents[1] / "results" / "patients"
NAME = "intervals_over_patients_and_images.json"
RESAMPLES = 2000


def pooled(folds: list[Predictions]) -> Predictions:
    """The predictions of several folds as one; a group's number is its fold's."""
    first = folds[0]
    assert all(one.groups is not None and one.patients is not None for one in folds)
    return Predictions(
        source="pooled folds",
        classes=first.classes,
        paths=tuple(path for one in folds for path in one.paths),
        labels=np.concatenate([one.labels for one in folds]),
        probabilities=np.concatenate([one.probabilities for one in folds]),
        groups=tuple(
            f"{fold}/{name}" for fold, one in enumerate(folds) for name in one.groups or ()
        ),
        patients=tuple(name for one in folds for name in one.patients or ()),
    )


def widths(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Metric to its value, the width of its interval by unit, and their ratio."""
    alone = replace(predictions, groups=None, patients=None)
    by_patient = score(predictions, resamples=RESAMPLES).all.metrics
    by_image = score(alone, resamples=RESAMPLES).all.metrics
    found = {}
    for name in ("accuracy", "macro_f1", *(f"recall_{label}" for label in predictions.classes)):
        patients, images = (one[name].high - one[name].low for one in (by_patient, by_image))
        found[name] = {
            "value": round(by_patient[name].value, 4),
            "width_over_patients": round(patients, 4),
            "width_over_images": round(images, 4),
            "ratio": round(patients / images, 2),
        }
    return found


def main(folder: Path) -> None:
    """Write the file and print the ratios."""
    runs = read_study(folder)
    networks = {}
    for model in sorted({run.model for run in runs}):
        mine = sorted(
            (run for run in runs if run.model == model), key=lambda run: (run.seed, run.fold or 0)
        )
        mine = [run for run in mine if run.seed == mine[0].seed]
        predictions = pooled([run.predictions() for run in mine])
        patients, others = predictions.unit_counts
        metrics = widths(predictions)
        networks[model] = {
            "runs": [run.name for run in mine],
            "images": len(predictions.paths),
            "patients": patients,
            "groups_of_images_without_patient": others,
            "metrics": metrics,
            "narrower_over_patients": [name for name, one in metrics.items() if one["ratio"] < 1],
        }
        for name, one in metrics.items():
            print(f"{model:12} {name:18} {one}")
    write_json(
        folder / NAME,
        {
            "what": "width of 95% intervals when patients, or single images, are resampled",
            "command": shlex.join(["python", "experiments/interval_units.py", *sys.argv[1:]]),
            "resamples": RESAMPLES,
            "machine": machine(),
            **code(),
            "networks": networks,
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
