"""The command calibrate: a finished checkpoint calibrated anew, as another checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import ImageChoice, images_of, near_duplicates_of_training
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.device import cpu_threads, pick_device
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.operating_point import OperatingPoint
from tumorlens.files import check_claim, claim, write_manifest
from tumorlens.models.build import last_linear
from tumorlens.progress import Progress, silent
from tumorlens.settings import CalibrateSettings, primitives
from tumorlens.training import calibrate as calibration
from tumorlens.training.class_bias import groups_of
from tumorlens.training.last_layer import LastLayer, retrain
from tumorlens.uncertainty.calibration import fit_temperature

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Finished:
    """What `calibrate` wrote."""

    checkpoint: Checkpoint  # the new one
    path: Path  # its file
    data: Dataset  # training and validation images
    # operating points that there are, the one without offsets first
    points: tuple[OperatingPoint, ...]
    last_layer: LastLayer | None  # the new one; None: the checkpoint's own
    left_out: int  # validation images that show training images and were not used


def calibrate(settings: CalibrateSettings, progress: Progress = silent) -> Finished:
    """Calibrate `settings.checkpoint` anew and write the result to the output folder.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags or the output folder.
    """
    device = pick_device(settings.device)
    loaded = checkpoints.load(settings.checkpoint)
    out = settings.out_dir or settings.checkpoint.parent / "calibration"
    check_claim(out, "calibrate")
    choice = ImageChoice(
        settings.data_dir, splits=settings.splits, fold=settings.fold, patients=settings.patients
    )
    data, left_out = images_of_training(loaded, choice, progress=progress)
    with cpu_threads(settings.threads):
        outputs, layer = calibration.outputs_of(loaded, data, device, progress), None
        others = [
            _of_other_fold(path, settings, loaded, device, progress)
            for path in settings.other_folds
        ]
        if settings.last_layer is not None:
            layer, loaded, outputs = _with_last_layer(settings, loaded, data, outputs)
        found = calibration.calibrate(
            loaded,
            data,
            operating_point=settings.operating_point,
            outputs=outputs,
            others=others,
            device=device,
            progress=progress,
        )
    if layer:
        told: dict[str, Any] = {"groups_by": settings.last_layer, "recall": layer.recall}
        told |= {"images": settings.last_layer_images, "strength": layer.strength}
        found = replace(found, calibration=found.calibration | {"last_layer": told})
    out = claim(out, "calibrate")
    points = calibration.write_frontier(found, data, outputs, out, others)
    checkpoints.save(found, out / "best_model.pt")
    write_manifest(
        out,
        "calibrate",
        settings=primitives(settings),
        checkpoint_sha256=checkpoints.sha256(settings.checkpoint),
        data_fingerprint=data.fingerprint(),
        seed=settings.seed,
    )
    return Finished(found, out / "best_model.pt", data, tuple(points), layer, left_out)


def _of_other_fold(
    path: Path,
    settings: CalibrateSettings,
    loaded: Checkpoint,
    device: torch.device,
    progress: Progress,
) -> calibration.Validated:
    """What another fold's network says of its validation images; nobody of `loaded`'s test split.

    Raises:
        TumorlensError: another network or other classes, or faults of the checkpoint or the data.
    """
    other = checkpoints.load(path)
    if (other.model_name, other.classes) != (loaded.model_name, loaded.classes):
        raise TumorlensError(
            f"--other_folds {path}: is a {other.model_name} of {', '.join(other.classes)}; "
            f"expected a {loaded.model_name} of {', '.join(loaded.classes)}."
        )
    choice = ImageChoice(settings.data_dir, patients=settings.patients)
    data, _ = images_of_training(other, choice, progress=progress)
    valid = data.indices("valid")
    logits, _ = calibration.outputs_of(other, data, device, progress, valid)
    shown = data.only(valid)
    scores = logits / fit_temperature(shown.labels, logits)
    tested = set(loaded.data.test if loaded.data else ())
    table = loaded.data.patients.rows if loaded.data and loaded.data.patients else {}
    people = {table[path]["patient"] for path in tested & table.keys()} - {""}
    names = shown.patients.names if shown.patients else [""] * len(valid)
    kept = np.array(
        [
            path not in tested and name not in people
            for path, name in zip(shown.paths, names, strict=True)
        ]
    )
    return shown.labels[kept], scores[kept], shown.units[kept]


def _with_last_layer(
    settings: CalibrateSettings, loaded: Checkpoint, data: Dataset, outputs: tuple[Floats, Floats]
) -> tuple[LastLayer, Checkpoint, tuple[Floats, Floats]]:
    """The new layer, the checkpoint with it, and what that makes of images it did not learn from.

    Raises:
        TumorlensError: no such column, or a group of fewer than two patients.
    """
    assert settings.last_layer is not None
    split, (_, features) = settings.last_layer_images, outputs
    if not features.shape[1]:
        raise TumorlensError("--last_layer: the network's logits do not come from a linear layer.")
    train = len(data.indices("train"))
    mine = slice(train, None) if split == "valid" else slice(0, train)
    shown = data.only(data.indices(split))
    groups, units = groups_of(shown, settings.last_layer, "--last_layer"), shown.units
    for name in np.unique(groups):
        if len(np.unique(units[groups == name])) < 2:
            raise TumorlensError(
                f"--last_layer {settings.last_layer}: one patient alone of {name} among the "
                f"{split} images, expected two or more of each group; take "
                "--last_layer_images train, or other groups."
            )
    layer = retrain(features[mine], shown.labels, groups, units, seed=settings.seed)
    logits = features @ layer.weight.T + layer.bias
    seen = np.isnan(layer.held_out).any(axis=1, keepdims=True)
    logits[mine] = np.where(seen, logits[mine], layer.held_out)
    changed = checkpoints.with_weights(loaded, _headed(loaded, layer), loaded.selected)
    return layer, changed, (logits, features)


def _headed(loaded: Checkpoint, layer: LastLayer) -> nn.Module:
    """The checkpoint's network with the new layer."""
    network = replace(loaded, offsets=None).network()
    head = last_linear(network)
    assert head is not None  # it has features
    weight, bias = (torch.from_numpy(one).float() for one in (layer.weight, layer.bias))
    head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
    return network


