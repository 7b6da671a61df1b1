"""One training step of ours, to be timed: augmentation, forward, backward, optimiser, schedule."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import torch

from tumorlens.data.preprocessing import Preprocessing
from tumorlens.models.build import build_model
from tumorlens.training.module import Batch, Classifier
from tumorlens.training.recipes import RECIPES


def batch_of(size: int, batch_size: int) -> Batch:
    """Random (images (N, S, S) uint8, labels (N,), indices (N,))."""
    random = torch.Generator().manual_seed(0)
    return (
        torch.randint(0, 256, (batch_size, size, size), generator=random, dtype=torch.uint8),
        torch.randint(0, 4, (batch_size,), generator=random),
        torch.arange(batch_size),
    )


def training_step(
    network: str, size: int, batch_size: int, precision: str = "32-true"
) -> Callable[[], None]:
    """A call that trains `network` by the recipe `fast` on the same batch, one step at a time.

    Args:
        network: its name.
        size: side of the images, pixels.
        batch_size: images.
        precision: "32-true" or "bf16-mixed", as Lightning does them.
    """
    recipe = replace(RECIPES["fast"], image_size=size, batch_size=batch_size)
    classifier = Classifier(
        build_model(network, 4), Preprocessing(size, 0.2, 0.2), recipe, 10_000, 0
    )
    configured = classifier.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    batch = batch_of(size, batch_size)

    def step() -> None:
        mixed = precision == "bf16-mixed"
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
            loss = classifier.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        scheduler.step()
        classifier.on_train_batch_end(None, batch, 0)

    return step
