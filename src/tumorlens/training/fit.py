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
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.folder import SPLITS
from tumorlens.data.patients import record
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve as resolve_splits
from tumorlens.data.tumor_transfer import donors_of
from tumorlens.device import Computed, cpu_threads, pick_device, pick_precision
from tumorlens.errors import DISK_FULL, TumorlensError
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
from tumorlens.training.class_bias import check_groups, loss_of, times_of, weights_of
from tumorlens.training.initial import starting_network
from tumorlens.training.loggers import logger_of
from tumorlens.training.module import Classifier, training_batches, validation_batches
from tumorlens.training.recipes import Recipe, memory_of, resolve
from tumorlens.training.runs import (
    begin,
    finish_run_folder,
    last_state,
    publish,
    published_run,
    settings_of_run,
    told_at_start,
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
        progress: told of "reading", "decoding", "network", "class" (its images and folders),
            "training" (steps of the whole run), "epoch" and "describing", the calibration.
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
    network, told = starting_network(settings, len(data.classes), recipe.image_size, last)
    told = told_at_start(resumed) if resumed and last else told
    share, steps = _share(recipe.batch_size, settings, len(data.indices("train")))
    with _quiet_lightning():
        trainer = _trainer(settings, recipe.epochs, steps, device, precision)
    lead, run_dir = trainer.is_global_zero, resumed or settings.out_dir
    if lead:
        run_dir = begin(settings, recipe, data, resumed, last, told)
        _tell_start(data, told, progress)
    history = History(run_dir, progress, f"valid_{settings.monitor}")
    template = _template(settings, recipe, data, run_dir, told)
    module, keeping = _prepared(settings, recipe, data, steps, network, template)
    # The order matters: last.ckpt is written last, when the other callbacks' state is up to date.
    trainer.callbacks += [history, *keeping, *extra_callbacks, LastState(run_dir)]  # type: ignore[attr-defined]
    replaced, kept = None, None
    with _resumable(run_dir, trainer), cpu_threads(settings.threads):
        with memory_of(recipe, settings.devices * settings.num_nodes), _quiet_lightning():
            _fit(trainer, module, settings, data, share, run_dir, last)
        if lead:
            kept = _finish(keeping[0], data, recipe.lr, device, progress)
            replaced = publish(run_dir / "best_model.pt", published)
            finish_run_folder(run_dir, selected=kept.selected, epochs=len(history.rows))
    return TrainingResult(
        run_dir=run_dir,
        checkpoint=published,
        selected=kept.selected if kept else {},
        epochs=len(history.rows),
        stopped_early=len(history.rows) < recipe.epochs,
        replaced=replaced if replaced != run_dir.name else None,
        protocol=data.protocol,
        counts={split: len(data.indices(split)) for split in SPLITS},
        skipped=data.skipped,
        note=" ".join(part for part in (data.unused, data.overlap, data.note, _lack(kept)) if part),
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
    check_groups(recipe, data)  # refused before anything is written
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
    settings: TrainSettings,
    recipe: Recipe,
    data: Dataset,
    steps: int,
    network: nn.Module,
    template: Checkpoint,
) -> tuple[Classifier, list[Any]]:
    """What is trained; and the callbacks that keep weights, first of all, and stop early."""
    module = Classifier(
        network,
        len(data.classes),
        template.preprocessing,
        recipe,
        total_steps=steps * recipe.epochs,
        seed=settings.seed,
        class_weights=weights_of(recipe, data),
    )
    if settings.train_on_valid:
        return module, [LastWeights(template)]
    monitor = f"valid_{settings.monitor}"
    stopping = EarlyStopping(
        monitor,
        mode="min" if settings.monitor == "loss" else "max",
        patience=recipe.patience,
        check_on_train_epoch_end=False,
    )
    return module, [BestWeights(template, monitor), stopping]


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
    trainer.loggers = logger_of(settings.logger, run_dir, module.recipe.record())
    images, train = module.preprocessing.prepared(data.images), data.indices("train")
    module.loss, times = loss_of(module.recipe, data), times_of(module.recipe, data)
    if settings.outlines:
        module.donors = donors_of(settings.outlines, data, module.preprocessing)
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


def _lack(kept: Checkpoint | None) -> str:
    why = kept.calibration.get("ood_not_available") if kept else None
    return f"Out-of-distribution decisions are not available: {why}." if why else ""


def _tell_start(data: Dataset, told: list[str], progress: Progress) -> None:
    """What each class was found to be: its images by split, and the folders that they lie in.

    And what is unusual about the network.
    """
    for number, sentence in enumerate(told, 1):
        progress("network", number, len(told), sentence)
    for label, name in enumerate(data.classes):
        mine = np.flatnonzero(data.labels == label)
        counts = [(split, int((data.splits[mine] == split).sum())) for split in SPLITS]
        folders = sorted({data.paths[index].rpartition("/")[0] for index in mine})
        images = ", ".join(f"{count:,} {split}" for split, count in counts)
        note = f"{name}: {images}; from {', '.join(folders)}"
        progress("class", label + 1, len(data.classes), note)


def _finish(
    keeping: KeptWeights, data: Dataset, lr: float, device: torch.device, progress: Progress
) -> Checkpoint:
    """Where validation images tell: write the kept weights with how sure to be, what is unlike.

    Raises:
        TumorlensError: no epoch's weights were kept.
    """
    if keeping.kept is None and not keeping.path.is_file():
        raise TumorlensError(f"--lr {lr}: training diverged, {keeping.NOTHING}; try a smaller one.")
    # An earlier process of a resumed run may have written them.
    found = replace(
        keeping.kept or checkpoints.load(keeping.path), settings=keeping.template.settings
    )
    if not found.trained_on_valid:
        point = found.settings.get("operating_point", "none")
        outputs = outputs_of(found, data, device, progress)
        found = calibrate(
            found, data, operating_point=point, outputs=outputs, device=device, progress=progress
        )
        if point != "none":
            write_frontier(found, data, outputs, keeping.path.parent)
        checkpoints.save(found, keeping.path)
    return found


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
    folder: Path,
    told: list[str],
) -> Checkpoint:
    train = data.indices("train")
    return Checkpoint(
        model_name=str(settings.model),
        classes=data.classes,
        preprocessing=Preprocessing(
            recipe.image_size,
            *_grey_statistics(data.images, train),
            crop_head=recipe.crop_head,
            standardise=recipe.standardise,
        ),
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
        settings=primitives(settings)
        | {"recipe_resolved": recipe.record(), "run": folder.name, "starting_network": told},
        selected={},
        path=folder / "best_model.pt",
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
        ".*in eval mode at the start.*",  # batch norms of --freeze
        ".*sync_dist=True.*",  # torchmetrics computes over all processes already
    )
    with warnings.catch_warnings():
        for message in ours:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            logger.setLevel(before)
