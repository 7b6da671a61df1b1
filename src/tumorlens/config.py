"""The settings of every verb: frozen, documented, and refusing nonsense at birth.

These classes are the command line too: a field's name is its flag, its docstring its help.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
ModelName = Literal["resnet18", "se_resnet18"]
RecipeName = Literal["fast", "plain", "paper"]


def _at_least(settings: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ValueError(f"--{name} {value}: expected {bound} or more.")


@dataclass(frozen=True)
class TrainSettings:
    """Train a network from scratch; keep the weights of the best validation epoch."""

    model: ModelName | None = None
    """Network: ResNet18, or the same with squeeze-and-excitation in every block."""
    data_dir: Path | None = None
    """Folder with train/ valid/ [test/] or Training/ Testing/, each with class folders."""
    out_dir: Path = Path("model")
    """Where runs/ and best_model.pt go."""
    recipe: RecipeName = "plain"
    """What the flags below default to: `plain` is 96 px, 15 epochs, batch 32, one-cycle Adam 1e-3;
    `paper` is the published study's 224 px, 50 epochs, batch 128, constant Adam 2e-4."""
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
    """CSV with columns `path, split`, or `path, fold[, run]` with --fold; or `public-folds`, the
    patient-disjoint folds of the public set that come with tumorlens."""
    fold: int | None = None
    """Fold that is the test part, with a --splits file of folds."""
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
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    """Arithmetic, as Lightning names it."""

    def __post_init__(self) -> None:
        _at_least(
            self, epochs=1, batch_size=2, image_size=32, patience=1, fold=0, threads=1, devices=1
        )
        _at_least(self, num_nodes=1, seed=0)
        if self.lr is not None and not 0 < self.lr <= 10:
            raise ValueError(f"--lr {self.lr}: expected more than 0 and at most 10.")
        if self.fold is not None and self.splits is None:
            raise ValueError("--fold needs --splits, the CSV that has the folds.")
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
class EvaluateSettings:
    """Score a checkpoint class by class, with intervals, with and without training copies."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt)."""
    data_dir: Path | None = None
    """Folder to score; default: the one remembered from training."""
    split: Literal["auto", "train", "valid", "test"] = "auto"
    """Part to score; `auto`: test where there is one, else valid."""
    splits: Path | None = None
    """CSV (or `public-folds`) that says which image is in which part, instead of the checkpoint."""
    fold: int | None = None
    """Fold that is the test part, with a --splits file of folds."""
    groups: Path | None = None
    """CSV with columns `path, group`: intervals resample groups instead of images."""
    out_dir: Path | None = None
    """Where the files go; default: evaluation/ beside the checkpoint."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` records which."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Decides the resamples."""
    batch_size: int = 64
    """Images at once; changes speed and memory, not results."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        _at_least(self, batch_size=1, resamples=100, seed=0, fold=0, threads=1)
        if self.fold is not None and self.splits is None:
            raise ValueError("--fold needs --splits, the CSV that has the folds.")


@dataclass(frozen=True)
class GradcamSettings:
    """Show where a network looked when it scored a class."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt)."""
    class_name: str | None = None
    """Explain images of this class; with --images it only sets the target."""
    target: str | None = None
    """Logit to explain: predicted, true, or a class; default: --class, else predicted."""
    images: tuple[Path, ...] = ()
    """Files or folders to explain instead of the data set's."""
    compare: Path | None = None
    """Second checkpoint, shown beside the first on the same images and scale."""
    layer: str = "layer4"
    """Module whose output is explained; layer4 is the last block's, after the addition. Two joined
    by `*`, as layer3*layer4: the geometric mean of their maps."""
    method: Literal["gradcam", "gradcam++", "layercam", "hirescam"] = "gradcam"
    """How features and gradients become a map."""
    map_size: int | None = None
    """Side of the square that the network is shown for its map, pixels; default: the size it was
    trained at. Larger: finer maps."""
    boxes: Path | None = None
    """CSV with columns path, box_x0, box_y0, box_x1, box_y1 (fractions), or a folder of masks:
    measure on all boxed images of the part whether the maps lie on the tumors."""
    faithfulness: bool = False
    """Also measure deletion and insertion: do the places that a map marks carry the answer?"""
    sanity: bool = False
    """Also make the weights random, step by step: do the maps fall apart, as they must?"""
    agree: tuple[Path, ...] = ()
    """Checkpoints of the same kind of network from other seeds: do their maps agree?"""
    sample: int = 64
    """Images drawn for --faithfulness, --sanity and --agree."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    count: int = 12
    """Images in the panel."""
    split: Literal["auto", "train", "valid", "test"] = "auto"
    """Part the images come from; `auto`: test where there is one, else valid."""
    data_dir: Path | None = None
    """Folder the images come from; default: the one remembered from training."""
    out_dir: Path | None = None
    """Where the files go; default: gradcam/ beside the checkpoint."""
    save_maps: bool = False
    """Also write each raw map as .npy, (h, w) float32, not rescaled."""
    seed: int = 0
    """Decides which images are drawn, and the resamples."""
    batch_size: int = 32
    """Images at once."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        _at_least(self, count=1, batch_size=1, seed=0, threads=1)
        _at_least(self, map_size=32, sample=2, resamples=100)
        measures = ("boxes", "faithfulness", "sanity", "agree")
        given = [name for name in measures if getattr(self, name)]
        if self.images and given:
            raise ValueError(
                f"--images and --{given[0]}: measures are taken on the data set's images; leave "
                "one of the two out."
            )


