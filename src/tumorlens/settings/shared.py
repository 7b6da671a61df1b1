"""What the settings of several commands share."""

import ast
import inspect
import math
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NewType

from tumorlens.labels import MODEL_NAMES, is_foreign

Device = Literal["auto", "cpu", "cuda", "mps"]
# One of `labels.MODELS`, or the user's own code; in Python a torch.nn.Module or what makes one.
ModelName = NewType("ModelName", str)
OperatingPointName = Literal["none", "accuracy", "balanced_accuracy", "worst_class"]
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
Protocol = Literal["official", "patients", "folds"]
MapMethod = Literal["gradcam", "gradcam++", "layercam", "hirescam"]
METHOD_NAMES: dict[MapMethod, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
}
# How maps of our networks are made unless asked otherwise (docs/explanation/saliency.md).
MAP_LAYER = "layer2*layer3"
MAP_METHOD: MapMethod = "gradcam"
COVERAGE = 0.95  # of sets of classes, where none is asked for

# Fields whose flag has another name: `class` and `from` are words of Python's own.
FLAGS = {"class_name": "class", "from_dir": "from"}
# Metadata of a field that has a default in Python and must be given all the same.
REQUIRED = {"required": True}
# Of a field that takes more in Python than words can name: the annotation of its parameter.
IN_PYTHON = "in_python"
# Under which heading help lists a flag, whatever the command; the rest comes under "other". A batch
# of training is a setting of training, any other one of hardware.
GROUPS = {
    "data": (
        *("data_dir", "splits", "fold", "folds", "protocol", "split", "images", "class_name"),
        *("boxes", "outlines", "patients", "groups", "subgroups", "allow_patient_overlap"),
        *("on_bad_image", "axis", "slice", "from_dir"),
    ),
    "training": (
        *("recipe", "set", "epochs", "image_size", "lr", "schedule", "patience", "monitor"),
        *("class_weights", "balance", "balance_exponent", "loss", "operating_point"),
        "other_folds",
        *("train_on_valid", "resume", "batch_size", "init", "freeze"),
    ),
    "hardware": (
        *("device", "threads", "devices", "num_nodes", "precision", "batch_size", "cluster"),
        "jobs",
    ),
    "output": (
        *("out", "out_dir", "runs_dir", "audit_dir", "csv", "json", "heatmaps", "save_maps"),
        *("format", "int8", "logger"),
    ),
}


# Beyond these PyTorch and NumPy do not go.
_MOST = {"seed": 2**32, "threads": 2**15, "batch_size": 2**31, "image_size": 2**15}


def at_least(settings: object, **bounds: float) -> None:
    """Refuse a field below its bound, or a number that computers do not count; None never is."""
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ValueError(f"--{name} {value}: expected {bound} or more.")
        if value is not None and value >= _MOST.get(name, math.inf):
            raise ValueError(f"--{name} {value}: expected less than {_MOST[name]}.")


def check_coverage(coverage: float | None) -> None:
    """Refuse a share of images that is none."""
    if coverage is not None and not 0 < coverage < 1:
        raise ValueError(f"--coverage {coverage}: expected more than 0 and less than 1.")


def check_models(flag: str, models: Iterable[ModelName]) -> None:
    """Refuse a name that is neither one of our networks nor that of somebody's code."""
    for model in models:
        if model not in MODEL_NAMES and not is_foreign(model):
            raise ValueError(
                f"--{flag} {model}: no such network; expected {', '.join(MODEL_NAMES)}, or one of "
                "your own as package.module:factory or file.py:factory."
            )


def fold_needs_splits(fold: int | None, splits: Path | None) -> None:
    """Refuse a fold without the file that has it."""
    if fold is not None and splits is None:
        raise ValueError("--fold needs --splits, the CSV that has the folds.")


def is_required(item: Field[Any]) -> bool:
    """Whether a field must be given."""
    return item.default is MISSING or bool(item.metadata.get("required"))


def primitives(settings: object) -> dict[str, Any]:
    """A settings object as JSON primitives, paths as text."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}  # type: ignore[arg-type]
    return {name: _primitive(value) for name, value in values.items()}


def _primitive(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_primitive(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def docs_of(kind: type) -> dict[str, str]:
    """The docstring under each field of a settings class and its bases, on one line."""
    found: dict[str, str] = {}
    for base in (one for one in reversed(kind.__mro__) if is_dataclass(one)):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for line, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(line.target)] = " ".join(ast.literal_eval(below.value).split())
    return found
