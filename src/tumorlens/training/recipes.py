"""How to train: every number that a run's result depends on, in one frozen record."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from tumorlens.data.augment import Augmentation
from tumorlens.settings import RECIPE_DEFAULTS, TrainSettings


@dataclass(frozen=True)
class Recipe:
    """Settings of one run.

    Attributes:
        image_size: side of the network's input, pixels.
        epochs: passes over the training images.
        batch_size: images for each optimiser step, over all processes.
        lr: learning rate; the highest one under "one_cycle" and "cosine".
        schedule: "one_cycle" (Smith and Topin 2018; warm-up over the first 30% of steps),
            "cosine" (from `lr` to 0) or "constant".
        patience: epochs without a better validation metric before training stops.
        augmentation: how much training images are changed.
        optimizer: "adam" (Kingma and Ba 2015), or "sgd" with Nesterov momentum 0.9.
        weight_decay: of convolutions and linear layers; norms and biases are not decayed.
        label_smoothing: share of a label that is spread over all classes (Szegedy et al. 2016).
        averaging: decay, each step, of the running mean of weights that is validated and kept
            instead of the last step's (Polyak and Juditsky 1992); 0: no mean.
        class_weights: "none", or "balanced": each class weighs alike in the loss.
    """

    image_size: int
    epochs: int
    batch_size: int
    lr: float
    schedule: str
    patience: int
    augmentation: Augmentation
    optimizer: str = "adam"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    averaging: float = 0.0
    class_weights: str = "none"
    crop_head: bool = False
    standardise: bool = False

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
    "standardised": Recipe(
        **RECIPE_DEFAULTS["fast"],
        augmentation=Augmentation(
            rotation=15, scale=0.25, shift=0.1, brightness=0.2, contrast=0.4, gamma=0.6
        ),
        optimizer="sgd",
        weight_decay=5e-4,
        label_smoothing=0.1,
        averaging=0.99,
        standardise=True,
    ),
    "robust": Recipe(
        **RECIPE_DEFAULTS["fast"],
        augmentation=Augmentation(
            rotation=15,
            scale=0.25,
            shift=0.1,
            brightness=0.2,
            contrast=0.4,
            gamma=0.6,
            curves=0.6,
            bias_field=0.6,
            resolution=0.5,
            noise=0.06,
        ),
        optimizer="sgd",
        weight_decay=5e-4,
        label_smoothing=0.1,
        averaging=0.99,
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
    return replace(RECIPES[settings.recipe], **chosen)
