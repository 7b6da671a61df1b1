# Written by tools/write_stubs.py (`make stubs`); a test holds it equal to the settings.
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy.typing as npt
from PIL import Image

from tumorlens.audit.audit import Audit
from tumorlens.audit.download import Downloaded
from tumorlens.comparison.compare import Compared
from tumorlens.data.partition import Partition
from tumorlens.evaluation.evaluate import Report
from tumorlens.explain.panel import Explanation
from tumorlens.export.parity import Exported
from tumorlens.inference.predict import PredictionList
from tumorlens.phantom.dataset import PhantomSummary
from tumorlens.progress import Progress
from tumorlens.reporting.page import RunReport
from tumorlens.studies.grid import StudyResult
from tumorlens.studies.report import StudyReport
from tumorlens.training.finished import Finished
from tumorlens.training.fit import TrainingResult
from tumorlens.web.serve import Server

__version__: str
_ImageLike: TypeAlias = str | Path | npt.NDArray[Any] | Image.Image

def train(
    *,
    data_dir: str | Path | None = None,
    model: str | Callable[..., Any] | None = None,
    splits: str | Path | None = None,
    patients: str | Path | None = None,
    allow_patient_overlap: bool = False,
    on_bad_image: Literal["stop", "skip"] = "stop",
    recipe: str = "plain",
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    lr: float | None = None,
    schedule: Literal["one_cycle", "cosine", "constant"] | None = None,
    patience: int | None = None,
    monitor: Literal["macro_f1", "loss"] = "macro_f1",
    class_weights: Literal["none", "balanced"] | None = None,
    balance: str | None = None,
    balance_exponent: float = 1.0,
    loss: Literal["cross_entropy", "focal", "balanced_softmax", "group_dro"] = "cross_entropy",
    operating_point: Literal["none", "accuracy", "balanced_accuracy", "worst_class"] = "none",
    init: str | Path | None = None,
    freeze: Sequence[str] = (),
    outlines: str | Path | None = None,
    train_on_valid: bool = False,
    logger: Literal["auto", "csv", "tensorboard", "mlflow", "wandb"] = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto",
    out_dir: str | Path = "model",
    seed: int = 0,
    fold: int | None = None,
    resume: str | Path | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    progress: Progress = ...,
) -> TrainingResult:
    """Train a network; keep the weights of the best validation epoch."""

def evaluate(
    *,
    checkpoint: str | Path,
    data_dir: str | Path | None = None,
    split: Literal["auto", "train", "valid", "test"] = "auto",
    splits: str | Path | None = None,
    fold: int | None = None,
    patients: str | Path | None = None,
    allow_patient_overlap: bool = False,
    groups: str | Path | None = None,
    subgroups: str | Path | None = None,
    out_dir: str | Path | None = None,
    stress: Literal["none", "quick", "full"] = "none",
    coverage: float = 0.95,
    on_bad_image: Literal["stop", "skip"] = "stop",
    resamples: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    progress: Progress = ...,
) -> Report:
    """Score a checkpoint class by class, with and without near-duplicates of training images."""

def gradcam(
    *,
    checkpoint: str | Path,
    class_name: str | None = None,
    target: str | None = None,
    images: Sequence[str | Path] = (),
    compare: str | Path | None = None,
    layer: str | None = None,
    method: Literal["gradcam", "gradcam++", "layercam", "hirescam"] = "gradcam",
    map_size: int | None = None,
    boxes: str | Path | None = None,
    faithfulness: bool = False,
    sanity: bool = False,
    agree: Sequence[str | Path] = (),
    sample: int = 64,
    resamples: int = 2000,
    count: int = 12,
    split: Literal["auto", "train", "valid", "test"] = "auto",
    data_dir: str | Path | None = None,
    out_dir: str | Path | None = None,
    save_maps: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    progress: Progress = ...,
) -> Explanation:
    """Show where a network looked when it scored a class."""