@dataclass(frozen=True)
class StudySettings:
    """Train and score a grid of networks, seeds and folds; a rerun does only what is missing."""

    models: tuple[ModelName, ...] = ("resnet18", "se_resnet18")
    """Networks of the grid."""
    seeds: int = 1
    """How many seeds, 0 and up."""
    protocol: Literal["official", "folds"] = "official"
    """`official`: the folder's own training and test parts. `folds`: each fold of --splits is the
    test part once."""
    data_dir: Path | None = None
    """Folder with the images, as for train."""
    splits: Path | None = None
    """CSV as for train; `folds` without it takes `public-folds`."""
    folds: tuple[int, ...] = ()
    """Folds to run; default: all of them."""
    boxes: Path | None = None
    """CSV or folder of masks, as for gradcam: measure whether each network looks at the tumors."""
    out_dir: Path = Path("results/study")
    """Where each finished run leaves one JSON and one predictions CSV."""
    runs_dir: Path = Path("model/study")
    """Where run folders and checkpoints go."""
    report: bool = False
    """Train nothing: draw tables and figures from the runs in --out_dir."""
    without_runs: tuple[int, ...] = ()
    """Report: give the folds' figures once more without the test images of these values of the
    splits file's column `run`, such as those that tuning looked at."""
    cluster: str | None = None
    """Address of a Dask scheduler that deals the runs to its workers, tcp://HOST:PORT; needs the
    extra `cluster` and folders that every worker sees under the same path."""
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
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` records which."""
    resamples: int | None = None
    """Bootstrap resamples behind each interval; default: 2000, and 5000 for differences."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads for each run; default: all cores."""

    def __post_init__(self) -> None:
        _at_least(self, seeds=1, epochs=1, batch_size=2, image_size=32, patience=1, threads=1)
        _at_least(self, resamples=100)
        for name in ("models", "folds"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or (name == "models" and not values):
                raise ValueError(f"--{name}: expected one or more, each named once.")
        if any(fold < 0 for fold in self.folds):
            raise ValueError("--folds: expected 0 or more.")
        if self.protocol == "official" and self.folds:
            raise ValueError("--folds goes with --protocol folds; leave it out.")
        if self.report:
            return
        if self.without_runs:
            raise ValueError("--without_runs goes with --report; leave it out.")
        if self.data_dir is None:
            raise ValueError("--data_dir must be given, for example --data_dir data/.")


@dataclass(frozen=True)
class CompareSettings:
    """Compare two networks on the same images: every figure's difference, and is it chance?"""

    a: Path | None = None
    """The first: a checkpoint, a predictions.csv, a folder that evaluate wrote, or a study folder.
    """
    b: Path | None = None
    """The second; differences are of the second minus the first. A study folder of two networks
    needs none."""
    protocol: Literal["official", "folds"] | None = None
    """Of a study folder: which runs; default: the protocol that it has."""
    groups: Path | None = None
    """CSV with columns `path, group`: intervals resample groups, such as patients, whole."""
    data_dir: Path | None = None
    """Folder of the images of checkpoints; default: the one remembered from training."""
    out_dir: Path = Path("comparison")
    """Where comparison.json, comparison.csv and the figure go."""
    resamples: int = 5000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Decides the resamples."""
    batch_size: int = 64
    """Images at once; changes speed and memory, not results."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        _at_least(self, batch_size=1, resamples=100, seed=0, threads=1)
        if self.a is None:
            raise ValueError(
                "two things to compare must be given, for example A/best_model.pt B/best_model.pt, "
                "or one study folder."
            )


@dataclass(frozen=True)
class PhantomSettings:
    """Make a simulated data set: brain slices with and without tumors, masks and boxes."""

    out: Path = Path("data")
    """Folder to write (--out_dir is the same flag)."""
    train: int = 60
    """Training images for each class."""
    valid: int = 20
    """Validation images for each class."""
    test: int = 20
    """Test images for each class."""
    size: int = 224
    """Side of the pictures, pixels."""
    seed: int = 0
    """Decides every picture."""

    def __post_init__(self) -> None:
        _at_least(self, train=2, valid=1, test=0, size=64, seed=0)


@dataclass(frozen=True)
class AuditSettings:
    """Find copies, mirror images, conflicting labels, unreadable files and shortcuts."""

    data_dir: Path
    """Any folder of images; splits and classes are told by its folders."""
    out_dir: Path = Path("audit")
    """Where audit.json, pairs.csv, groups.csv and audit.html go."""
    splits: Path | None = None
    """CSV that says which image is in which part, instead of the folders; or `public-folds`."""
    fold: int | None = None
    """Fold that is the test part, with --splits of folds."""
    fail_on: tuple[Literal["leak", "conflict", "unreadable"], ...] = ()
    """Exit with status 1 where there are copies across splits, copies with conflicting labels, or
    files that cannot be decoded."""

    def __post_init__(self) -> None:
        _at_least(self, fold=0)
        if self.fold is not None and self.splits is None:
            raise ValueError("--fold needs --splits, the CSV that has the folds.")


@dataclass(frozen=True)
class SplitSettings:
    """Split a data folder so that images of one picture stay together."""

    data_dir: Path
    """Folder with class folders, in split folders or not; it is split anew as a whole."""
    out: Path = Path("splits.csv")
    """File to write: path, split or fold, label, group."""
    folds: int | None = None
    """Number of folds; default: one split by --valid and --test."""
    valid: float = 0.15
    """Share of the images that chooses the epoch."""
    test: float = 0.15
    """Share of the images that is scored; 0 for none."""
    groups: Path | None = None
    """CSV with columns `path, group`, patients for example: no group is divided."""
    seed: int = 0
    """Decides among equally good splits."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` leaves it out."""

    def __post_init__(self) -> None:
        _at_least(self, folds=2, seed=0)
        for name in ("valid", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: expected 0 or more, below 1.")
        if self.valid + self.test >= 1:
            raise ValueError(
                f"--valid {self.valid} --test {self.test}: leave nothing to train on; their sum "
                "must be below 1."
            )


@dataclass(frozen=True)
class ExportSettings:
    """Write a checkpoint as one ONNX file that runs without PyTorch, checked before it is kept."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt)."""
    format: Literal["onnx"] = "onnx"
    """What to write."""
    int8: bool = False
    """Compute in 8 bits: a quarter of the size. Refused where macro F1 or any class's recall on
    validation images falls by more than half a point."""
    out: Path | None = None
    """File to write; default: beside the checkpoint, best_model.onnx or best_model.int8.onnx."""
    data_dir: Path | None = None
    """Folder of the images to check on; default: the one remembered from training."""
    calibration_images: int = 256
    """Training images that the ranges of the 8 bits are measured on."""
    threads: int | None = None
    """CPU threads for the comparison with PyTorch; default: all cores."""

    def __post_init__(self) -> None:
        _at_least(self, calibration_images=8, threads=1)


