"""Train one network: from settings to a run folder with its best checkpoint."""

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_only

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord, Preprocessing
from tumorlens.data import splits
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.duplicates import duplicate_groups
from tumorlens.data.patients import record, table_for
from tumorlens.device import cpu_threads, kept_memory, pick_device, pick_precision
from tumorlens.errors import TumorlensError
from tumorlens.files import replacing
from tumorlens.models.build import build_model
from tumorlens.progress import Progress, silent
from tumorlens.settings import TrainSettings, primitives
from tumorlens.training.batches import training_batches, validation_batches
from tumorlens.training.calibrate import calibrate
from tumorlens.training.callbacks import BestWeights, History, LastState, LastWeights
from tumorlens.training.module import Classifier, balanced_weights
from tumorlens.training.recipes import Recipe, resolve
from tumorlens.training.runs import (
    finish_run_folder,
    new_run_folder,
    published_run,
    settings_of_run,
)

# Bytes of a training's largest tensor. At 196 MiB (224 px, batch 64) memory that is kept comes to
# 4.0 instead of 2.3 GB, at 392 MiB to 11 instead of 4.1.
_KEPT_UP_TO = 256 << 20


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run left.

    Attributes:
        run_dir: the run's own folder.
        checkpoint: `best_model.pt` in `out_dir`, a copy of the run's own.
        selected: epoch (1-based) of the kept weights, and their validation figures where there are
            validation images.
        epochs: how many epochs were run.
        stopped_early: whether patience ran out.
        replaced: run folder whose checkpoint was in `checkpoint`'s place before; None if none was.
        protocol: where the validation images came from.
        counts: images in "train", "valid" and "test".
        skipped: path to the reason it was left out.
        note: what the user should know about the split or the cache; empty if nothing.
    """

    run_dir: Path
    checkpoint: Path
    selected: dict[str, Any]
    epochs: int
    stopped_early: bool
    replaced: str | None
    protocol: str
    counts: dict[str, int]
    skipped: dict[str, str]
    note: str


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
        settings: see `TrainSettings`.
        progress: told of "reading", "decoding", "training" (steps of the whole run), "epoch" and
            "describing", which is the calibration at the end.
        extra_callbacks: Lightning callbacks of the caller.

    Raises:
        TumorlensError: faults of the data, the flags or the files.
        TrainingInterruptedError: Ctrl-C; nothing is lost but the epoch under way.
    """
    run_dir = resumed = settings.resume
    if resumed is not None:
        settings = settings_of_run(resumed, settings)
    published = settings.out_dir / "best_model.pt"
    published_run(published)  # refuse now, not after an hour, to overwrite a file that is not ours
    precision = pick_precision(settings.precision, pick_device(settings.device))
    settings = replace(settings, precision=precision)  # the record says which it was
    assert settings.model is not None  # TrainSettings.__post_init__ saw to it
    assert settings.data_dir is not None
    recipe = resolve(settings)
    assignment, note = None, ""
    if settings.splits:
        assignment, note = splits.resolve(
            settings.splits, settings.fold, settings.data_dir, recipe.image_size, progress
        )
    data = load_for_training(
        settings.data_dir,
        recipe.image_size,
        assignment=assignment,
        on_bad_image=settings.on_bad_image,
        seed=settings.seed,
        train_on_valid=settings.train_on_valid,
        patients=table_for(settings.patients, settings.splits),
        allow_patient_overlap=settings.allow_patient_overlap,
        progress=progress,
    )
    lead = _rank() == 0
    if run_dir is None and lead:
        run_dir = new_run_folder(settings)
    memory = memory_of(recipe, settings.devices * settings.num_nodes)
    with cpu_threads(settings.threads), memory, _quiet_lightning():
        history = _fit(
            settings, recipe, data, run_dir, progress, extra_callbacks, resuming=resumed is not None
        )
    run_dir = run_dir or settings.out_dir
    if lead and not (run_dir / "best_model.pt").is_file():
        found = (
            "the last epoch's weights are not finite"
            if settings.train_on_valid
            else "no epoch had a finite validation figure"
        )
        raise TumorlensError(f"--lr {recipe.lr}: training diverged, {found}; try a smaller one.")
    best = _finished(run_dir / "best_model.pt", data, settings, progress) if lead else None
    replaced = publish(run_dir / "best_model.pt", published) if lead else None
    if best:
        finish_run_folder(run_dir, selected=best.selected, epochs=len(history.rows))
    return TrainingResult(
        run_dir=run_dir,
        checkpoint=published,
        selected=best.selected if best else {},
        epochs=len(history.rows),
        stopped_early=len(history.rows) < recipe.epochs,
        replaced=replaced,
        protocol=data.protocol,
        counts={part: len(data.indices(part)) for part in ("train", "valid", "test")},
        skipped=data.skipped,
        note=" ".join(part for part in (note, data.overlap, data.note) if part),
    )


