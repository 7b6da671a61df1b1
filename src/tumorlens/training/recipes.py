"""How to train: every number that a run's result depends on, in one frozen record."""

import contextlib
from dataclasses import asdict, dataclass, replace
from typing import Any

from tumorlens.data.augment import Augmentation
from tumorlens.device import kept_memory
from tumorlens.settings import RECIPE_DEFAULTS, TrainSettings

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
    histograms: float = 0.0  # share of images given the histogram of one of another class
    standardise: bool = False  # each image by its own scale, see `Preprocessing`

    def record(self) -> dict[str, Any]:
        """As primitives, for a checkpoint."""
        return asdict(self)


# What flags may set otherwise is in the settings, where help reads it.
RECIPES = {
    "plain": Recipe(**RECIPE_DEFAULTS["plain"], augmentation=Augmentation()),
    "fast": Recipe(
        **RECIPE_DEFAULTS["fast"],
        augmentation=Augmentation(rotation=15, scale=0.15, shift=0.08, contrast=0.2, gamma=0.3),
        optimizer="sgd",
        weight_decay=5e-4,
        label_smoothing=0.1,
        averaging=0.99,
    ),
    "robust": Recipe(
        **RECIPE_DEFAULTS["robust"],
        augmentation=Augmentation(
            rotation=15,
            scale=0.25,
            shift=0.1,
            brightness=0.1,
            contrast=0.4,
            gamma=0.6,
            curves=0.6,
            bias_field=0.6,
            resolution=0.5,
            noise=0.12,
        ),
        optimizer="sgd",
        weight_decay=5e-4,
        label_smoothing=0.1,
        averaging=0.99,
        histograms=0.5,
        crop_head=True,
        standardise=True,
    ),
    "paper": Recipe(
        **RECIPE_DEFAULTS["paper"],
        augmentation=Augmentation(scale=0, shift=0, brightness=0, contrast=0),
    ),
}


def resolve(settings: TrainSettings) -> Recipe:
    """The named recipe with every flag that the user gave in its place."""
    given = {name: getattr(settings, name) for name in RECIPE_DEFAULTS[settings.recipe]}
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen |= {name: getattr(settings, name) for name in ("loss", "balance", "balance_exponent")}
    if settings.loss == "group_dro":
        chosen["weight_decay"] = _STRONG_DECAY
    return replace(RECIPES[settings.recipe], **chosen)


def memory_of(recipe: Recipe, processes: int) -> contextlib.AbstractContextManager[None]:
    """What a process does with the memory of its tensors: keeps it, but where they are large.

    There, keeping takes much more than a step needs.
    """
    largest = recipe.batch_size // processes * 64 * (recipe.image_size // 2) ** 2 * 4  # the stem's
    return kept_memory() if largest <= _KEPT_UP_TO else contextlib.nullcontext()
