"""The weights that come with tumorlens: trained on all of Training, calibrated by runs of folds.

    python experiments/bundled_weights.py CHECKPOINT --folds FOLD.pt ... --data_dir DATA

CHECKPOINT was trained with --train_on_valid on `Training` of the public set, so that it has no
validation images of its own. What says how sure to be comes from runs of the same recipe on folds
of patients, whose validation people did not train them: the median temperature and
out-of-distribution threshold, the highest threshold of "confident", and the calibration scores of
all of them for sets of classes. Where its features lie
comes from its own training images. Whole and in half precision it predicts all test images:
`results/weights/NAME.json` has both scores, those of the weights that it replaces beside them.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import BUNDLED, Checkpoint
from tumorlens.checkpoint.session import (
    ImageChoice,
    describe,
    images_of,
    near_duplicates_of_training,
)
from tumorlens.data.dataset import Dataset, load_for_scoring
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.scores import score
from tumorlens.export.export import half_precision_of
from tumorlens.files import environment, write_json
from tumorlens.studies.run import code, machine
from tumorlens.uncertainty.calibration import calibrated, softmax
from tumorlens.uncertainty.conformal import Conformal
from tumorlens.uncertainty.out_of_distribution import spread

OUT = Path(__file__).parent.parent / "results" / "weights"
MOST_CHANGED = 1


def main() -> None:
    """Calibrate, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--folds", type=Path, nargs="+", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chosen = checkpoints.load(asked.checkpoint)
    if chosen.data is None or any(not path.startswith("Testing") for path in chosen.data.test):
        raise SystemExit(f"{chosen.path}: is no run of the official protocol.")
    folds = [checkpoints.load(path) for path in asked.folds]
    source = images_of(chosen, ImageChoice(asked.data_dir, allow_patient_overlap=True))
    size = chosen.preprocessing.image_size
    train = load_for_scoring(source, size, chosen.classes, split="train")
    test = load_for_scoring(source, size, chosen.classes, split="test")
    chosen = borrowed(chosen, folds, train)
    small = half_precision_of(chosen)
    whole, light = predictions(chosen, test), predictions(small, test)
    changed = np.flatnonzero(whole.argmax(axis=1) != light.argmax(axis=1))
    if len(changed) > MOST_CHANGED:
        raise SystemExit(f"{chosen.path}: half precision changes {len(changed)} classes.")
    path, out = BUNDLED / f"{chosen.model_name}.safetensors", OUT / f"{chosen.model_name}.json"
    last = json.loads(out.read_text(encoding="utf-8"))
    same = last["trained"] == chosen.settings  # calibrated anew
    before = last["scores_of_the_weights_before"] if same else last["scores"]["all"]
    checkpoints.save(small, path)
    assert chosen.data is not None
    scores = score(
        Predictions(
            path.as_posix(),
            chosen.classes,
            test.paths,
            test.labels,
            softmax(light, chosen.temperature or 1.0),
            near_duplicates_of_training(chosen.data, test),
        )
    )
    sure = calibrated(test.labels, light, chosen.temperature, chosen.uncertainty_threshold)
    record = {
        "what": "weights that come with tumorlens",
        "command": f"python experiments/bundled_weights.py CHECKPOINT --folds {len(folds)} runs",
        "machine": machine(),
        **code(),
        "runs": 1,
        "bytes": path.stat().st_size,
        "trained": chosen.settings,
        "calibrated_by": [
            f"{one.model_name}, fold {one.settings['fold']}, seed {one.settings['seed']}"
            for one in folds
        ],
        "test_images": len(test.paths),
        "class_changed_by_half_precision": [test.paths[index] for index in changed],
        "largest_difference_of_a_logit": float(np.abs(whole - light).max()),
        "calibration": chosen.calibration,
        "calibrated": vars(sure) if sure else None,
        "scores": scores.to_dict(),
        "scores_of_the_weights_before": before,
        **environment(),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    write_json(out, record)
    told = ("bytes", "calibration", "class_changed_by_half_precision")
    print(json.dumps({key: record[key] for key in told}, indent=1))


def borrowed(chosen: Checkpoint, folds: list[Checkpoint], train: Dataset) -> Checkpoint:
    """A checkpoint with the folds' temperature and thresholds and its own features' spread."""

    def every(name: str) -> list[float]:
        return [float(getattr(one, name)) for one in folds]

    features = describe(
        chosen.network(), chosen.preprocessing, train.images, device=torch.device("cpu")
    )[1]
    means, covariance, shrinkage = spread(features, train.labels, train.classes)
    temperature = float(np.median(every("temperature")))
    threshold = max(every("uncertainty_threshold"))
    ood_threshold = float(np.median(every("ood_threshold")))
    return replace(
        chosen,
        temperature=temperature,
        uncertainty_threshold=threshold,
        feature_covariance=torch.from_numpy(covariance).float(),
        class_means=torch.from_numpy(means).float(),
        ood_threshold=ood_threshold,
        conformal=vars(pooled(folds)),
        calibration={
            "source": f"{len(folds)} runs of the same recipe on patient-level folds",
            "temperature": temperature,
            "threshold": threshold,
            "ood_threshold": ood_threshold,
            "shrinkage": shrinkage,
            "of_folds": [one.calibration for one in folds],
        },
    )


def pooled(checkpoints_of_folds: list[Checkpoint]) -> Conformal:
    """Calibration scores of all folds, whose validation people are others each.

    Each score is of the network of its own fold (cross-conformal: Vovk 2015, "Cross-conformal
    predictors"), so that coverage is what the folds' networks have, about.
    """
    folds = []
    for one in checkpoints_of_folds:
        if one.conformal is None:
            raise SystemExit(f"{one.path}: keeps no calibration scores.")
        folds.append(Conformal.of(one.conformal))
    counts = tuple(np.sum([one.counts for one in folds], axis=0).tolist())
    probabilities, weights = [], []
    for label, count in enumerate(counts):
        scores = np.concatenate([one.probabilities[label] for one in folds])
        parts = [np.array(one.weights[label]) * (one.counts[label] + 1) for one in folds]
        order = np.argsort(scores)
        probabilities.append(tuple(scores[order].tolist()))
        weights.append(tuple((np.concatenate(parts)[order] / (count + 1)).tolist()))
    return Conformal(folds[0].unit, counts, tuple(probabilities), tuple(weights))


def predictions(loaded: Checkpoint, data: Dataset) -> np.ndarray:
    """(N, K) logits."""
    device = torch.device("cpu")
    network = loaded.network()
    return describe(network, loaded.preprocessing, data.images, device=device)[0]


if __name__ == "__main__":
    main()