def predict(
    *,
    checkpoint: str | Path,
    paths: _ImageLike | Sequence[_ImageLike] = (),
    csv: str | Path | None = None,
    coverage: float | None = None,
    heatmaps: str | Path | None = None,
    axis: Literal["axial", "coronal", "sagittal"] = "axial",
    slice: int | None = None,
    backend: Literal["auto", "torch", "onnx"] = "auto",
    batch_size: int = 32,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    progress: Progress = ...,
) -> PredictionList:
    """Name the class of slices, and say how sure that is. Exit status 1: a file was unreadable."""

def audit(
    *,
    data_dir: str | Path,
    out_dir: str | Path = "audit",
    splits: str | Path | None = None,
    fold: int | None = None,
    patients: str | Path | None = None,
    fail_on: Sequence[Literal["leak", "patients", "conflict", "unreadable"]] = (),
    progress: Progress = ...,
) -> Audit:
    """Find near-duplicates, mirror images, conflicting labels, unreadable files and shortcuts."""

def split(
    *,
    data_dir: str | Path,
    out: str | Path = "splits.csv",
    folds: int | None = None,
    valid: float = 0.15,
    test: float = 0.15,
    patients: str | Path | None = None,
    groups: str | Path | None = None,
    seed: int = 0,
    on_bad_image: Literal["stop", "skip"] = "stop",
    progress: Progress = ...,
) -> Partition:
    """Split a data folder so that images of one image stay together."""

def compare(
    *,
    a: str | Path | None = None,
    b: str | Path | None = None,
    protocol: Literal["official", "patients", "folds"] | None = None,
    model: str | Callable[..., Any] | None = None,
    patients: str | Path | None = None,
    groups: str | Path | None = None,
    data_dir: str | Path | None = None,
    out_dir: str | Path = "comparison",
    resamples: int = 5000,
    seed: int = 0,
    batch_size: int = 64,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    progress: Progress = ...,
) -> Compared:
    """Compare two networks on the same images: every figure's difference, and is it chance?"""

def study(
    *,
    data_dir: str | Path | None = None,
    splits: str | Path | None = None,
    patients: str | Path | None = None,
    allow_patient_overlap: bool = False,
    on_bad_image: Literal["stop", "skip"] = "stop",
    recipe: str = "plain",
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    lr: float | None = None,
    schedule: Literal["one_cycle", "cosine", "constant"] | None = None,
    patience: int | None = None,
    monitor: Literal["macro_f1", "loss"] = "macro_f1",
    class_weights: Literal["none", "balanced"] | None = None,
    balance: str | None = None,
    balance_exponent: float = 1.0,
    loss: Literal["cross_entropy", "focal", "balanced_softmax", "group_dro"] = "cross_entropy",
    operating_point: Literal["none", "accuracy", "balanced_accuracy", "worst_class"] = "none",
    init: str | Path | None = None,
    freeze: Sequence[str] = (),
    outlines: str | Path | None = None,
    train_on_valid: bool = False,
    logger: Literal["auto", "csv", "tensorboard", "mlflow", "wandb"] = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto",
    models: Sequence[str | Callable[..., Any]] = ("resnet18", "se_resnet18"),
    seeds: int = 1,
    protocol: Literal["official", "patients", "folds"] = "official",
    folds: Sequence[int] = (),
    boxes: str | Path | None = None,
    out_dir: str | Path = "study",
    runs_dir: str | Path | None = None,
    groups: str | Path | None = None,
    cluster: str | None = None,
    jobs: int = 1,
    resamples: int | None = None,
    progress: Progress = ...,
) -> StudyResult:
    """Train and score a grid of networks, seeds and folds; a rerun does only what is missing."""

