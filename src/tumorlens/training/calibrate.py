"""What a finished run learns from its validation images: how sure to be, what is unlike them."""

from dataclasses import asdict, replace

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
    means, covariance, shrinkage = spread(features[of_train], data.labels[train], data.classes)
    distances = FeatureSpace(means, covariance, np.inf).distances(features[of_valid])
    ood_threshold, alarmed = threshold_for_false_alarms(distances, false_alarms)
    metrics = calibrated(labels, logits[of_valid], temperature, threshold)
    assert metrics is not None
    return replace(
        checkpoint,
        temperature=temperature,
        uncertainty_threshold=threshold,
        feature_covariance=torch.from_numpy(covariance).float(),
        class_means=torch.from_numpy(means).float(),
        ood_threshold=ood_threshold,
        calibration={
            "images": {"train": len(train), "valid": len(valid)},
            **asdict(metrics),
            "precision_wanted": precision,
            "everyday_images": len(again) // len(CHANGES),
            "everyday_accuracy": float((changed.argmax(axis=1) == again).mean()),
            "false_alarms_wanted": false_alarms,
            "false_alarms": alarmed,
            "ood_threshold": ood_threshold,
            "shrinkage": shrinkage,
        },
    )


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