def images_of_training(
    loaded: Checkpoint, choice: ImageChoice, instead: str = "", progress: Progress = silent
) -> tuple[Dataset, int]:
    """Training and validation images, as the checkpoint was trained with or as the flags say.

    Args:
        loaded, choice: see `session.images_of`.
        instead: what to do where there are none, for the refusals.
        progress: see `data.cache.load`.

    Returns:
        The images, and how many validation images are left out because they were trained on.

    Raises:
        TumorlensError: it trained on its validation images, or does not say on which; or faults of
            the folder.
    """
    record = loaded.data
    if record is None and choice.data_dir is not None:
        raise TumorlensError(
            f"--checkpoint {loaded.path}: does not say which images it was trained on, so that "
            f"nothing can tell what others show{instead}."
        )
    if loaded.trained_on_valid:
        raise TumorlensError(
            f"--checkpoint {loaded.path}: was trained on its validation images too "
            f"(--train_on_valid), so that nothing can be measured on others{instead}."
        )
    source = images_of(loaded, choice, progress)
    root = source.folder.root
    data = load_for_training(
        source,
        loaded.preprocessing.image_size,
        on_bad_image="skip",
        # Where the folder has no validation split, the same images are set aside as in the run.
        seed=int(loaded.settings.get("seed") or 0),
        allow_patient_overlap=True,
        progress=progress,
    )
    trained = np.array([], dtype=np.int64)
    if record is not None:  # else `images_of` found no folder
        # Another folder or split than the run's may validate on what trained: it shows no loss.
        valid = data.indices("valid")
        trained = valid[near_duplicates_of_training(record, data.only(valid)) != ""]
        data = data.only(np.setdiff1d(np.arange(len(data.paths)), trained))
    if data.classes != loaded.classes:
        raise TumorlensError(
            f"--data_dir {root}: has the classes {', '.join(data.classes)}, the checkpoint was "
            f"trained on {', '.join(loaded.classes)}; name the folder that it was trained on."
        )
    for split in ("train", "valid"):
        there = set(data.labels[data.indices(split)].tolist())
        lacking = [name for index, name in enumerate(data.classes) if index not in there]
        if lacking:
            but = f" but {len(trained)} that were trained on" if len(trained) else ""
            raise TumorlensError(
                f"--data_dir {root}: no {split} image of {', '.join(lacking)}{but}; measuring the "
                f"recall of every class needs some of each{instead}."
            )
    return data, len(trained)
