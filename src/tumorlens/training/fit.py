"""Train one network: from settings to a run folder with its best checkpoint."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord
from tumorlens.checkpoint.preprocessing import Preprocessing
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.folder import SPLITS
from tumorlens.data.histograms import histograms
from tumorlens.data.patients import record
from tumorlens.data.splits import resolve as resolve_splits
from tumorlens.data.tumor_transfer import donors_of
from tumorlens.device import Computed, cpu_threads, pick_device, pick_precision
from tumorlens.errors import TumorlensError
from tumorlens.files import DISK_FULL
from tumorlens.models.build import build_model
from tumorlens.progress import Progress, silent
from tumorlens.settings import TrainSettings, primitives
from tumorlens.training.calibrate import calibrate, outputs_of, write_frontier
from tumorlens.training.callbacks import (
    BestWeights,
    EarlyStopping,
    History,
    KeptWeights,
    LastState,
    LastWeights,
)
from tumorlens.training.class_bias import groups_of, loss_of, times_of
from tumorlens.training.module import (
    Classifier,
    balanced_weights,
    training_batches,
    validation_batches,
)
from tumorlens.training.recipes import Recipe, memory_of, resolve
from tumorlens.training.runs import (
    begin,
    finish_run_folder,
    last_state,
    publish,
    published_run,
    settings_of_run,
)


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run left."""

    run_dir: Path  # the run's own folder
    checkpoint: Path  # `best_model.pt` in `out_dir`, a copy of the run's own
    # Epoch (1-based) of the kept weights, and their validation metrics where there are validation
    # images.
    selected: dict[str, Any]
    epochs: int  # how many epochs were run
    stopped_early: bool  # whether patience ran out
    # Run folder whose checkpoint was in `checkpoint`'s place before; None if none was.
    replaced: str | None
    protocol: str  # where the validation images came from
    counts: dict[str, int]  # images in "train", "valid" and "test"
    skipped: dict[str, str]  # path to the reason it was left out
    note: str  # what the user should know about the split or the cache; empty if nothing.


