"""Settings: training a network and repeating it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tumorlens.settings.recipe_files import BUILT_IN, KEYS, read_changes, read_recipe
from tumorlens.settings.shared import (
    REQUIRED,
    Device,
    ModelName,
    OperatingPointName,
    Precision,
    Protocol,
    at_least,
    check_models,
    fold_needs_splits,
)

# What each recipe sets that a flag may set otherwise.
RECIPE_FLAGS = ("image_size", "epochs", "batch_size", "lr", "schedule", "patience", "class_weights")
RECIPE_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {KEYS[key][0]: value for key, value in read_recipe(name)[0].items()}
    for name in sorted(BUILT_IN, key="plain".__ne__)  # the default first
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
    recipe: str = "plain"
    """What the flags below default to: plain, fast, robust, paper, or a TOML file of your own.
    `plain`: Adam. `fast`: SGD, label smoothing, and an exponential moving average of weights is
    kept. `robust`: the same for other displays and scanners, each image on its own grey scale and
    framed by its own head. `paper`: the published study's settings. A run folder's recipe.toml
    repeats the run."""
    set: tuple[str, ...] = ()
    """Anything of the recipe, as KEY=VALUE, such as optimizer.weight_decay=1e-3."""
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
    init: Path | None = None
    """Weights to start from: a checkpoint, resnet18 or se_resnet18 for those that come with
    tumorlens, or a state dict (.pt, .pth, .safetensors), such as torchvision's. What fits is
    loaded; the last layer starts afresh where its classes are others."""
    freeze: tuple[str, ...] = ()
    """Modules or parameters to leave as they are, such as conv1 bn1 layer1, or a comma list; their
    batch norms stay in evaluation mode."""
    outlines: Path | None = None
    """CSV with columns `path, outline` (`x,y x,y ...`, fractions, around the tumor): tumors of
    other training images are put into images without one, so that no source tells the class."""
    train_on_valid: bool = False
    """Train on the validation images too and keep the last epoch: for a recipe that is settled.
    Nothing chooses the epoch then, and the checkpoint has no calibration."""
    logger: Literal["auto", "csv", "tensorboard", "mlflow", "wandb"] = "auto"
    """Where Lightning logs each epoch's metrics, offline; `auto`: TensorBoard where it is
    installed. mlflow's store is mlruns/ in --out_dir."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads for each process; default: all cores."""
    precision: Precision = "auto"
    """Numeric precision, as Lightning names it; `auto`: bf16-mixed where the device computes it in
    hardware, else 32-true (16-mixed on older GPUs). The record says which; no study mixes two."""

    def __post_init__(self) -> None:
        _, run = read_recipe(self.recipe)
        read_changes(self.set)
        _take(self, run)
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


def _take(settings: Any, run: dict[str, Any]) -> None:
    """Give fields at their default the values of a recipe file's table `run`."""
    known = {item.name: item for item in fields(settings)}
    for name, value in run.items():
        if name not in known:
            raise ValueError(f"--recipe {settings.recipe}: there is no flag --{name} (table run).")
        item = known[name]
        if getattr(settings, name) == item.default:
            kind = Path if "Path" in str(item.type) else tuple if isinstance(value, list) else None
            object.__setattr__(settings, name, kind(value) if kind else value)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainingOptions):
    """Train a network; keep the weights of the best validation epoch."""

    model: ModelName | None = field(default=None, metadata=REQUIRED)
    """Network: resnet18, resnet34, the same with squeeze-and-excitation (se_resnet18, se_resnet34),
    or your own code, package.module:factory or file.py:factory. It is called with num_classes;
    where it takes none, its last linear layer is replaced."""
    out_dir: Path = Path("model")
    """Where runs/ and best_model.pt go."""
    seed: int = 0
    """Decides initial weights, order and augmentation; on a CPU it gives the same weights again."""
    fold: int | None = None
    """Fold that is the test split, with a --splits file of folds."""
    resume: Path | None = None
    """Run folder (model/runs/...) to go on with, by its own settings; goes with --device, --threads
    and --epochs alone. More --epochs lengthen a run, also a finished one, of the constant
    schedule."""
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
            ours = ("resume", "device", "threads", "epochs")
            others = (item for item in fields(self) if item.name not in ours)
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
            assert self.model is not None
            check_models("model", [self.model])


@dataclass(frozen=True, kw_only=True)
class StudySettings(TrainingOptions):
    """Train and score a grid of networks, seeds and folds; a rerun does only what is missing."""

    models: tuple[ModelName, ...] = (ModelName("resnet18"), ModelName("se_resnet18"))
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
        check_models("models", self.models)
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
