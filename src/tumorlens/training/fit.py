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

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord
from tumorlens.checkpoint.preprocessing import Preprocessing
from tumorlens.data import splits
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.patients import record, table_for
from tumorlens.device import cpu_threads, kept_memory, pick_device, pick_precision
from tumorlens.errors import TumorlensError
from tumorlens.files import replacing
from tumorlens.models.build import build_model
from tumorlens.progress import Progress, silent
from tumorlens.settings import TrainSettings, primitives
from tumorlens.training.batches import training_batches, validation_batches
from tumorlens.training.calibrate import calibrate
from tumorlens.training.callbacks import (
    BestWeights,
    EarlyStopping,
    History,
    LastState,
    LastWeights,
)
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
        selected: epoch (1-based) of the kept weights, and their validation metrics where there are
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
    resumed = settings.resume
    if resumed is not None:
        settings = settings_of_run(resumed, settings)
    published = settings.out_dir / "best_model.pt"
    published_run(published)  # refuse now, not after an hour, to overwrite a file that is not ours
    precision = pick_precision(settings.precision, pick_device(settings.device))
    settings = replace(settings, precision=precision)  # the record says which it was
    recipe = resolve(settings)
    data, note = _images(settings, recipe, progress)
    with _quiet_lightning():
        trainer = _trainer(settings, recipe, data)
    lead = trainer.is_global_zero
    run_dir = resumed or (new_run_folder(settings) if lead else settings.out_dir)
    history = History(run_dir, progress, f"valid_{settings.monitor}")
    module, keeping = _prepared(settings, recipe, data, run_dir)
    # The order matters: last.ckpt is written last, when the other callbacks' state is up to date.
    later = [history, *keeping, *extra_callbacks, LastState(run_dir)]
    trainer.callbacks += later  # type: ignore[attr-defined]
    memory = memory_of(recipe, settings.devices * settings.num_nodes)
    replaced, selected = None, {}
    with _resumable(run_dir, trainer):
        with cpu_threads(settings.threads), memory, _quiet_lightning():
            _fit(trainer, module, settings, data, run_dir, resuming=resumed is not None)
        if lead:
            _refuse_diverged(run_dir, settings, recipe)
            selected = _finish(run_dir, keeping[0].kept, data, settings, progress)
            replaced = publish(run_dir / "best_model.pt", published)
            finish_run_folder(run_dir, selected=selected, epochs=len(history.rows))
    return TrainingResult(
        run_dir=run_dir,
        checkpoint=published,
        selected=selected,
        epochs=len(history.rows),
        stopped_early=len(history.rows) < recipe.epochs,
        replaced=replaced,
        protocol=data.protocol,
        counts={split: len(data.indices(split)) for split in ("train", "valid", "test")},
        skipped=data.skipped,
        note=" ".join(part for part in (note, data.overlap, data.note) if part),
    )


def _images(settings: TrainSettings, recipe: Recipe, progress: Progress) -> tuple[Dataset, str]:
    """The images, split; and how they were known, see `splits.resolve`."""
    assert settings.data_dir is not None  # TrainSettings.__post_init__ saw to it
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
    return data, note


def _trainer(settings: TrainSettings, recipe: Recipe, data: Dataset) -> Trainer:
    """It knows this process's rank, by any launcher; what needs the run's folder comes later."""
    _, steps = _share(recipe.batch_size, settings, len(data.indices("train")))
    return Trainer(
        accelerator=pick_device(settings.device).type,
        strategy="ddp" if settings.devices * settings.num_nodes > 1 else "auto",
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=pick_precision(settings.precision, pick_device(settings.device)),
        max_epochs=recipe.epochs,
        logger=False,
        enable_checkpointing=False,
        log_every_n_steps=max(1, min(50, steps)),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # ours never counts a validation image twice
    )


def _prepared(
    settings: TrainSettings, recipe: Recipe, data: Dataset, run_dir: Path
) -> tuple[Classifier, list[Any]]:
    """What is trained; and the callbacks that keep weights, first of all, and stop early."""
    train = data.indices("train")
    _, steps = _share(recipe.batch_size, settings, len(train))
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
    run_dir: Path,
    *,
    resuming: bool,
) -> None:
    train, last = data.indices("train"), run_dir / "last.ckpt"
    share, _ = _share(module.recipe.batch_size, settings, len(train))
    mine = {"rank": trainer.global_rank, "world": settings.devices * settings.num_nodes}
    trainer.loggers = _loggers(run_dir)
    images = module.preprocessing.prepared(data.images)
    trainer.fit(
        module,
        training_batches(images, data.labels, train, share, settings.seed, **mine),
        None
        if settings.train_on_valid
        else validation_batches(images, data.labels, data.indices("valid"), **mine),
        ckpt_path=last if resuming and last.is_file() else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _resumable(run_dir: Path, trainer: Trainer) -> Iterator[None]:
    """Ctrl-C, of which Lightning may make an exit, names what to go on with."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or trainer.interrupted:
            raise TrainingInterruptedError(run_dir) from stop
        raise


def memory_of(recipe: Recipe, processes: int) -> contextlib.AbstractContextManager[None]:
    """What a process does with the memory of its tensors: keeps it, but where they are large.

    There, keeping takes much more than a step needs.
    """
    largest = recipe.batch_size // processes * 64 * (recipe.image_size // 2) ** 2 * 4  # the stem's
    return kept_memory() if largest <= _KEPT_UP_TO else contextlib.nullcontext()


def _refuse_diverged(run_dir: Path, settings: TrainSettings, recipe: Recipe) -> None:
    if not (run_dir / "best_model.pt").is_file():
        found = (
            "the last epoch's weights are not finite"
            if settings.train_on_valid
            else "no epoch had a finite validation metric"
        )
        raise TumorlensError(f"--lr {recipe.lr}: training diverged, {found}; try a smaller one.")


def _finish(
    run_dir: Path,
    kept: Checkpoint | None,
    data: Dataset,
    settings: TrainSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Where validation images tell: write the kept weights with how sure to be, what is unlike.

    Args:
        kept: the weights in best_model.pt; None: an earlier process of a resumed run wrote them.
    """
    path = run_dir / "best_model.pt"
    found = kept or checkpoints.load(path)
    if not settings.train_on_valid:
        with cpu_threads(settings.threads):
            found = calibrate(found, data, device=pick_device(settings.device), progress=progress)
        checkpoints.save(found, path)
    return found.selected


def _share(batch_size: int, settings: TrainSettings, images: int) -> tuple[int, int]:
    """Images of each process in a step, and steps in an epoch."""
    world = settings.devices * settings.num_nodes
    share = max(1, min(batch_size, images) // world)
    if share * world < 2 or images < share * world:
        raise TumorlensError(
            f"--batch_size {batch_size}: {images} training images cannot be dealt to {world} "
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
        settings={
            **primitives(settings),
            "recipe_resolved": recipe.record(),
            "run": folder.name,
        },
        selected={},
    )


def _loggers(folder: Path) -> list[Any]:
    try:
        from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415 (an extra)

        return [TensorBoardLogger(folder, name=None, version="tensorboard")]
    except ModuleNotFoundError:
        return []


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
    # images are already in memory.
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        # Without validation images: what was asked for.
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        # The metrics are computed over all processes already, by torchmetrics.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
        try:
            yield
        finally:
            logger.setLevel(before)
