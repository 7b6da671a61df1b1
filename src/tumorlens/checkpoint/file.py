"""The one reader and writer of `best_model.pt`.

A checkpoint is one file of tensors and primitives that loads with `weights_only=True` and describes
itself: network, classes, preprocessing, where the data was and how it was split, fingerprints of
every training image. Nothing in it shows an image. A name that ends in .safetensors is a
checkpoint in half precision; a network's bare name is the one that comes with tumorlens.
"""

import hashlib
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tumorlens import __version__
from tumorlens.checkpoint import half_precision
from tumorlens.checkpoint.own_code import refuse_unknown
from tumorlens.data.patients import FileTable
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.files import SCHEMA, read_json, replacing, standard_keys, write_json
from tumorlens.labels import MODEL_NAMES
from tumorlens.models.build import build_shell, last_linear
from tumorlens.uncertainty.conformal import Conformal
from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

FORMAT = "tumorlens-checkpoint"
LARGEST = 4096  # image side, pixels
# Entries that are stored as they are; checkpoints of before there was one may lack it.
_OF_CALIBRATION = (
    *("temperature", "uncertainty_threshold", "feature_covariance"),
    *("class_means", "ood_threshold", "calibration", "offsets", "conformal"),
)
# Weights that come with tumorlens, NAME.safetensors for a network's name.
BUNDLED = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class DataRecord:
    """Where the images were and which was used for what."""

    data_dir: str | None  # the folder as given at training, made absolute; None: not told
    layout: str  # as in `data.folder.DataFolder`
    protocol: str  # in words, how the validation images were chosen
    # train, valid, test: paths relative to `data_dir`
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    skipped: dict[str, str]  # path to the reason it was left out
    # (len(train), 32) uint8, perceptual, of each training image
    fingerprints: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]  # (len(train), 16) uint8, BLAKE2b of each training file's bytes
    patients: FileTable | None = None  # whom the images of all three show, by path; None: not told
    overlap: str = ""  # a sentence where patients were in more than one of the three; else ""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and all that is needed to use it."""

    model_name: str  # one of `labels.MODELS`, or that of the user's own code, see `models.build`
    classes: tuple[str, ...]  # name of each logit
    preprocessing: Preprocessing  # from image to input
    weights: Mapping[str, Tensor]  # the network's state dict
    data: DataRecord | None  # where the images were; None in a checkpoint made to be handed on
    settings: dict[str, Any]  # the run's settings and recipe, primitives
    # epoch (1-based) of these weights, and its validation metrics where there are any
    selected: dict[str, Any]
    # divides the logits for calibrated probabilities; None: not fitted
    temperature: float | None = None
    # below this top probability the answer is "uncertain"; None: not set
    uncertainty_threshold: float | None = None
    # (D, D), of the training features around their class means, shrunk; None: not kept
    feature_covariance: Tensor | None = None
    # (K, D) mean of each class's training features; None: not kept
    class_means: Tensor | None = None
    # an image whose features are farther from the training data, see
    # `out_of_distribution.FeatureSpace`, is unlike it; None: not set
    ood_threshold: float | None = None
    # how these were found and what they do on validation images, primitives
    calibration: dict[str, Any] = field(default_factory=dict)
    # (K,) added to the calibrated log-probabilities, nats, by `network`; None: none
    offsets: Sequence[float] | None = None
    # `vars` of a `uncertainty.conformal.Conformal`; None: not kept
    conformal: dict[str, Any] | None = None
    path: Path | None = None  # the file it was read from

    def network(self) -> nn.Module:
        """With its trained weights and, in its last bias, the offsets; evaluation mode, CPU."""
        network = build_shell(self.model_name, len(self.classes))
        copies = {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in self.weights.items()
        }
        network.load_state_dict(copies, assign=True)
        if self.offsets is not None and (head := last_linear(network)) is not None:
            shift = torch.tensor(self.offsets) * (self.temperature or 1.0)
            head.bias = nn.Parameter(shift if head.bias is None else head.bias + shift)
        return network.float().eval()

    def space(self) -> FeatureSpace | None:
        """Where the training images lie, for the out-of-distribution distance; None: not kept."""
        means, covariance = self.class_means, self.feature_covariance
        if means is None or covariance is None or self.ood_threshold is None:
            return None
        return FeatureSpace(means.double().numpy(), covariance.double().numpy(), self.ood_threshold)

    def decision(self) -> DecisionRule:
        """What the checkpoint knows about taking its network's numbers."""
        scores = None if self.conformal is None else Conformal.of(self.conformal)
        return DecisionRule(
            self.classes, self.temperature, self.uncertainty_threshold, self.space(), scores
        )

    @property
    def trained_on_valid(self) -> bool:
        """Whether its validation images trained too, so that nothing can be told by them."""
        return bool(self.settings.get("train_on_valid"))

    @property
    def data_dir(self) -> Path | None:
        """The data folder remembered from training."""
        return Path(self.data.data_dir) if self.data and self.data.data_dir else None


