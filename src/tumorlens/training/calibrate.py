"""What a finished run learns from its validation images: how sure to be, what is unlike them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe
from tumorlens.data.dataset import Dataset
from tumorlens.data.display_changes import CHANGES, EVERYDAY
from tumorlens.errors import TumorlensError
from tumorlens.evaluation import plots
from tumorlens.evaluation.operating_point import (
    OperatingPoint,
    fit_offsets,
    frontier,
    frontier_figure,
)
from tumorlens.files import SCHEMA, write_json
from tumorlens.progress import Progress, silent
from tumorlens.settings import OperatingPointName
from tumorlens.uncertainty.calibration import (
    calibrated,
    fit_temperature,
    softmax,
    threshold_for_precision,
)
from tumorlens.uncertainty.conformal import scores_of
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

# What is said of a network whose logits cannot be given offsets.
NO_OFFSETS = (
    "--operating_point: the network's logits do not come from a linear layer, whose bias would "
    "have the offsets; leave it out."
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
# (N,) labels of validation images, (N, K) their log-probabilities but for a constant of each image,
# (N,) what is resampled as a whole.
Validated = tuple[Integers, Floats, Integers]
_CPU = torch.device("cpu")
_CHANGED_AT_MOST = 1000  # validation images that are changed; more would tell little more


def calibrate(
    checkpoint: Checkpoint,
    data: Dataset,
    *,
    operating_point: OperatingPointName = "none",
    outputs: tuple[Floats, Floats] | None = None,
    others: Sequence[Validated] = (),
    precision: float = PRECISION,
    device: torch.device = _CPU,
    progress: Progress = silent,
) -> Checkpoint:
    """`checkpoint` with temperature, offsets, thresholds, conformal scores, spread of its features.

    All come from the validation images, which chose the epoch too: they are a little better than
    on images that the network has no tie with. A network whose features are none, or more than
    2,048 numbers, has no out-of-distribution threshold; `calibration` says so.

    Args:
        data: the images that it was trained and validated with, at its size.
        operating_point: what the offsets are for; "none": none, nor those of before.
        outputs: see `outputs_of`, where its own would be of images that it learned from.
        others: what networks of other folds say of their validation images, to fit the offsets.
        precision: share of confident answers that are right, for each class, on validation images
            under everyday changes of display; where no threshold has it, nothing is confident.
        device, progress: where to compute; told of the stage "describing".

    Raises:
        TumorlensError: no training or no validation images, or these trained too.
    """
    train, valid = trained_and_validated(checkpoint, data)
    logits, features = outputs or outputs_of(checkpoint, data, device, progress)
    labels, units, logits = data.labels[valid], data.only(valid).units, logits[len(train) :]
    temperature = fit_temperature(labels, logits)
    if operating_point != "none" and not features.shape[1]:
        raise TumorlensError(NO_OFFSETS)
    every = pooled([(labels, logits / temperature, units), *others])
    point = fit_offsets(*every, operating_point)
    offsets = None if operating_point == "none" else point.offsets
    checkpoint = replace(checkpoint, temperature=temperature, offsets=offsets)
    logits = logits + temperature * np.array(point.offsets)
    changed, again = _under_everyday_changes(checkpoint, data, valid, device, progress)
    threshold = threshold_for_precision(again, softmax(changed, temperature), precision)
    space, facts = _space(features, data)
    metrics = calibrated(labels, logits, temperature, threshold)
    own = scores_of(labels, softmax(logits, temperature), units, known=bool(data.patients))
    return replace(
        checkpoint,
        uncertainty_threshold=threshold,
        **space,
        conformal=vars(own),
        calibration={
            "images": {"train": len(train), "valid": len(valid), "offsets": len(every[0])},
            **(asdict(metrics) if metrics else {}),
            "precision_wanted": precision,
            "everyday_images": len(again) // len(CHANGES),
            "everyday_accuracy": float((changed.argmax(axis=1) == again).mean()),
            **facts,
            "operating_point": point.to_dict(),
        },
    )


def pooled(every: Sequence[Validated]) -> Validated:
    """Validation images of several networks as of one; their patients are others each."""
    labels, scores, units = zip(*every, strict=True)
    first = np.cumsum([0, *(one.max(initial=-1) + 1 for one in units[:-1])])
    shifted = [one + start for one, start in zip(units, first, strict=True)]
    return np.concatenate(labels), np.concatenate(scores), np.concatenate(shifted)


def outputs_of(
    checkpoint: Checkpoint,
    data: Dataset,
    device: torch.device,
    progress: Progress = silent,
    chosen: Integers | None = None,
) -> tuple[Floats, Floats]:
    """Logits (M, K), without offsets, and features (M, D) of the images that `chosen` names.

    None: of the training images, then of the validation images.
    """
    if chosen is None:
        chosen = np.concatenate(trained_and_validated(checkpoint, data))
    network, prepare = replace(checkpoint, offsets=None).network(), checkpoint.preprocessing
    return describe(network, prepare, data.images, chosen, device=device, progress=progress)


def write_frontier(
    checkpoint: Checkpoint,
    data: Dataset,
    outputs: tuple[Floats, Floats],
    folder: Path,
    others: Sequence[Validated] = (),
) -> list[OperatingPoint]:
    """What other operating points would do, as `operating_points.json` and a plot in `folder`.

    Args:
        checkpoint: calibrated.
        data: as for `calibrate`.
        outputs: of `outputs_of`.
        folder: is there.
        others: as for `calibrate`.
    """
    train, valid = trained_and_validated(checkpoint, data)
    scores = outputs[0][len(train) :] / (checkpoint.temperature or 1.0)
    every = pooled([(data.labels[valid], scores, data.only(valid).units), *others])
    points = frontier(*every)
    content = {"schema": SCHEMA, "classes": list(checkpoint.classes), "images": len(every[0])}
    write_json(
        folder / "operating_points.json", content | {"points": [one.to_dict() for one in points]}
    )
    title = f"{checkpoint.model_name}, operating points on {len(every[0])} validation images"
    plots.save(frontier_figure(points, title), folder / "operating_points.png")
    return points


def _space(features: Floats, data: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's entries of where the features lie, None where there are none or too many.

    And how they were found.
    """
    labels, width = data.labels[data.indices("train")], features.shape[1]
    if not 0 < width <= MOST_FEATURES:
        why = f"{width:,} features enter its last linear layer, more than {MOST_FEATURES:,}"
        if not width:
            why = "its logits do not come from a linear layer, whose input would be its features"
        none = dict.fromkeys(("feature_covariance", "class_means", "ood_threshold"))
        return none, {"ood_not_available": why}
    means, covariance, shrinkage = spread(features[: len(labels)], labels, data.classes)
    distances = FeatureSpace(means, covariance, np.inf).distances(features[len(labels) :])
    threshold, alarmed = threshold_for_false_alarms(distances, FALSE_ALARMS)
    entries = {
        "feature_covariance": torch.from_numpy(covariance).float(),
        "class_means": torch.from_numpy(means).float(),
        "ood_threshold": threshold,
    }
    return entries, {
        "false_alarms_wanted": FALSE_ALARMS,
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
        inputs = change.before(checkpoint.preprocessing, change.grades[EVERYDAY])
        found.append(describe(network, inputs, data.images[some], device=device)[0])
        progress("changing display", done + 1, len(CHANGES))
    return np.concatenate(found), np.tile(data.labels[some], len(CHANGES))


def trained_and_validated(
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
