"""How to train: every number that a run's result depends on, in one frozen record."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tumorlens.data.augment import Augmentation
from tumorlens.device import kept_memory
from tumorlens.settings import RECIPE_FLAGS, TrainSettings
from tumorlens.settings.recipe_files import BUILT_IN, KEYS, read_changes, read_recipe

# Bytes of a training's largest tensor. At 196 MiB (224 px, batch 64) memory that is kept comes to
# 4.0 instead of 2.3 GB, at 392 MiB to 11 instead of 4.1.
_KEPT_UP_TO = 256 << 20
# Of group DRO, ten times that of `fast`: without it every group is fitted and all weights stay.
_STRONG_DECAY = 5e-3


@dataclass(frozen=True)
class Recipe:
    """Settings of one run."""

    image_size: int  # side of the network's input, pixels
    epochs: int  # passes over the training images
    batch_size: int  # images for each optimiser step, over all processes
    lr: float  # learning rate; the highest one under "one_cycle" and "cosine"
    # "one_cycle" (Smith and Topin 2018; warm-up over the first 30% of steps), "cosine" (from `lr`
    # to 0) or "constant".
    schedule: str
    patience: int  # epochs without a better validation metric before training stops
    augmentation: Augmentation
    optimizer: str = "adam"  # (Kingma and Ba 2015), or "sgd" with Nesterov momentum 0.9
    weight_decay: float = 0.0  # of convolutions and linear layers; not of norms and biases
    label_smoothing: float = 0.0  # share spread over all classes (Szegedy et al. 2016)
    # Decay, each step, of the exponential moving average (EMA) of weights that is validated and
    # kept instead of the last step's (Polyak and Juditsky 1992); 0: no average.
    averaging: float = 0.0
    class_weights: str = "none"  # or "balanced": each class weighs alike in the loss
    crop_head: bool = False  # the head fills the input, see `Preprocessing`
    loss: str = "cross_entropy"  # or one of `class_bias`
    balance: str | None = None  # what divides images into groups, see `class_bias`
    balance_exponent: float = 1.0  # 0: groups as the images are; 1: each as often as any other
    standardise: bool = False  # each image by its own scale, see `Preprocessing`

    def record(self) -> dict[str, Any]:
        """As primitives, for a checkpoint."""
        return asdict(self)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """From the keys of a recipe file, see `settings.recipe_files`."""
    plain: dict[str, Any] = {}
    augmentation: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = KEYS[key][0].rpartition(".")
        (augmentation if table else plain)[name] = value
    return Recipe(augmentation=Augmentation(**augmentation), **plain)


RECIPES = {name: recipe_of(read_recipe(name)[0]) for name in BUILT_IN}


def resolve(settings: TrainSettings) -> Recipe:
    """The recipe, named or of a file, with every --set and flag that the user gave in its place.

    Raises:
        TumorlensError: see `read_recipe`.
    """
    named = RECIPES.get(settings.recipe) or recipe_of(read_recipe(settings.recipe)[0])
    changes = read_changes(settings.set)
    values = keys_of(named) | changes
    given = {name: getattr(settings, name) for name in RECIPE_FLAGS}
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen |= {name: getattr(settings, name) for name in ("loss", "balance", "balance_exponent")}
    if settings.loss == "group_dro" and "optimizer.weight_decay" not in changes:
        chosen["weight_decay"] = _STRONG_DECAY
    return replace(recipe_of(values), **chosen)


def keys_of(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe file with the recipe's value."""
    flat = recipe.record()
    flat |= {f"augmentation.{name}": value for name, value in flat.pop("augmentation").items()}
    return {key: flat[field] for key, (field, _, _) in KEYS.items()}


def memory_of(recipe: Recipe, processes: int) -> contextlib.AbstractContextManager[None]:
    """What a process does with the memory of its tensors: keeps it, but where they are large.

    There, keeping takes much more than a step needs.
    """
    largest = recipe.batch_size // processes * 64 * (recipe.image_size // 2) ** 2 * 4  # the stem's
    return kept_memory() if largest <= _KEPT_UP_TO else contextlib.nullcontext()