class TrainingInterruptedError(KeyboardInterrupt):
    """Ctrl-C during training; `run_dir` is what `--resume` takes."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"interrupted; go on with --resume {run_dir}")
        self.run_dir = run_dir


def train(
    settings: TrainSettings,
    progress: Progress = silent,
    extra_callbacks: tuple[Callback, ...] = (),
) -> TrainingResult:
    """Train `settings.model` on `settings.data_dir`, or go on with `settings.resume`.

    Args:
        progress: told of "reading", "decoding", "class" (its images and folders), "training"
            (steps of the whole run), "epoch" and "describing", the calibration at the end.
        extra_callbacks: Lightning callbacks of the caller.

    Raises:
        TumorlensError: faults of the data, the flags or the files.
        TrainingInterruptedError: Ctrl-C; nothing is lost but the epoch under way.
    """
    resumed = settings.resume
    settings = settings_of_run(resumed, settings) if resumed else settings
    last = last_state(resumed) if resumed else None
    published = settings.out_dir / "best_model.pt"
    published_run(published)  # refuse now, not after an hour, to overwrite a file that is not ours
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    settings = replace(settings, precision=precision)  # the record says which it was
    recipe = resolve(settings)
    data = _images(settings, recipe, progress)
    share, steps = _share(recipe.batch_size, settings, len(data.indices("train")))
    with _quiet_lightning():
        trainer = _trainer(settings, recipe.epochs, steps, device, precision)
    lead = trainer.is_global_zero
    run_dir = resumed or settings.out_dir
    if lead:
        run_dir = begin(settings, data, resumed, last)
        _tell_classes(data, progress)
    history = History(run_dir, progress, f"valid_{settings.monitor}")
    module, keeping = _prepared(settings, recipe, data, steps, run_dir)
    # The order matters: last.ckpt is written last, when the other callbacks' state is up to date.
    later = [history, *keeping, *extra_callbacks, LastState(run_dir)]
    trainer.callbacks += later  # type: ignore[attr-defined]
    replaced, selected = None, {}
    with _resumable(run_dir, trainer), cpu_threads(settings.threads):
        with memory_of(recipe, settings.devices * settings.num_nodes), _quiet_lightning():
            _fit(trainer, module, settings, data, share, run_dir, last)
        if lead:
            selected = _finish(keeping[0], data, recipe.lr, device, progress)
            before = publish(run_dir / "best_model.pt", published)
            replaced = before if before != run_dir.name else None
            finish_run_folder(run_dir, selected=selected, epochs=len(history.rows))
    return TrainingResult(
        run_dir=run_dir,
        checkpoint=published,
        selected=selected,
        epochs=len(history.rows),
        stopped_early=len(history.rows) < recipe.epochs,
        replaced=replaced,
        protocol=data.protocol,
        counts={split: len(data.indices(split)) for split in SPLITS},
        skipped=data.skipped,
        note=" ".join(part for part in (data.unused, data.overlap, data.note) if part),
    )


def _images(settings: TrainSettings, recipe: Recipe, progress: Progress) -> Dataset:
    """The images, split."""
    assert settings.data_dir is not None  # TrainSettings.__post_init__ saw to it
    data = load_for_training(
        resolve_splits(
            settings.data_dir,
            settings.splits,
            settings.fold,
            settings.patients,
            size=recipe.image_size,
            progress=progress,
        ),
        recipe.image_size,
        on_bad_image=settings.on_bad_image,
        seed=settings.seed,
        train_on_valid=settings.train_on_valid,
        allow_patient_overlap=settings.allow_patient_overlap,
        progress=progress,
    )
    if settings.balance:
        groups_of(data, settings.balance, "--balance")  # refused before anything is written
    return data


def _trainer(
    settings: TrainSettings, epochs: int, steps: int, device: torch.device, precision: Computed
) -> Trainer:
    """It knows this process's rank, by any launcher; what needs the run's folder comes later."""
    return Trainer(
        accelerator=device.type,
        strategy="ddp" if settings.devices * settings.num_nodes > 1 else "auto",
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=precision,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        log_every_n_steps=max(1, min(50, steps)),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # ours never counts a validation image twice
    )


def _prepared(
    settings: TrainSettings, recipe: Recipe, data: Dataset, steps: int, run_dir: Path
) -> tuple[Classifier, list[Any]]:
    """What is trained; and the callbacks that keep weights, first of all, and stop early."""
    train = data.indices("train")
    preprocessing = Preprocessing(
        recipe.image_size,
        *_grey_statistics(data.images, train),
        crop_head=recipe.crop_head,
        standardise=recipe.standardise,
    )
    weights = None
    if recipe.class_weights == "balanced":
        weights = balanced_weights(torch.from_numpy(data.labels[train]), len(data.classes))
    module = Classifier(
        build_model(str(settings.model), len(data.classes), settings.seed),
        preprocessing,
        recipe,
        total_steps=steps * recipe.epochs,
        seed=settings.seed,
        class_weights=weights,
    )
    template = _template(settings, recipe, data, preprocessing, run_dir)
    path, monitor = run_dir / "best_model.pt", f"valid_{settings.monitor}"
    if settings.train_on_valid:
        return module, [LastWeights(template, path)]
    stopping = EarlyStopping(
        monitor,
        mode="min" if settings.monitor == "loss" else "max",
        patience=recipe.patience,
        check_on_train_epoch_end=False,
    )
    return module, [BestWeights(template, path, monitor), stopping]


def _fit(
    trainer: Trainer,
    module: Classifier,
    settings: TrainSettings,
    data: Dataset,
    share: int,
    run_dir: Path,
    last: Path | None,
) -> None:
    mine = {"rank": trainer.global_rank, "world": settings.devices * settings.num_nodes}
    with contextlib.suppress(ModuleNotFoundError):
        from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415 (an extra)

        trainer.loggers = [TensorBoardLogger(run_dir, name=None, version="tensorboard")]
    images, train = module.preprocessing.prepared(data.images), data.indices("train")
    module.loss, times = loss_of(module.recipe, data), times_of(module.recipe, data)
    if settings.outlines:
        module.donors = donors_of(settings.outlines, data, module.preprocessing)
    if module.recipe.histograms:
        module.histograms = histograms(images, data.labels, train)
    trainer.fit(
        module,
        training_batches(images, data.labels, train, share, settings.seed, times=times, **mine),
        None
        if settings.train_on_valid
        else validation_batches(images, data.labels, data.indices("valid"), **mine),
        ckpt_path=last,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _resumable(run_dir: Path, trainer: Trainer) -> Iterator[None]:
    """Ctrl-C, of which Lightning may make an exit, and a full disk name what to go on with."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = error.filename2 or error.filename or run_dir
        raise TumorlensError(
            f"{where}: cannot be written ({error.strerror}); free some room and go on with "
            f"--resume {run_dir}."
        ) from error
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or trainer.interrupted:
            raise TrainingInterruptedError(run_dir) from stop
        raise


