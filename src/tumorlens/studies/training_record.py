"""How a run of a study is trained, told so that two runs can be compared."""

import json
from typing import Any

from tumorlens.config import TrainSettings, primitives
from tumorlens.training.recipes import resolve

# What says where, how fast or which run of the grid, and not how it is trained.
_NOT_TRAINING = ("model", "data_dir", "out_dir", "seed", "fold", "resume", "device", "threads")
# What records and manifests mean that were written before there was such a flag.
_DEFAULTS = {"train_on_valid": False}


def training_record(settings: TrainSettings) -> dict[str, Any]:
    """All that decides how a run is trained but network, seed and fold, by flat names."""
    return recorded(training_flags(settings), resolve(settings).record())


def differing(there: dict[str, Any], asked: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting, by name, there and asked, in which a run is not as asked; None: none is.

    Of settings that neither the run nor a default tells, nothing is said.
    """
    there = _DEFAULTS | there
    for name, value in (_DEFAULTS | asked).items():
        if there.get(name, value) != value:
            return name, there[name], value
    return None


def recorded(flags: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Flags and the recipe that they led to, by flat names: what a run's JSON says of training."""
    values = json.loads(json.dumps(flags | recipe))  # tuples and lists are the same in a file
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    for name, inner in values.items():
        if isinstance(inner, dict):
            flat |= {f"{name}.{key}": value for key, value in inner.items()}
    return flat


def training_flags(settings: TrainSettings) -> dict[str, Any]:
    """The flags that decide how a run is trained, but network, seed and fold."""
    values = {
        name: value for name, value in primitives(settings).items() if name not in _NOT_TRAINING
    }
    # The file's name: its place may differ from machine to machine.
    return values | {"splits": settings.splits.name if settings.splits else None}
