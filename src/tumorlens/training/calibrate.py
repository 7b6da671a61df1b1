"""What a finished run learns from its validation images: how sure to be, what is unlike them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import changed_inputs, describe
from tumorlens.data.dataset import Dataset
from tumorlens.data.display_changes import CHANGES, EVERYDAY
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent
from tumorlens.uncertainty.calibration import (
    calibrated,
    fit_temperature,
    softmax,
    threshold_for_precision,
)
from tumorlens.uncertainty.out_of_distribution import (
    FeatureSpace,
    spread,
    threshold_for_false_alarms,
)

# Of the answers that are called confident: how many are right on validation images under everyday
# changes of display. Of the validation images: how many may be called unlike; one in a hundred of a
# few hundred images would be told by a handful of them.
PRECISION = 0.95
FALSE_ALARMS = 0.05
# A covariance of more is slow to invert and dwarfs the weights.
MOST_FEATURES = 2048

Floats = npt.NDArray[np.float64]
_CHANGED_AT_MOST = 1000  # validation images that are changed; more would tell little more


def calibrate(
    checkpoint: Checkpoint,
    data: Dataset,
    *,
    precision: float = PRECISION,
    false_alarms: float = FALSE_ALARMS,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """`checkpoint` with temperature, thresholds and the spread of its features.

    A network whose features are none, or more than 2,048 numbers, has no out-of-distribution
    threshold; `calibration` says so.

    All come from the validation images, which chose the epoch too: they are a little better than
    on images that the network has no tie with.

    Args:
        data: the images that it was trained and validated with, at its size.
        precision: share of confident answers that are right, for each class, on validation images
            under everyday changes of display; where no threshold has it, nothing is confident.
        false_alarms: share of them that may be farther than the out-of-distribution threshold.
        device: where to compute; None: the CPU.
        progress: told of the stage "describing".

    Raises:
        TumorlensError: no training or no validation images, or these trained too.
    """
    device = device or torch.device("cpu")
    train, valid = _indices(checkpoint, data)
    network, prepare, both = checkpoint.network(), checkpoint.preprocessing, [*train, *valid]
    logits, features = describe(
        network, prepare, data.images, np.array(both), device=device, progress=progress
    )
    of_train, of_valid = slice(0, len(train)), slice(len(train), None)
    labels = data.labels[valid]
    temperature = fit_temperature(labels, logits[of_valid])
    changed, again = _under_everyday_changes(checkpoint, data, valid, device, progress)
    threshold = threshold_for_precision(again, softmax(changed, temperature), precision)
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
            "precision_wanted": precision,
            "everyday_images": len(again) // len(CHANGES),
            "everyday_accuracy": float((changed.argmax(axis=1) == again).mean()),
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


def _under_everyday_changes(
    checkpoint: Checkpoint,
    data: Dataset,
    valid: npt.NDArray[np.int64],
    device: torch.device,
    progress: Progress,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Logits (C n, K) of validation images under C changes at the highest everyday grade; labels.

    At most `_CHANGED_AT_MOST` images, evenly chosen.
    """
    some = valid[:: -(-len(valid) // _CHANGED_AT_MOST)]
    network, found = checkpoint.network(), []
    for done, change in enumerate(CHANGES.values()):
        inputs = changed_inputs(checkpoint.preprocessing, change, change.grades[EVERYDAY])
        found.append(describe(network, inputs, data.images[some], device=device)[0])
        progress("changing display", done + 1, len(CHANGES))
    return np.concatenate(found), np.tile(data.labels[some], len(CHANGES))


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
