"""Settings: what is done with a trained network."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tumorlens.settings.shared import (
    COVERAGE,
    IN_PYTHON,
    MAP_METHOD,
    REQUIRED,
    Device,
    MapMethod,
    OperatingPointName,
    at_least,
    check_coverage,
    fold_needs_splits,
)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class PredictSettings:
    """Name the class of slices, and say how sure that is. Exit status 1: a file was unreadable."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt) or export did (.onnx, .safetensors), or resnet18
    or se_resnet18 for the weights that come with tumorlens."""
    paths: tuple[Path, ...] = field(
        default=(), metadata=REQUIRED | {IN_PYTHON: "_ImageLike | Sequence[_ImageLike]"}
    )
    """Files, folders or patterns: PNG, JPEG, TIFF, BMP, WebP, DICOM, NIfTI. The word --paths may be
    left out where they come first. In Python also images of Pillow and arrays, (H, W) or (H, W, 3),
    one or a list of them."""
    csv: Path | None = None
    """Write path, prediction, decision and the probability of each class here."""
    json: bool = False
    """Print a JSON object for each slice, a line each, instead of a table."""
    coverage: float | None = None
    """Also give a set of classes that has the true one in this share of the images of every class,
    such as 0.95: one class, or `glioma or meningioma` where one would be a guess."""
    heatmaps: Path | None = None
    """Folder for an image of each slice beside where the network looked."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """How NIfTI volumes are cut."""
    slice: int | None = None
    """Of a volume or a file of several frames, this slice alone, counted from 0."""
    backend: Literal["auto", "torch", "onnx"] = "auto"
    """What runs the network; `auto`: what the file is for."""
    batch_size: int = 32
    """Slices at once; changes speed and memory, not results."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        at_least(self, slice=0, batch_size=1, threads=1)
        check_coverage(self.coverage)
        if not self.paths:
            raise ValueError(
                "--paths: files must be given, for example `tumorlens predict slice.png "
                "--checkpoint model/best_model.pt`."
            )

    @property
    def runs_onnx(self) -> bool:
        """Whether onnxruntime is to run the network."""
        if self.backend == "auto":
            return self.checkpoint.suffix.lower() == ".onnx"
        return self.backend == "onnx"