def _fit(
    settings: TrainSettings,
    recipe: Recipe,
    data: Dataset,
    run_dir: Path | None,
    progress: Progress,
    extra_callbacks: tuple[Callback, ...],
    *,
    resuming: bool,
) -> History:
    train_indices = data.indices("train")
    world = settings.devices * settings.num_nodes
    groups = (
        duplicate_groups(data.fingerprints[train_indices])
        if recipe.copies_take_turns
        else np.arange(len(train_indices))
    )
    pictures = len(np.unique(groups))
    share = _share(recipe.batch_size, world, pictures)
    steps = pictures // (share * world)
    mean, std = _grey_statistics(data.images, train_indices)
    preprocessing = Preprocessing(recipe.image_size, mean, std)
    weights = None
    if recipe.class_weights == "balanced":
        # Of each group any image: what an epoch has of each class.
        seen = train_indices[np.unique(groups, return_index=True)[1]]
        weights = balanced_weights(torch.from_numpy(data.labels[seen]), len(data.classes))
    module = Classifier(
        build_model(str(settings.model), len(data.classes), settings.seed),
        preprocessing,
        recipe,
        total_steps=steps * recipe.epochs,
        seed=settings.seed,
        class_weights=weights,
    )
    folder = run_dir or settings.out_dir
    history = History(folder, progress)
    template = _template(settings, recipe, data, preprocessing, folder)
    # The order matters: last.ckpt is written last, when the other callbacks' state is up to date.
    callbacks = [
        history,
        *_keeping(settings, recipe, template, folder / "best_model.pt"),
        *extra_callbacks,
        LastState(folder),
    ]
    last = folder / "last.ckpt"
    accelerator, strategy = _accelerator(settings)
    trainer = Trainer(
        accelerator=accelerator,
        strategy=strategy,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=pick_precision(settings.precision, pick_device(settings.device)),
        max_epochs=recipe.epochs,
        callbacks=callbacks,
        logger=_loggers(folder),
        enable_checkpointing=True,
        log_every_n_steps=max(1, min(50, steps)),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # ours never counts a validation image twice
    )
    rank = _rank()
    try:
        trainer.fit(
            module,
            training_batches(
                data.images,
                data.labels,
                train_indices,
                share,
                settings.seed,
                groups=groups,
                rank=rank,
                world=world,
            ),
            None
            if settings.train_on_valid
            else validation_batches(
                data.images, data.labels, data.indices("valid"), rank=rank, world=world
            ),
            ckpt_path=last if resuming and last.is_file() else None,
            weights_only=True,
        )
    except KeyboardInterrupt as stop:
        raise TrainingInterruptedError(folder) from stop
    except SystemExit as stop:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit
            raise TrainingInterruptedError(folder) from stop
        raise
    if trainer.interrupted:
        raise TrainingInterruptedError(folder)
    return history


def memory_of(recipe: Recipe, processes: int) -> contextlib.AbstractContextManager[None]:
    """What a process does with the memory of its tensors: keeps it, but where they are large.

    There, keeping takes much more than a step needs.
    """
    largest = recipe.batch_size // processes * 64 * (recipe.image_size // 2) ** 2 * 4  # the stem's
    return kept_memory() if largest <= _KEPT_UP_TO else contextlib.nullcontext()


def _keeping(
    settings: TrainSettings, recipe: Recipe, template: Checkpoint, path: Path
) -> list[Callback]:
    """What decides which epoch's weights are kept, and when to stop."""
    if settings.train_on_valid:
        return [LastWeights(template, path)]
    monitor = f"valid_{settings.monitor}"
    return [
        BestWeights(template, path, monitor),
        EarlyStopping(
            monitor,
            mode="min" if settings.monitor == "loss" else "max",
            patience=recipe.patience,
            check_on_train_epoch_end=False,
        ),
    ]


def _finished(path: Path, data: Dataset, settings: TrainSettings, progress: Progress) -> Checkpoint:
    """The kept weights; where validation images tell, with how sure to be and what is unlike."""
    if settings.train_on_valid:
        return checkpoints.load(path)
    device = pick_device(settings.device)
    with cpu_threads(settings.threads):
        found = calibrate(checkpoints.load(path), data, device=device, progress=progress)
    checkpoints.save(found, path)
    return found


def _rank() -> int:
    # Lightning reads it from the launcher's environment (its own, torchrun's, SLURM's).
    return int(getattr(rank_zero_only, "rank", 0))


def _share(batch_size: int, world: int, images: int) -> int:
    share = max(1, min(batch_size, images) // world)
    if share * world < 2 or images < share * world:
        raise TumorlensError(
            f"--batch_size {batch_size}: {images} training images cannot be dealt to {world} "
            "processes; use fewer --devices."
        )
    return share


def _grey_statistics(
    images: np.ndarray[Any, np.dtype[np.uint8]], indices: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[float, float]:
    # Exact from a histogram: no copy of the pictures as floats.
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
        settings={
            **primitives(settings),
            "recipe_resolved": recipe.record(),
            "run": folder.name,
        },
        selected={},
    )


def _accelerator(settings: TrainSettings) -> tuple[str, str]:
    return pick_device(
        settings.device
    ).type, "ddp" if settings.devices * settings.num_nodes > 1 else "auto"


def _loggers(folder: Path) -> Any:
    try:
        from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415 (an extra)

        return TensorBoardLogger(folder, name=None, version="tensorboard")
    except ModuleNotFoundError:
        return False


def publish(best: Path, published: Path) -> str | None:
    """Copy a run's best checkpoint and its JSON to `published`; return whose place it took."""
    replaced = published_run(published)
    for source, target in (
        (best, published),
        (best.with_suffix(".json"), published.with_suffix(".json")),
    ):
        with replacing(target) as beside:
            shutil.copyfile(source, beside)
    return replaced


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    # Lightning advertises at level INFO and warns of worker processes that we do not need: the
    # pictures are already in memory.
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        # Without validation images: what was asked for.
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        # The figures are computed over all processes already, by torchmetrics.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
        try:
            yield
        finally:
            logger.setLevel(before)
