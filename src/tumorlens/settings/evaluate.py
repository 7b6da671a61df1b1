"""Settings: scoring, explaining and comparing networks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tumorlens.settings.shared import (
    COVERAGE,
    MAP_METHOD,
    REQUIRED,
    Device,
    MapMethod,
    ModelName,
    Protocol,
    at_least,
    check_coverage,
    fold_needs_splits,
)


@dataclass(frozen=True)
class EvaluateSettings:
    """Score a checkpoint class by class, with and without near-duplicates of training images."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt), or resnet18 or se_resnet18 for the weights that
    come with tumorlens."""
    data_dir: Path | None = None
    """Folder to score; default: the one remembered from training."""
    split: Literal["auto", "train", "valid", "test"] = "auto"
    """Part to score; `auto`: test where there is one, else valid."""
    splits: Path | None = None
    """CSV (or `public-patients`) that says which image is in which split, instead of the
    checkpoint."""
    fold: int | None = None
    """Fold that is the test split, with a --splits file of folds."""
    patients: Path | None = None
    """CSV with columns `path, patient` (and, where known, `site`), or `public`, the built-in table
    of the public set: intervals resample patients. Default: what the checkpoint remembers."""
    allow_patient_overlap: bool = False
    """Score images of patients who were in training; every output then says so."""
    groups: Path | None = None
    """CSV with columns `path, group`: intervals resample groups instead of images."""
    subgroups: Path | None = None
    """CSV with `path` and columns that divide the images, such as site or scanner: each class is
    scored in each subgroup. Numbers are cut into thirds; boxes (box_x0 ...) become tumor size."""
    out_dir: Path | None = None
    """Where the files go; default: evaluation/ beside the checkpoint."""
    stress: Literal["none", "quick", "full"] = field(default="none", metadata={"alone": "full"})
    """Also score the images under graded changes of display: brightness, window, noise, zoom, and
    others. `quick`: a tenth of the work. --stress alone: full."""
    coverage: float = COVERAGE
    """Share of the images of every class whose set of classes shall have the true one; metrics.json
    says how many do."""
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
        at_least(self, batch_size=1, resamples=100, seed=0, fold=0, threads=1)
        check_coverage(self.coverage)
        fold_needs_splits(self.fold, self.splits)


@dataclass(frozen=True)
class GradcamSettings:
    """Show where a network looked when it scored a class."""

    checkpoint: Path
    """File that train wrote (model/best_model.pt), or resnet18 or se_resnet18 for the weights that
    come with tumorlens."""
    class_name: str | None = None
    """Explain images of this class; with --images it only sets the target."""
    target: str | None = None
    """Logit to explain: predicted, true, or a class; default: --class, else predicted."""
    images: tuple[Path, ...] = ()
    """Files or folders to explain instead of the data set's."""
    compare: Path | None = None
    """Second checkpoint, shown beside the first on the same images and scale."""
    layer: str | None = None
    """Module whose output is explained; layer4 is the last block's, after the addition. Two joined
    by `*`, as layer3*layer4: the geometric mean of their maps. Default: layer2*layer3; of a network
    of your own, its last convolution."""
    method: MapMethod = MAP_METHOD
    """How features and gradients become a map."""
    map_size: int | None = None
    """Side of the square that the network is shown for its map, pixels; default: the size it was
    trained at. Larger: finer maps."""
    boxes: Path | None = None
    """CSV with columns path, box_x0, box_y0, box_x1, box_y1 (fractions), or a folder of masks:
    measure on all boxed images of the split whether the maps lie on the tumors."""
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
        at_least(self, count=1, batch_size=1, seed=0, threads=1)
        at_least(self, map_size=32, sample=2, resamples=100)
        measures = ("boxes", "faithfulness", "sanity", "agree")
        given = [name for name in measures if getattr(self, name)]
        if self.images and given:
            raise ValueError(
                f"--images and --{given[0]}: measures are taken on the data set's images; leave "
                "one of the two out."
            )


@dataclass(frozen=True)
class CompareSettings:
    """Compare two networks on the same images: every figure's difference, and is it chance?"""

    a: Path | None = field(default=None, metadata=REQUIRED)
    """The first: a checkpoint, a predictions.csv, a folder that evaluate wrote, or a study folder.
    """
    b: Path | None = None
    """The second; differences are of the second minus the first. A study folder of two networks
    needs none."""
    protocol: Protocol | None = None
    """Of a study folder: which runs; default: the protocol that it has."""
    model: ModelName | None = None
    """Of study folders: the runs of this network alone, so that two studies of both networks, such
    as of two recipes, are compared network by network."""
    patients: Path | None = None
    """CSV with columns `path, patient`, or `public`: intervals resample patients. Default: what the
    predictions or checkpoints know."""
    groups: Path | None = None
    """CSV with columns `path, group`: intervals resample groups whole."""
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
        at_least(self, batch_size=1, resamples=100, seed=0, threads=1)
        if self.a is None:
            raise ValueError(
                "two things to compare must be given, for example A/best_model.pt B/best_model.pt, "
                "or one study folder."
            )
