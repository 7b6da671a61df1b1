"""Settings: data folders: making, fetching, checking and splitting them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tumorlens.settings.shared import at_least, fold_needs_splits


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
    """Side of the images, pixels."""
    seed: int = 0
    """Decides every image."""

    def __post_init__(self) -> None:
        at_least(self, train=2, valid=1, test=0, size=64, seed=0)


@dataclass(frozen=True)
class AuditSettings:
    """Find near-duplicates, mirror images, conflicting labels, unreadable files and shortcuts."""

    data_dir: Path
    """Any folder of images; splits and classes are told by its folders."""
    out_dir: Path = Path("audit")
    """Where audit.json, pairs.csv, groups.csv and audit.html go."""
    splits: Path | None = None
    """CSV that says which image is in which split, instead of the folders; or `public-patients`."""
    fold: int | None = None
    """Fold that is the test split, with --splits of folds."""
    patients: Path | None = None
    """CSV with columns `path, patient`, or `public`, the built-in table of the public set: which
    patients are in more than one split. Default: the --splits file's own column, if it has one."""
    fail_on: tuple[Literal["leak", "patients", "conflict", "unreadable"], ...] = ()
    """Exit with status 1 where there are near-duplicates across splits, patients in more than one
    split, near-duplicates with conflicting labels, or files that cannot be decoded."""

    def __post_init__(self) -> None:
        at_least(self, fold=0)
        fold_needs_splits(self.fold, self.splits)


@dataclass(frozen=True)
class SplitSettings:
    """Split a data folder so that images of one image stay together."""

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
    patients: Path | None = None
    """CSV with columns `path, patient`, or `public`, the built-in table of the public set: no
    patient is divided."""
    groups: Path | None = None
    """CSV with columns `path, group`: no group is divided."""
    seed: int = 0
    """Decides among equally good splits."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when a file cannot be decoded; `skip` leaves it out."""

    def __post_init__(self) -> None:
        at_least(self, folds=2, seed=0)
        for name in ("valid", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: expected 0 or more, below 1.")
        if self.valid + self.test >= 1:
            raise ValueError(
                f"--valid {self.valid} --test {self.test}: leave nothing to train on; their sum "
                "must be below 1."
            )


@dataclass(frozen=True)
class DownloadSettings:
    """Fetch a public set, check it, audit it: Brain Tumor MRI from Kaggle, or Cheng's figshare."""

    source: Literal["kaggle", "figshare"] = "kaggle"
    """`kaggle`: the Brain Tumor MRI Dataset, four classes, JPEG. `figshare`: the slices that most
    of it is made of, three classes of tumors, 16-bit PNG, with patients, folds and masks."""
    from_dir: Path | None = None
    """Folder or archive that has the .mat files of the figshare set already; nothing is fetched."""
    out: Path = Path("data")
    """Folder for Training/ and Testing/, or for the class folders of the figshare set (--out_dir is
    the same flag); an interrupted download goes on from there."""
    audit_dir: Path = Path("audit")
    """Where the audit of it goes."""
    version: int = 1
    """Version on Kaggle; version 1 has the 7,023 images that published metrics are about, and the
    only known counts."""

    def __post_init__(self) -> None:
        at_least(self, version=1)
        if self.source != "figshare" and self.from_dir is not None:
            raise ValueError("--from needs --source figshare, the set that it can be given for.")
        if self.source != "kaggle" and self.version != 1:
            raise ValueError(f"--version {self.version}: needs --source kaggle.")
