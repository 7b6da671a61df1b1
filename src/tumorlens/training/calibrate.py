"""What a finished run learns from its validation images: how sure to be, what is unlike them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe
from tumorlens.data.dataset import Dataset
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent
from tumorlens.uncertainty.calibration import (
    calibrated,
    fit_temperature,
    softmax,
    threshold_for_coverage,
)
from tumorlens.uncertainty.out_of_distribution import (
    FeatureSpace,
    spread,
    threshold_for_false_alarms,
)

# Of the validation images: how many get an answer, and how many may be called unlike. One in a
# hundred of a few hundred images would be told by a handful of them.
COVERAGE = 0.95
FALSE_ALARMS = 0.05
# A covariance of more is slow to invert and dwarfs the weights.
MOST_FEATURES = 2048

Floats = npt.NDArray[np.float64]


def calibrate(
    checkpoint: Checkpoint,
    data: Dataset,
    *,
    coverage: float = COVERAGE,
    false_alarms: float = FALSE_ALARMS,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """`checkpoint` with temperature, thresholds and the spread of its features.

    A network whose features are none, or more than 2,048 numbers, has no out-of-distribution
    threshold; `calibration` says so.

    Temperature and thresholds come from the validation images, which chose the epoch too: they
    are a little better than on images that the network has no tie with.

    Args:
        data: the images that it was trained and validated with, at its size.
        coverage: share of the validation images whose top probability reaches the threshold.
        false_alarms: share of them that may be farther than the out-of-distribution threshold.
        device: where to compute; None: the CPU.
        progress: told of the stage "describing".

    Raises:
        TumorlensError: there are no training images or no validation images, or these trained too.
    """
    train, valid = _indices(checkpoint, data)
    logits, features = describe(
        checkpoint.network(),
        checkpoint.preprocessing,
        data.images,
        np.concatenate([train, valid]),
        device=device or torch.device("cpu"),
        progress=progress,
    )
    of_train, of_valid = slice(0, len(train)), slice(len(train), None)
    labels = data.labels[valid]
    temperature = fit_temperature(labels, logits[of_valid])
    threshold, covered = threshold_for_coverage(softmax(logits[of_valid], temperature), coverage)
    space, facts = _space(
        features[of_train], data.labels[train], data.classes, features[of_valid], false_alarms
    )
    metrics = calibrated(labels, logits[of_valid], temperature, threshold)
    assert metrics is not None
    return replace(
        checkpoint,
        temperature=temperature,
        uncertainty_threshold=threshold,
        feature_covariance=torch.from_numpy(space.covariance).float() if space else None,
        class_means=torch.from_numpy(space.means).float() if space else None,
        ood_threshold=space.threshold if space else None,
        calibration={
            "images": {"train": len(train), "valid": len(valid)},
            **asdict(metrics),
            "coverage_wanted": coverage,
            "coverage": covered,
            **facts,
        },
    )


def _space(
    trained: Floats,
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    validated: Floats,
    false_alarms: float,
) -> tuple[FeatureSpace | None, dict[str, Any]]:
    """Where the features lie, and how that was found; None: there are none, or too many."""
    width = trained.shape[1]
    if not 0 < width <= MOST_FEATURES:
        why = f"{width:,} features enter its last linear layer, more than {MOST_FEATURES:,}"
        if not width:
            why = "its logits do not come from a linear layer, whose input would be its features"
        return None, {"ood_not_available": why}
    means, covariance, shrinkage = spread(trained, labels, classes)
    distances = FeatureSpace(means, covariance, np.inf).distances(validated)
    threshold, alarmed = threshold_for_false_alarms(distances, false_alarms)
    return FeatureSpace(means, covariance, threshold), {
        "false_alarms_wanted": false_alarms,
        "false_alarms": alarmed,
        "ood_threshold": threshold,
        "shrinkage": shrinkage,
    }


def _indices(
    checkpoint: Checkpoint, data: Dataset
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of the training and of the validation images, which must not have trained."""
    if checkpoint.trained_on_valid:
        raise TumorlensError(
            "--train_on_valid: the network was trained on its validation images too, which "
            "cannot calibrate it; train without that flag."
        )
    train, valid = data.indices("train"), data.indices("valid")
    if not len(train) or not len(valid):
        raise TumorlensError(
            f"--data_dir {data.root}: {len(train)} training and {len(valid)} validation images; "
            "calibration needs both."
        )
    return train, valid
