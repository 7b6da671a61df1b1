"""What a checkpoint's network answers to the images that it is scored on; writes no file."""

from dataclasses import replace
from pathlib import Path

from tumorlens.checkpoint import file as checkpoints
from tumorlens.data.dataset import load_for_scoring
from tumorlens.device import cpu_threads, pick_device
from tumorlens.evaluation.evaluate import (
    copies_of_training,
    images_of,
    known_of,
    patients_of,
    predict,
)
from tumorlens.evaluation.predictions import Predictions
from tumorlens.progress import Progress, silent
from tumorlens.settings import CompareSettings
from tumorlens.uncertainty.calibration import softmax


def of_checkpoint(
    path: Path, settings: CompareSettings, progress: Progress = silent
) -> tuple[Predictions, str]:
    """Answers to the test images (else the validation images), and the network's name.

    Args:
        path: the checkpoint.
        settings: data folder, device and the like.
        progress: told of "decoding" and "predicting".

    Raises:
        TumorlensError: faults of the checkpoint or the data.
    """
    loaded = checkpoints.load(path)
    root, assignment = images_of(loaded, settings.data_dir, None, None, progress)
    data = load_for_scoring(
        root,
        loaded.preprocessing.image_size,
        loaded.classes,
        assignment=assignment,
        patients=patients_of(loaded, settings.patients, None, root),
        progress=progress,
    )
    with cpu_threads(settings.threads):
        logits = predict(
            loaded.network(),
            loaded.preprocessing,
            data.images,
            device=pick_device(settings.device),
            batch_size=settings.batch_size,
            progress=progress,
        )
    answers = replace(
        known_of(data),
        source=path.as_posix(),
        probabilities=softmax(logits),
        copies=copies_of_training(loaded.data, data) if loaded.data else None,
    )
    return answers, loaded.model_name
