"""What the settings of several verbs share."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
ModelName = Literal["resnet18", "se_resnet18"]
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
Protocol = Literal["official", "patients", "folds"]
RecipeName = Literal["fast", "plain", "paper"]
MapMethod = Literal["gradcam", "gradcam++", "layercam", "hirescam"]
# How maps are made unless asked otherwise (docs/method.md, "Explanations").
MAP_LAYER = "layer1*layer2"
MAP_METHOD: MapMethod = "hirescam"


def at_least(settings: object, **bounds: float) -> None:
    """Refuse a field below its bound; None is never refused."""
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ValueError(f"--{name} {value}: expected {bound} or more.")


def fold_needs_splits(fold: int | None, splits: Path | None) -> None:
    """Refuse a fold without the file that has it."""
    if fold is not None and splits is None:
        raise ValueError("--fold needs --splits, the CSV that has the folds.")


def nothing_to_choose_by(train_on_valid: bool, patience: int | None, monitor: str) -> None:
    """Refuse to stop early or choose an epoch by validation images that train."""
    if not train_on_valid:
        return
    for name, given in (("patience", patience is not None), ("monitor", monitor != "macro_f1")):
        if given:
            raise ValueError(
                f"--{name} needs validation images, which --train_on_valid lets train; leave one "
                "of the two out."
            )


def primitives(settings: object) -> dict[str, Any]:
    """A settings object as JSON primitives, paths as text."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}  # type: ignore[arg-type]
    return {name: _primitive(value) for name, value in values.items()}


def _primitive(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_primitive(item) for item in value]
    return str(value) if isinstance(value, Path) else value