def study_report(
    *,
    data_dir: str | Path | None = None,
    splits: str | Path | None = None,
    patients: str | Path | None = None,
    allow_patient_overlap: bool = False,
    on_bad_image: Literal["stop", "skip"] = "stop",
    recipe: str = "plain",
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    lr: float | None = None,
    schedule: Literal["one_cycle", "cosine", "constant"] | None = None,
    patience: int | None = None,
    monitor: Literal["macro_f1", "loss"] = "macro_f1",
    class_weights: Literal["none", "balanced"] | None = None,
    balance: str | None = None,
    balance_exponent: float = 1.0,
    loss: Literal["cross_entropy", "focal", "balanced_softmax", "group_dro"] = "cross_entropy",
    operating_point: Literal["none", "accuracy", "balanced_accuracy", "worst_class"] = "none",
    init: str | Path | None = None,
    freeze: Sequence[str] = (),
    outlines: str | Path | None = None,
    train_on_valid: bool = False,
    logger: Literal["auto", "csv", "tensorboard", "mlflow", "wandb"] = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto",
    models: Sequence[str | Callable[..., Any]] = ("resnet18", "se_resnet18"),
    seeds: int = 1,
    protocol: Literal["official", "patients", "folds"] = "official",
    folds: Sequence[int] = (),
    boxes: str | Path | None = None,
    out_dir: str | Path = "study",
    runs_dir: str | Path | None = None,
    groups: str | Path | None = None,
    cluster: str | None = None,
    jobs: int = 1,
    resamples: int | None = None,
    progress: Progress = ...,
) -> StudyReport:
    """Train and score a grid of networks, seeds and folds; a rerun does only what is missing."""

def calibrate(
    *,
    checkpoint: str | Path,
    operating_point: Literal["none", "accuracy", "balanced_accuracy", "worst_class"] = "none",
    other_folds: Sequence[str | Path] = (),
    last_layer: str | None = None,
    last_layer_images: Literal["valid", "train"] = "valid",
    data_dir: str | Path | None = None,
    splits: str | Path | None = None,
    fold: int | None = None,
    patients: str | Path | None = None,
    out_dir: str | Path | None = None,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
    progress: Progress = ...,
) -> Finished:
    """Calibrate a finished checkpoint anew: another operating point, another last layer."""

def export(
    *,
    checkpoint: str | Path,
    format: Literal["onnx", "safetensors"] = "onnx",
    int8: bool = False,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    splits: str | Path | None = None,
    fold: int | None = None,
    calibration_images: int = 256,
    threads: int | None = None,
    progress: Progress = ...,
) -> Exported:
    """Write a checkpoint as a file to share, compared with it before it is kept."""

def report(
    *,
    run_dir: str | Path,
    out: str | Path | None = None,
    evaluation: str | Path | None = None,
    gradcam: str | Path | None = None,
    audit: str | Path | None = None,
    compare: str | Path | None = None,
) -> RunReport:
    """Put a run on one page: data, scores, images, checklist; and a model card."""

def serve(
    *,
    checkpoint: str | Path,
    compare: str | Path | None = None,
    layer: str | None = None,
    method: Literal["gradcam", "gradcam++", "layercam", "hirescam"] = "gradcam",
    host: str = "127.0.0.1",
    port: int = 7860,
    root_path: str = "/",
    allowed_host: Sequence[str] = (),
    coverage: float = 0.95,
    max_mb: float = 32.0,
    max_megapixels: float = 32.0,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | None = None,
) -> AbstractContextManager[Server]:
    """Serve a web page: drop a slice, see classes, decision and saliency maps."""

def download(
    *,
    source: Literal["kaggle", "figshare"] = "kaggle",
    from_dir: str | Path | None = None,
    out: str | Path = "data",
    audit_dir: str | Path = "audit",
    version: int = 1,
    progress: Progress = ...,
) -> Downloaded:
    """Fetch a public set, check it, audit it: Brain Tumor MRI from Kaggle, or Cheng's figshare."""

def phantom(
    *,
    out: str | Path = "data",
    train: int = 60,
    valid: int = 20,
    test: int = 20,
    size: int = 224,
    seed: int = 0,
    progress: Progress = ...,
) -> PhantomSummary:
    """Make a simulated data set: brain slices with and without tumors, masks and boxes."""
