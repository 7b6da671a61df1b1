"""Settings: training a network and repeating it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tumorlens.settings.shared import (
    Device,
    ModelName,
    Precision,
    Protocol,
    RecipeName,
    at_least,
    fold_needs_splits,
    nothing_to_choose_by,
)


@dataclass(frozen=True)
class TrainSettings:
    """Train a network from scratch; keep the weights of the best validation epoch."""

    model: ModelName | None = None
    """Network: ResNet18, or the same with squeeze-and-excitation in every block. Must be given."""
    data_dir: Path | None = None
    """Folder with train/ valid/ [test/] or Training/ Testing/, each with class folders. Must be
    given."""
    out_dir: Path = Path("model")
    """Where runs/ and best_model.pt go."""
    recipe: RecipeName = "plain"
    """What the flags below default to: `plain` is 96 px, 15 epochs, batch 32, one-cycle Adam 1e-3;
    `fast` is 96 px, 20 epochs, batch 64, one-cycle SGD 0.05, label smoothing, a running mean of
    weights; `paper` is the published study's 224 px, 50 epochs, batch 128, constant Adam 2e-4."""
    epochs: int | None = None
    """Passes over the training images."""
    batch_size: int | None = None
    """Images for each optimiser step, over all processes together."""
    image_size: int | None = None
    """Side of the square that the network sees, pixels."""
    lr: float | None = None
    """Learning rate; of one-cycle and cosine schedules the highest."""
    schedule: Literal["one_cycle", "cosine", "constant"] | None = None
    """How the learning rate moves, step by step."""
    patience: int | None = None
    """Stop after this many epochs without a better validation figure."""
    monitor: Literal["macro_f1", "loss"] = "macro_f1"
    """The validation figure that chooses the epoch."""
    class_weights: Literal["none", "balanced"] | None = None
    """`balanced` weighs each class by the inverse of its share in the training images."""
    seed: int = 0
    """Decides initial weights, order and augmentation; the same seed gives the same weights."""
    splits: Path | None = None
    """CSV with columns `path, split`, or `path, fold[, run]` with --fold; or `public-patients`, the
    patient-level folds of the public set that come with tumorlens."""
    fold: int | None = None
    """Fold that is the test part, with a --splits file of folds."""
    patients: Path | None = None
    """CSV with columns `path, patient`, or `public`, the built-in table of the public set: no
    patient is in two of train, validation and test, and intervals resample patients. Default: the
    --splits file's own column `patient`, if it has one."""
    allow_patient_overlap: bool = False
    """Go on where a patient is in more than one split; every output then says so."""
    train_on_valid: bool = False
    """Train on the validation images too and keep the last epoch: for a recipe that is settled.
    Nothing chooses the epoch then, and the checkpoint has no calibration."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` records which."""
    resume: Path | None = None
    """Run folder (model/runs/...) to go on with, by its own settings; goes with --device and
    --threads alone."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads for each process; default: all cores."""
    devices: int = 1
    """Processes or GPUs on each node."""
    num_nodes: int = 1
    """Machines."""
    precision: Precision = "auto"
    """Numeric precision, as Lightning names it; `auto`: bf16-mixed where the device computes it in
    hardware, else 32-true (16-mixed on older GPUs). The record says which."""

    def __post_init__(self) -> None:
        at_least(
            self, epochs=1, batch_size=2, image_size=32, patience=1, fold=0, threads=1, devices=1
        )
        at_least(self, num_nodes=1, seed=0)
        if self.lr is not None and not 0 < self.lr <= 10:
            raise ValueError(f"--lr {self.lr}: expected more than 0 and at most 10.")
        fold_needs_splits(self.fold, self.splits)
        nothing_to_choose_by(self.train_on_valid, self.patience, self.monitor)
        if self.resume is not None:
            given = [
                item.name
                for item in fields(self)
                if item.name not in ("resume", "device", "threads")
                and getattr(self, item.name) != item.default
            ]
            if given:
                raise ValueError(
                    f"--resume goes on by the run's own settings; leave out --{', --'.join(given)}."
                )
        else:
            missing = [name for name in ("model", "data_dir") if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    " and ".join(f"--{name}" for name in missing) + " must be given, for example "
                    "--model se_resnet18 --data_dir data/."
                )


