"""A checkpoint as one ONNX file, checked before it is kept."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

from tumorlens import __version__
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import images_of
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.device import cpu_threads
from tumorlens.errors import TumorlensError
from tumorlens.export import int8
from tumorlens.export.graph import graph_of, parity
from tumorlens.export.parity import Exported, Parity, pictures_for, target
from tumorlens.files import replacing
from tumorlens.inference.onnx_backend import OnnxBackend
from tumorlens.inference.onnx_metadata import ExportedFile
from tumorlens.progress import Progress, silent
from tumorlens.settings import ExportSettings


def write(settings: ExportSettings, progress: Progress = silent) -> Exported:
    """Write `settings.checkpoint` as an ONNX file.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags; or the file would not answer
            as the checkpoint does, and was not kept.
    """
    loaded = checkpoints.load(settings.checkpoint)
    out = target(settings, ".int8.onnx" if settings.int8 else ".onnx")
    data = _parts(loaded, settings, progress) if settings.int8 else None
    squares, pictures = pictures_for(loaded, settings, data)
    progress("exporting", 0, 2 + settings.int8)
    model = graph_of(loaded)
    progress("exporting", 1, 2 + settings.int8)
    with (
        cpu_threads(settings.threads),
        replacing(out) as beside,
        tempfile.TemporaryDirectory(prefix="tumorlens-export-") as scratch,
    ):
        exact = Path(scratch) / "exact.onnx"
        onnx.save(model, exact)
        found = parity(exact, loaded, squares, pictures, settings.threads)
        progress("exporting", 2, 2 + settings.int8)
        cost = None
        if data is not None:
            small = Path(scratch) / "small.onnx"
            cost = _small(exact, small, data, settings, progress)
            model = onnx.load(small)
            progress("exporting", 3, 3)
        _describe(model, loaded, found, cost)
        onnx.save(model, beside)
        OnnxBackend(beside, settings.threads)  # whole, and readable as its users will read it
    return Exported(
        path=out,
        size=out.stat().st_size,
        precision="int8" if cost else "fp32",
        parity=found,
        cost=cost,
        skipped=dict(data.skipped) if data else {},
    )


def _parts(loaded: Checkpoint, settings: ExportSettings, progress: Progress) -> Dataset:
    """Training and validation images, as the checkpoint was trained with or as the flags say."""
    if loaded.trained_on_valid:
        raise TumorlensError(
            f"--int8: {loaded.path} was trained on its validation images too (--train_on_valid), "
            "so that nothing can tell what eight bits cost; export without --int8."
        )
    root, assignment = images_of(
        loaded, settings.data_dir, settings.splits, settings.fold, progress
    )
    data = load_for_training(
        root,
        loaded.preprocessing.image_size,
        assignment=assignment,
        on_bad_image="skip",
        progress=progress,
    )
    if data.classes != loaded.classes:
        raise TumorlensError(
            f"--data_dir {root}: has the classes {', '.join(data.classes)}, the checkpoint was "
            f"trained on {', '.join(loaded.classes)}; name the folder that it was trained on."
        )
    for part in ("train", "valid"):
        there = set(data.labels[data.indices(part)].tolist())
        lacking = [name for index, name in enumerate(data.classes) if index not in there]
        if lacking:
            raise TumorlensError(
                f"--data_dir {root}: no {part} image of {', '.join(lacking)}; --int8 measures the "
                "recall of every class and needs some of each."
            )
    return data


def _small(
    exact: Path, small: Path, data: Dataset, settings: ExportSettings, progress: Progress
) -> int8.Cost:
    """Quantise `exact` into `small`, and measure what that costs.

    Raises:
        TumorlensError: it costs too much.
    """
    train, valid = data.indices("train"), data.indices("valid")
    rng = np.random.default_rng(0)
    each = -(-settings.calibration_images // len(data.classes))
    drawn = [
        rng.permutation(train[data.labels[train] == label])[:each]
        for label in range(len(data.classes))
    ]
    int8.quantise(exact, small, data.images[rng.permutation(np.concatenate(drawn))], progress)
    squares = data.images[valid]
    before, after = (
        int8.logits_of(path, squares, settings.threads, progress, stage)
        for path, stage in ((exact, "scoring fp32"), (small, "scoring int8"))
    )
    cost = int8.cost(data.labels[valid], before, after, data.classes)
    lost = cost.lost()
    if lost:
        figures = ", ".join(
            f"{name} from {100 * cost.before[name]:.1f} to {100 * cost.after[name]:.1f}"
            for name in lost
        )
        raise TumorlensError(
            f"--int8: on {cost.images} validation images eight bits take {figures} (percent), "
            f"more than the {100 * int8.MOST_LOST:g} points allowed; the file was not kept. "
            "Calibrate on more images with --calibration_images, or export without --int8."
        )
    return cost


def _describe(
    model: onnx.ModelProto, loaded: Checkpoint, found: Parity, cost: int8.Cost | None
) -> None:
    """Put into the file all that is needed to take its numbers."""
    assert loaded.path is not None
    preprocessing = loaded.preprocessing
    about = ExportedFile(
        name=loaded.model_name,
        image_size=preprocessing.image_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        judge=loaded.decision(),
        precision="int8" if cost else "fp32",
        facts={
            "selected": loaded.selected,
            "calibration": loaded.calibration,
            "checkpoint_sha256": checkpoints.sha256(loaded.path),
            "parity": asdict(found),
            "int8": asdict(cost) if cost else None,
        },
    )
    onnx.helper.set_model_props(model, about.to_metadata())
    model.producer_name = "tumorlens"
    model.producer_version = __version__
