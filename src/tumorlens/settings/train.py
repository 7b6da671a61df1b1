"""Settings: training a network and repeating it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tumorlens.settings.shared import (
    REQUIRED,
    Device,
    ModelName,
    OperatingPointName,
    Precision,
    Protocol,
    RecipeName,
    at_least,
    fold_needs_splits,
)

# What each recipe sets that a flag may set otherwise; the rest is in `training.recipes`.
_FLAGS = ("image_size", "epochs", "batch_size", "lr", "schedule", "patience", "class_weights")
_VALUES: dict[RecipeName, tuple[Any, ...]] = {
    # A plain correct loop that fits two CPU cores.
    "plain": (96, 15, 32, 1e-3, "one_cycle", 10, "none"),
    # More regularisation, within 20 to 30 minutes on two CPU cores (docs/method.md, "Training").
    "fast": (96, 20, 64, 0.05, "one_cycle", 20, "none"),
    # As `fast`, each image on its own grey scale and framed by its own head, display changed.
    "robust": (96, 20, 64, 0.05, "one_cycle", 20, "none"),
    # The published study's settings, with its flip and rotation by 10 degrees.
    "paper": (224, 50, 128, 2e-4, "constant", 10, "none"),
}
RECIPE_DEFAULTS: dict[RecipeName, dict[str, Any]] = {
    name: dict(zip(_FLAGS, values, strict=True)) for name, values in _VALUES.items()
}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a training and a study of many share."""

    data_dir: Path | None = field(default=None, metadata=REQUIRED)
    """Folder with train/ valid/ [test/] or Training/ Testing/, each with class folders."""
    splits: Path | None = None
    """CSV with columns `path, split`, or `path, fold[, run]` with --fold; or `public-patients`, the
    patient-level folds of the public set that come with tumorlens; or `public-site-out`, the same
    folds without the gliomas of one hospital in training and validation."""
    patients: Path | None = None
    """CSV with columns `path, patient`, or `public`, the built-in table of the public set: no
    patient is in two of train, validation and test, and intervals resample patients. Default: the
    --splits file's own column `patient`, if it has one."""
    allow_patient_overlap: bool = False
    """Go on where a patient is in more than one split; every output then says so."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` records which."""
    recipe: RecipeName = "plain"
    """What the flags below default to. `plain`: Adam. `fast`: SGD, label smoothing, and an
    exponential moving average of weights is kept. `robust`: the same for other displays
    and scanners, each image on its own grey scale and framed by its own head. `paper`: the
    published study's settings."""
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
    """Stop after this many epochs without a better validation metric."""
    monitor: Literal["macro_f1", "loss"] = "macro_f1"
    """The validation metric that chooses the epoch."""
    class_weights: Literal["none", "balanced"] | None = None
    """`balanced` weighs each class by the inverse of its share in the training images."""
    balance: str | None = None
    """Draw small groups of training images more often: `class`, or a column of the patients table,
    such as site, for the groups of class and column."""
    balance_exponent: float = 1.0
    """How much more often: 0 not at all, 1 so that every group is drawn as often as any other. With
    --loss balanced_softmax: its tau."""
    loss: Literal["cross_entropy", "focal", "balanced_softmax", "group_dro"] = "cross_entropy"
    """`focal`: sure images count little. `balanced_softmax`: what is learnt does not lean on a
    class's share, among the images of one site with --balance site. `group_dro`: the worst of the
    groups of --balance counts most, and weight decay is strong."""
    operating_point: OperatingPointName = "none"
    """Offset for each class, fitted on validation images after training, for the best `accuracy`,
    `balanced_accuracy` or recall of the `worst_class`."""
    outlines: Path | None = None
    """CSV with columns `path, outline` (`x,y x,y ...`, fractions, around the tumor): tumors of
    other training images are put into images without one, so that no source tells the class."""
    train_on_valid: bool = False
    """Train on the validation images too and keep the last epoch: for a recipe that is settled.
    Nothing chooses the epoch then, and the checkpoint has no calibration."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads for each process; default: all cores."""
    precision: Precision = "auto"
    """Numeric precision, as Lightning names it; `auto`: bf16-mixed where the device computes it in
    hardware, else 32-true (16-mixed on older GPUs). The record says which; no study mixes two."""

    def __post_init__(self) -> None:
        at_least(self, epochs=1, batch_size=2, image_size=32, patience=1, threads=1)
        if not 0 <= self.balance_exponent <= 1:
            raise ValueError(f"--balance_exponent {self.balance_exponent}: expected 0 to 1.")
        if self.balance_exponent != 1 and not self.balance and self.loss != "balanced_softmax":
            raise ValueError("--balance_exponent goes with --balance; name `class` or a column.")
        if self.loss == "group_dro" and self.outlines is not None:
            raise ValueError(
                "--loss group_dro: --outlines gives images another class, and so another group; "
                "leave one of the two out."
            )
        if self.train_on_valid and self.operating_point != "none":
            raise ValueError(
                "--operating_point needs validation images, which --train_on_valid lets train; "
                "leave one of the two out."
            )
        if self.lr is not None and not 0 < self.lr <= 10:
            raise ValueError(f"--lr {self.lr}: expected more than 0 and at most 10.")
        if self.train_on_valid and (self.patience is not None or self.monitor != "macro_f1"):
            name = "monitor" if self.patience is None else "patience"
            raise ValueError(
                f"--{name} needs validation images, which --train_on_valid lets train; leave one "
                "of the two out."
            )


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainingOptions):
    """Train a network from scratch; keep the weights of the best validation epoch."""

    model: ModelName | None = field(default=None, metadata=REQUIRED)
    """Network: ResNet18, or the same with squeeze-and-excitation in every block."""
    out_dir: Path = Path("model")
    """Where runs/ and best_model.pt go."""
    seed: int = 0
    """Decides initial weights, order and augmentation; on a CPU it gives the same weights again."""
    fold: int | None = None
    """Fold that is the test split, with a --splits file of folds."""
    resume: Path | None = None
    """Run folder (model/runs/...) to go on with, by its own settings; goes with --device and
    --threads alone."""
    devices: int = 1
    """Processes or GPUs on each node."""
    num_nodes: int = 1
    """Machines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, fold=0, devices=1, num_nodes=1, seed=0)
        fold_needs_splits(self.fold, self.splits)
        if self.loss == "group_dro" and self.devices * self.num_nodes > 1:
            raise ValueError("--loss group_dro: needs --devices 1 and --num_nodes 1.")
        if self.resume is not None:
            others = (
                item for item in fields(self) if item.name not in ("resume", "device", "threads")
            )
            given = [item.name for item in others if getattr(self, item.name) != item.default]
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


@dataclass(frozen=True, kw_only=True)
class StudySettings(TrainingOptions):
    """Train and score a grid of networks, seeds and folds; a rerun does only what is missing."""

    models: tuple[ModelName, ...] = ("resnet18", "se_resnet18")
    """Networks of the grid."""
    seeds: int = 1
    """How many seeds, 0 and up."""
    protocol: Protocol = "official"
    """`official`: the folder's own training and test splits. `patients`: each fold of --splits
    (default: `public-patients`) is the test once, and no patient is in two splits. `folds`: the
    same of a splits file whose patients are not known."""
    folds: tuple[int, ...] = ()
    """Folds to run; default: all of them."""
    boxes: Path | None = None
    """CSV or folder of masks, as for gradcam: measure whether each network looks at the tumors."""
    out_dir: Path = Path("study")
    """Where each finished run leaves one JSON and one predictions CSV."""
    runs_dir: Path | None = None
    """Where run folders and checkpoints go; default: model/ and the name of --out_dir."""
    report: bool = False
    """Train nothing: draw tables and metrics from the runs in --out_dir."""
    groups: Path | None = None
    """Report: CSV with columns `path, group`: intervals resample groups, such as patients, whole;
    default: images that show one image."""
    cluster: str | None = None
    """Address of a Dask scheduler that deals the runs to its workers, tcp://HOST:PORT; needs the
    extra `cluster` and folders that every worker sees under the same path."""
    jobs: int = 1
    """Runs side by side on this machine, each with its share of the cores and the memory of a
    training."""
    resamples: int | None = None
    """Bootstrap resamples behind each interval; default: 2000, and 5000 for differences."""
    threads: int | None = None
    """CPU threads for each run; default: all cores, with --jobs its share of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, seeds=1, resamples=100, jobs=1)
        if self.jobs > 1 and self.cluster is not None:
            raise ValueError(
                "--jobs is for this machine alone, and --cluster deals the runs out itself; leave "
                "one of the two out."
            )
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