@dataclass(frozen=True)
class StudySettings:
    """Train and score a grid of networks, seeds and folds; a rerun does only what is missing."""

    models: tuple[ModelName, ...] = ("resnet18", "se_resnet18")
    """Networks of the grid."""
    seeds: int = 1
    """How many seeds, 0 and up."""
    protocol: Protocol = "official"
    """`official`: the folder's own training and test splits. `patients`: each fold of --splits is
    the test once, and no patient is in two splits. `folds`: the same of a splits file whose
    patients are not known."""
    data_dir: Path | None = None
    """Folder with the images, as for train."""
    splits: Path | None = None
    """CSV as for train; `patients` without it takes `public-patients`."""
    folds: tuple[int, ...] = ()
    """Folds to run; default: all of them."""
    boxes: Path | None = None
    """CSV or folder of masks, as for gradcam: measure whether each network looks at the tumors."""
    out_dir: Path = Path("study")
    """Where each finished run leaves one JSON and one predictions CSV."""
    runs_dir: Path | None = None
    """Where run folders and checkpoints go; default: model/ and the name of --out_dir."""
    report: bool = False
    """Train nothing: draw tables and figures from the runs in --out_dir."""
    groups: Path | None = None
    """Report: CSV with columns `path, group`: intervals resample groups, such as patients, whole;
    default: images that show one picture."""
    cluster: str | None = None
    """Address of a Dask scheduler that deals the runs to its workers, tcp://HOST:PORT; needs the
    extra `cluster` and folders that every worker sees under the same path."""
    jobs: int = 1
    """Runs side by side on this machine, each with its share of the cores and the memory of a
    training."""
    recipe: RecipeName = "plain"
    """What the flags below default to, as for train."""
    epochs: int | None = None
    """Passes over the training images."""
    batch_size: int | None = None
    """Images for each optimiser step."""
    image_size: int | None = None
    """Side of the square that the network sees, pixels."""
    lr: float | None = None
    """Highest learning rate."""
    schedule: Literal["one_cycle", "cosine", "constant"] | None = None
    """How the learning rate moves, step by step."""
    patience: int | None = None
    """Stop after this many epochs without a better validation figure."""
    monitor: Literal["macro_f1", "loss"] = "macro_f1"
    """The validation figure that chooses the epoch."""
    class_weights: Literal["none", "balanced"] | None = None
    """`balanced` weighs each class by the inverse of its share in the training images."""
    patients: Path | None = None
    """CSV with columns `path, patient`, or `public`, as for train."""
    allow_patient_overlap: bool = False
    """Go on where a patient is in more than one split; every output then says so."""
    train_on_valid: bool = False
    """Train on the validation images too and keep the last epoch, as for train."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` records which."""
    resamples: int | None = None
    """Bootstrap resamples behind each interval; default: 2000, and 5000 for differences."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads for each run; default: all cores, with --jobs its share of them."""
    precision: Precision = "auto"
    """Numeric precision of the trainings, as for train; no study mixes two."""

    def __post_init__(self) -> None:
        at_least(self, seeds=1, epochs=1, batch_size=2, image_size=32, patience=1, threads=1)
        at_least(self, resamples=100, jobs=1)
        if self.jobs > 1 and self.cluster is not None:
            raise ValueError(
                "--jobs is for this machine alone, and --cluster deals the runs out itself; leave "
                "one of the two out."
            )
        nothing_to_choose_by(self.train_on_valid, self.patience, self.monitor)
        for name in ("models", "folds"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or (name == "models" and not values):
                raise ValueError(f"--{name}: expected one or more, each named once.")
        if any(fold < 0 for fold in self.folds):
            raise ValueError("--folds: expected 0 or more.")
        if self.protocol == "official" and self.folds:
            raise ValueError("--folds goes with --protocol patients or folds; leave it out.")
        if self.report:
            return
        if self.groups is not None:
            raise ValueError("--groups goes with --report; leave it out.")
        if self.data_dir is None:
            raise ValueError("--data_dir must be given, for example --data_dir data/.")
