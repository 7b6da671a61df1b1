"""Recipes are small TOML files: the built-in ones in `tumorlens/recipes`, and the user's own.

A key is named by its table and its name, as `optimizer.weight_decay`. The table `run` of a run
folder's recipe.toml has the flags beside the recipe, so that the file alone repeats the run.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumorlens.errors import TumorlensError

FOLDER = Path(__file__).parents[1] / "recipes"
BUILT_IN = ("fast", "plain", "robust", "paper")
# Key of a file to the field of `training.recipes.Recipe`, its kind, and its range or its words.
KEYS: dict[str, tuple[str, type, tuple[Any, ...]]] = {
    "image_size": ("image_size", int, (32, 4096)),
    "epochs": ("epochs", int, (1, 100_000)),
    "batch_size": ("batch_size", int, (2, 100_000)),
    "schedule": ("schedule", str, ("one_cycle", "cosine", "constant")),
    "patience": ("patience", int, (1, 100_000)),
    "class_weights": ("class_weights", str, ("none", "balanced")),
    "optimizer.name": ("optimizer", str, ("adam", "sgd")),
    "optimizer.lr": ("lr", float, (1e-9, 10)),
    "optimizer.weight_decay": ("weight_decay", float, (0, 1)),
    "loss.label_smoothing": ("label_smoothing", float, (0, 0.99)),
    "average.decay": ("averaging", float, (0, 0.99999)),
    "preprocessing.crop_head": ("crop_head", bool, ()),
    "preprocessing.standardise": ("standardise", bool, ()),
    "augmentation.flip": ("augmentation.flip", bool, ()),
    "augmentation.rotation": ("augmentation.rotation", float, (0, 180)),
    "augmentation.scale": ("augmentation.scale", float, (0, 0.9)),
    "augmentation.shift": ("augmentation.shift", float, (0, 1)),
    "augmentation.brightness": ("augmentation.brightness", float, (0, 1)),
    "augmentation.contrast": ("augmentation.contrast", float, (0, 1)),
    "augmentation.gamma": ("augmentation.gamma", float, (0, 2)),
    "augmentation.curves": ("augmentation.curves", float, (0, 1)),
    "augmentation.bias_field": ("augmentation.bias_field", float, (0, 2)),
    "augmentation.resolution": ("augmentation.resolution", float, (0, 1)),
    "augmentation.noise": ("augmentation.noise", float, (0, 1)),
}
NEEDED = ("image_size", "epochs", "batch_size", "schedule", "patience", "optimizer.lr")


def read_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A built-in recipe or a file: key to value; and its table `run`, flag to value.

    Raises:
        TumorlensError: no such recipe or file, no TOML, a key or value that is not understood, or
            one that is missing.
    """
    source = f"--recipe {name}"
    path = FOLDER / f"{name}.toml" if name in BUILT_IN else Path(name)
    if name not in BUILT_IN and path.suffix != ".toml":
        raise TumorlensError(f"{source}: expected {', '.join(BUILT_IN)}, or a .toml file.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TumorlensError(f"{source}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # no TOML, no UTF-8
        raise TumorlensError(f"{source}: is no TOML ({error}).") from error
    run = content.pop("run", {})
    if not isinstance(run, dict):
        raise TumorlensError(f"{source}: has run = {run!r:.40}; expected a table [run].")
    flat: dict[str, Any] = {}
    for key, value in content.items():
        tables = value.items() if isinstance(value, dict) else ()
        flat |= {f"{key}.{inner}": one for inner, one in tables} or {key: value}
    found = {key: _checked(source, key, value) for key, value in flat.items()}
    missing = [key for key in NEEDED if key not in found]
    if missing:
        raise TumorlensError(
            f"{source}: has no {', '.join(missing)}; copy a built-in recipe or a run folder's "
            "recipe.toml and change it."
        )
    return found, run


def read_changes(words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words of --set: key to value.

    Raises:
        TumorlensError: not of that form, or a key or value that is not understood.
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise TumorlensError(
                f"--set {word}: expected KEY=VALUE, such as optimizer.weight_decay=1e-3."
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a word without quotation marks
        found[key.strip()] = _checked("--set", key.strip(), value)
    return found


def write_recipe(values: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Keys and values, and the table `run`, as TOML."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        tables.setdefault(table, {})[name] = value
    tables["run"] = {name: value for name, value in run.items() if value is not None}
    blocks = []
    for table, entries in tables.items():
        lines = [f"{name} = {json.dumps(value)}" for name, value in entries.items()]
        blocks.append("\n".join([f"[{table}]", *lines] if table else lines))
    return "\n\n".join(blocks) + "\n"


def _checked(source: str, key: str, value: Any) -> Any:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(KEYS)}."
        raise TumorlensError(f"{source}: there is no key {key}{hint}")
    _, kind, allowed = KEYS[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = type(value) is kind
    if fits and kind is str:
        fits = value in allowed
    elif fits and allowed:
        fits = allowed[0] <= value <= allowed[1]
    if not fits:
        expected = (
            f"one of {', '.join(allowed)}"
            if kind is str
            else "true or false"
            if kind is bool
            else f"{'a whole number' if kind is int else 'a number'} from {allowed[0]:g} to "
            f"{allowed[1]:g}"
        )
        raise TumorlensError(f"{source}: {key} is {value!r:.40}, expected {expected}.")
    return value