def _tell_classes(data: Dataset, progress: Progress) -> None:
    """What each class was found to be: its images by split, and the folders that they lie in."""
    for label, name in enumerate(data.classes):
        mine = np.flatnonzero(data.labels == label)
        counts = [(split, int((data.splits[mine] == split).sum())) for split in SPLITS]
        folders = sorted({data.paths[index].rpartition("/")[0] for index in mine})
        told = ", ".join(f"{count:,} {split}" for split, count in counts)
        note = f"{name}: {told}; from {', '.join(folders)}"
        progress("class", label + 1, len(data.classes), note)


def _finish(
    keeping: KeptWeights, data: Dataset, lr: float, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """Where validation images tell: write the kept weights with how sure to be, what is unlike.

    Raises:
        TumorlensError: no epoch's weights were kept.
    """
    if keeping.kept is None and not keeping.path.is_file():
        raise TumorlensError(f"--lr {lr}: training diverged, {keeping.NOTHING}; try a smaller one.")
    # An earlier process of a resumed run may have written them.
    found = keeping.kept or checkpoints.load(keeping.path)
    if not found.trained_on_valid:
        point = found.settings.get("operating_point", "none")
        outputs = outputs_of(found, data, device, progress)
        found = calibrate(
            found, data, operating_point=point, outputs=outputs, device=device, progress=progress
        )
        if point != "none":
            write_frontier(found, data, outputs, keeping.path.parent)
        checkpoints.save(found, keeping.path)
    return found.selected


def _share(batch_size: int, settings: TrainSettings, images: int) -> tuple[int, int]:
    """Images of each process in a step, and steps in an epoch."""
    world = settings.devices * settings.num_nodes
    share = max(1, min(batch_size, images) // world)
    if share * world < 2 or images < share * world:
        raise TumorlensError(
            f"--batch_size {batch_size}: {images} training images cannot be divided among {world} "
            "processes; use fewer --devices."
        )
    return share, images // (share * world)


def _grey_statistics(
    images: np.ndarray[Any, np.dtype[np.uint8]], indices: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[float, float]:
    # Exact from a histogram: no copy of the images as floats.
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(indices), 512):
        counts += np.bincount(images[indices[start : start + 512]].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((counts * values).sum() / counts.sum())
    variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
    return round(mean, 6), round(max(variance, 1e-6) ** 0.5, 6)


def _template(
    settings: TrainSettings,
    recipe: Recipe,
    data: Dataset,
    preprocessing: Preprocessing,
    folder: Path,
) -> Checkpoint:
    train = data.indices("train")
    return Checkpoint(
        model_name=str(settings.model),
        classes=data.classes,
        preprocessing=preprocessing,
        weights={},
        data=DataRecord(
            data_dir=str(data.root.resolve()),
            layout=data.layout,
            protocol=data.protocol,
            train=data.paths_of("train"),
            valid=data.paths_of("valid"),
            test=data.paths_of("test"),
            skipped=data.skipped,
            fingerprints=data.fingerprints[train],
            digests=data.digests[train],
            patients=record(data.paths, data.patients) if data.patients else None,
            overlap=data.overlap,
        ),
        settings=primitives(settings) | {"recipe_resolved": recipe.record(), "run": folder.name},
        selected={},
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    # Lightning advertises at level INFO and warns of worker processes that we do not need: the
    # images are already in memory.
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    ours = (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*have no `val_dataloader`.*",  # without validation images: what was asked for
        ".*isinstance.treespec, LeafSpec.*",
        ".*sync_dist=True.*",  # torchmetrics computes over all processes already
    )
    with warnings.catch_warnings():
        for message in ours:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            logger.setLevel(before)