@dataclass(frozen=True)
class CalibrateSettings:
    """Calibrate a finished checkpoint anew: another operating point, another last layer."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt), or resnet18 or se_resnet18 for the weights that
    come with tumorlens; it stays as it is."""
    operating_point: OperatingPointName = "none"
    """Offset for each class, fitted on validation images for the best `accuracy`,
    `balanced_accuracy` or recall of the `worst_class`."""
    other_folds: tuple[Path, ...] = ()
    """Checkpoints of the same recipe on other folds. Their validation images fit the offsets too,
    each by its own network, but for those of this checkpoint's test split: the people of one fold
    are few."""
    last_layer: str | None = None
    """Train the last layer again on groups of equal size: `class`, or a column of the patients
    table, such as site, for the groups of class and column."""
    last_layer_images: Literal["valid", "train"] = "valid"
    """Images that it learns from: validation images, of which the network did not learn, or
    training images."""
    data_dir: Path | None = None
    """Folder of the training and validation images; default: the one remembered from training."""
    splits: Path | None = None
    """CSV (or `public-patients`) that says which image is in which split, instead of the
    checkpoint."""
    fold: int | None = None
    """Fold that is the test split, with a --splits file of folds."""
    patients: Path | None = None
    """CSV with columns `path, patient` (and, where known, `site`), or `public`, the built-in table
    of the public set. Default: what the checkpoint remembers."""
    out_dir: Path | None = None
    """Where best_model.pt and operating_points.json and .png go; default: calibration/ beside the
    checkpoint."""
    seed: int = 0
    """Decides the draws behind the last layer."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        at_least(self, fold=0, seed=0, threads=1)
        fold_needs_splits(self.fold, self.splits)
        if self.last_layer_images == "train" and self.last_layer is None:
            raise ValueError(
                "--last_layer_images goes with --last_layer; name `class` or a column."
            )
        if self.other_folds and self.operating_point == "none":
            raise ValueError("--other_folds fits offsets; name an --operating_point for them.")
        if self.other_folds and self.last_layer is not None:
            raise ValueError(
                "--other_folds: their networks lack the new last layer; leave out --last_layer, or "
                "give checkpoints that have one without it."
            )


@dataclass(frozen=True)
class ExportSettings:
    """Write a checkpoint as a file to share, compared with it before it is kept."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt), or resnet18 or se_resnet18 for the weights that
    come with tumorlens."""
    format: Literal["onnx", "safetensors"] = "onnx"
    """`onnx` runs without PyTorch; `safetensors` is a checkpoint in half precision, for every
    command, that does not name its data folder."""
    int8: bool = False
    """Compute in 8 bits: a quarter of the size. Refused where macro F1 or any class's recall on
    validation images falls by more than half a point."""
    out: Path | None = None
    """File to write; default: beside the checkpoint, best_model.onnx, best_model.int8.onnx or
    best_model.safetensors."""
    data_dir: Path | None = None
    """Folder of the images to check on; default: the one remembered from training."""
    splits: Path | None = None
    """CSV (or `public-patients`) that says which image is in which split, instead of the
    checkpoint."""
    fold: int | None = None
    """Fold that is the test split, with a --splits file of folds."""
    calibration_images: int = 256
    """Training images that the ranges of the 8 bits are measured on."""
    threads: int | None = None
    """CPU threads of the comparisons; default: all cores."""

    def __post_init__(self) -> None:
        at_least(self, calibration_images=8, fold=0, threads=1)
        fold_needs_splits(self.fold, self.splits)
        if self.int8 and self.format != "onnx":
            raise ValueError(f"--int8: is for --format onnx, found --format {self.format}.")


@dataclass(frozen=True)
class ReportSettings:
    """Put a run on one page: data, scores, images, checklist; and a model card."""

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
class ServeSettings:
    """Serve a web page: drop a slice, see classes, decision and saliency maps."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt), or resnet18 or se_resnet18 for the weights that
    come with tumorlens."""
    compare: Path | None = None
    """Second checkpoint, shown beside the first (--checkpoint2 is the same flag)."""
    layer: str | None = None
    """Module whose output is explained; default: as for gradcam."""
    method: MapMethod = MAP_METHOD
    """How features and gradient become a saliency map."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone."""
    port: int = 7860
    """Port to listen on; 0 for any that is free."""
    root_path: str = "/"
    """Path under which a proxy shows the page, such as /tumorlens."""
    allowed_host: tuple[str, ...] = ()
    """Further names that browsers may reach the page by, such as that of a proxy. Without it: of
    this machine, and with another --host any name."""
    coverage: float = COVERAGE
    """Share of the images of every class whose set of classes has the true one."""
    max_mb: float = 32.0
    """Largest upload, megabytes."""
    max_megapixels: float = 32.0
    """Most pixels of an upload, all its slices together, millions."""
    device: Device = "auto"
    """Where to compute."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def __post_init__(self) -> None:
        at_least(self, port=0, threads=1, max_mb=0.01, max_megapixels=0.01)
        check_coverage(self.coverage)
        if self.port > 65535:
            raise ValueError(f"--port {self.port}: expected 65535 or less.")
        if not re.fullmatch(r"(/[\w.~-]+)*/?", self.root_path, re.ASCII):
            raise ValueError(
                f"--root_path {self.root_path}: expected the path alone, such as /tumorlens."
            )
        for name in self.allowed_host:
            if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+", name, re.ASCII):
                raise ValueError(
                    f"--allowed_host {name}: expected a name such as page.example.org, without "
                    "https:// and port."
                )

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the server."""
        return self.host in _LOOPBACK

    @property
    def host_names(self) -> frozenset[str] | None:
        """Lower-case names that the page may be asked for by; None: any."""
        if not self.is_local and not self.allowed_host:
            return None
        return frozenset({*_LOOPBACK, *(name.lower() for name in self.allowed_host)})