def with_weights(template: Checkpoint, network: nn.Module, selected: dict[str, Any]) -> Checkpoint:
    """`template` with a copy of the network's weights; `selected` as in `Checkpoint`."""
    weights = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    return replace(template, weights=weights, selected=selected)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` to `path` and, for eyes, a JSON beside it; each in one step.

    A `path` that ends in .safetensors gets half precision, and no JSON: its header is one.

    Raises:
        TumorlensError: the disk is full; or a weight is too large for half precision.
    """
    data = checkpoint.data
    content = {
        "format": FORMAT,
        "schema": SCHEMA,
        "tumorlens": __version__,
        "model_name": checkpoint.model_name,
        "classes": list(checkpoint.classes),
        "preprocessing": asdict(checkpoint.preprocessing),
        "weights": {key: value.detach().cpu() for key, value in checkpoint.weights.items()},
        "data": _data_content(data) if data else None,
        "settings": checkpoint.settings,
        "selected": checkpoint.selected,
        **{name: getattr(checkpoint, name) for name in _OF_CALIBRATION},
    }
    light = path.suffix == half_precision.SUFFIX
    with replacing(path) as beside:
        try:
            if light:
                half_precision.write(content, beside)
            else:
                torch.save(content, beside)
        except (RuntimeError, SafetensorError) as error:  # what the two make of a full disk
            flag = "--out" if light else "--out_dir"
            raise TumorlensError(
                f"{path}: cannot be written ({str(error).splitlines()[0]}); free some room, or "
                f"name another {flag}."
            ) from error
    if light:
        return
    long = ("weights", "feature_covariance", "class_means", "conformal")
    for_eyes = {key: value for key, value in content.items() if key not in long}
    if data:
        shown = ("data_dir", "layout", "protocol", "overlap", "skipped")
        for_eyes["data"] = {name: getattr(data, name) for name in shown} | {
            "patients": data.patients.source if data.patients else None,
            "images": {split: len(getattr(data, split)) for split in ("train", "valid", "test")},
        }
    write_json(path.with_suffix(".json"), for_eyes)


def _data_content(data: DataRecord) -> dict[str, Any]:
    return {
        **vars(data),
        "train": list(data.train),
        "valid": list(data.valid),
        "test": list(data.test),
        "skipped": dict(data.skipped),
        "fingerprints": torch.from_numpy(np.ascontiguousarray(data.fingerprints)),
        "digests": torch.from_numpy(np.array(data.digests)),
        "patients": _patients_content(data),
    }


def _patients_content(data: DataRecord) -> dict[str, Any] | None:
    """The columns of the patients table, in the order of `train`, `valid` and `test`."""
    if data.patients is None:
        return None
    source, known, columns = data.patients.source, data.patients.rows, data.patients.columns
    rows = [known.get(path, {}) for path in (*data.train, *data.valid, *data.test)]
    columns_of = {name: [row.get(name, "") for row in rows] for name in columns}
    return {"source": source, "columns": columns_of}


def _patients_of(data: Mapping[str, Any]) -> FileTable | None:
    stored = data.get("patients")  # checkpoints written before there were patients have none
    if stored is None:
        return None
    names = tuple(map(str, stored["columns"]))
    values = zip(*stored["columns"].values(), strict=True)
    rows = [dict(zip(names, row, strict=True)) for row in values]
    paths = [*data["train"], *data["valid"], *data["test"]]
    return FileTable(str(stored["source"]), dict(zip(paths, rows, strict=True)), names)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that `save` wrote.

    Args:
        path: the file, or the bare name of a network, such as "se_resnet18", for the weights that
            come with tumorlens.

    Raises:
        TumorlensError: missing, truncated, foreign, or of a newer tumorlens.
    """
    path = _file(path)
    content = _content(path)
    try:
        data = content["data"]
        record = None
        if data is not None:
            record = DataRecord(
                **data
                | {split: tuple(data[split]) for split in ("train", "valid", "test")}
                | {name: data[name].numpy() for name in ("fingerprints", "digests")}
                | {"patients": _patients_of(data)}
            )
        calibration: dict[str, Any] = {name: content.get(name) for name in _OF_CALIBRATION}
        checkpoint = Checkpoint(
            model_name=str(content["model_name"]),
            classes=tuple(content["classes"]),
            preprocessing=Preprocessing(**content["preprocessing"]),
            weights=content["weights"],
            data=record,
            settings=dict(content["settings"]),
            selected=dict(content["selected"]),
            **calibration | {"calibration": dict(calibration["calibration"] or {})},
        )
        _check(checkpoint)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TumorlensError(
            f"--checkpoint {path}: a tumorlens checkpoint with a damaged entry "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); train again or restore it."
        ) from error
    return replace(checkpoint, path=path)


def _check(checkpoint: Checkpoint) -> None:
    """Raise ValueError, TypeError or RuntimeError at the first entry that does not fit the rest."""
    count = len(checkpoint.classes)
    # Names and shapes: one of ours is not built for that.
    refuse_unknown(checkpoint.model_name)
    shell, ours = build_shell(checkpoint.model_name, count), checkpoint.model_name in MODEL_NAMES
    try:
        shell.load_state_dict(dict(checkpoint.weights), assign=True)
    except RuntimeError as error:
        if ours:
            raise
        told = " ".join(str(error).split())
        raise ValueError(f"{checkpoint.model_name} makes another network: {told:.200}") from None
    for name, weight in checkpoint.weights.items():
        if not weight.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    size, std = checkpoint.preprocessing.image_size, checkpoint.preprocessing.std
    if not 1 <= size <= LARGEST or not 0 < std < math.inf:
        raise ValueError(f"image size {size}, std {std}; expected 1 to {LARGEST} pixels, above 0")
    # Before these are copied: a tensor of one number can claim any shape.
    head = last_linear(shell)
    width = head.in_features if head else 0
    found: list[tuple[str, Any, tuple[int, int]]] = [
        ("class_means", checkpoint.class_means, (count, width)),
        ("feature_covariance", checkpoint.feature_covariance, (width, width)),
    ]
    if data := checkpoint.data:
        found.append(("fingerprints", data.fingerprints, (len(data.train), 32)))
        found.append(("digests", data.digests, (len(data.train), 16)))
    for name, value, shape in found:
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} of shape {tuple(value.shape)}; expected {shape}")
    offsets = np.array(checkpoint.offsets or np.zeros(count), dtype=np.float64)
    if offsets.shape != (count,) or not np.isfinite(offsets).all():
        raise ValueError(f"offsets {checkpoint.offsets!r:.80}; expected {count} numbers")
    checkpoint.decision()


def bundled() -> list[str]:
    """The networks whose weights come with tumorlens."""
    return sorted(path.stem for path in BUNDLED.glob(f"*{half_precision.SUFFIX}"))


def _file(path: Path) -> Path:
    if path.is_file() or str(path) not in MODEL_NAMES:
        return path
    file = BUNDLED / f"{path}{half_precision.SUFFIX}"
    if not file.is_file():
        raise TumorlensError(
            f"--checkpoint {path}: this copy of tumorlens has no weights of its own for {path} "
            f"(expected {file.name} in its folder weights); train, and name the file."
        )
    return file


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise TumorlensError(
            f"--checkpoint {path}: found {found}, expected a best_model.pt that train.py wrote, "
            f"or one of {', '.join(bundled())} for the weights that come with tumorlens; train "
            "first, or name another file."
        )
    try:
        path.open("rb").close()  # the readers below would take it for damaged
    except OSError as error:
        what = f"cannot be read ({error.strerror}); check its permissions."
        raise TumorlensError(f"--checkpoint {path}: {what}") from error
    content = half_precision.read(path) if path.suffix == half_precision.SUFFIX else _whole(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _refusal(path, "a PyTorch file, but not one of tumorlens")
    if content.get("schema") not in (1, SCHEMA):
        raise TumorlensError(
            f"--checkpoint {path}: schema {content.get('schema')}, this tumorlens ({__version__}) "
            f"reads schema {SCHEMA}; update tumorlens, or train again."
        )
    current: dict[str, Any] = standard_keys(content)
    return current


def _whole(path: Path) -> Any:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _refusal(path, f"not a PyTorch file, or truncated ({size:,} bytes)") from error
    if unpacked > size:  # PyTorch compresses nothing
        raise _refusal(path, f"a compressed archive of {unpacked:,} bytes")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = "holds pickled objects, which could run code and are not loaded"
        raise _refusal(path, found) from error
    except Exception as error:  # a damaged pickle raises anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise _refusal(path, f"cannot be read as a PyTorch file ({reason})") from error


def _refusal(path: Path, found: str) -> TumorlensError:
    return TumorlensError(
        f"--checkpoint {path}: {found}; expected a best_model.pt that train.py wrote."
    )


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a network that comes with tumorlens, for manifests."""
    with _file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(path: Path) -> dict[str, Any]:
    """The JSON beside a checkpoint, read without torch; empty if there is none."""
    try:
        value = read_json(path.with_suffix(".json"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