@dataclass(frozen=True)
class ReportSettings:
    """Put a run on one page: data, scores, pictures, checklist; and a model card."""

    run_dir: Path
    """Run folder (model/runs/...), or the folder above, for the run of its best_model.pt."""
    out: Path | None = None
    """Page to write, MODEL_CARD.md beside it; default: report.html in the run folder."""
    evaluation: Path | None = None
    """Folder that evaluate left; default: evaluation/ in the run folder or beside runs/."""
    gradcam: Path | None = None
    """Folder that gradcam left; default: gradcam/ in the run folder or beside runs/."""
    audit: Path | None = None
    """Folder that audit left; default: audit/ there or here, if it is of this data folder."""
    compare: Path | None = None
    """Folder that compare left; default: none."""


@dataclass(frozen=True)
class DownloadSettings:
    """Fetch the public Brain Tumor MRI Dataset from Kaggle, check it, audit it."""

    out: Path = Path("data")
    """Folder for Training/ and Testing/ (--out_dir is the same flag); an interrupted download goes
    on from there."""
    audit_dir: Path = Path("audit")
    """Where the audit of it goes."""
    version: int = 1
    """Version on Kaggle; version 1 has the 7,023 images that published figures are about, and the
    only known counts."""

    def __post_init__(self) -> None:
        _at_least(self, version=1)


@dataclass(frozen=True)
class ServeSettings:
    """Serve a web page: drop a slice, see classes, verdict and maps."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt)."""
    compare: Path | None = None
    """Second checkpoint, shown beside the first (--checkpoint2 is the same flag)."""
    layer: str = "layer4"
    """Module whose output is explained."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone."""
    port: int = 7860
    """Port to listen on; 0 for any that is free."""
    max_mb: float = 32.0
    """Largest upload, megabytes."""
    max_megapixels: float = 32.0
    """Most pixels of an upload, all its slices together, millions."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        _at_least(self, port=0, threads=1, max_mb=0.01, max_megapixels=0.01)
        if self.port > 65535:
            raise ValueError(f"--port {self.port}: expected 65535 or less.")


def primitives(settings: object) -> dict[str, Any]:
    """A settings object as JSON primitives, paths as text."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}  # type: ignore[arg-type]
    return {name: _primitive(value) for name, value in values.items()}


def _primitive(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_primitive(item) for item in value]
    return str(value) if isinstance(value, Path) else value
