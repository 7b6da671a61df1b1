"""What Lightning drives: one network, its loss, its optimiser, its validation metrics; its batches.

Which images come when is the same for any number of processes, and for a resumed run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tumorlens.data.augment import augment
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.tumor_transfer import Donors, transfer
from tumorlens.models.build import memory_format
from tumorlens.training.class_bias import drawn
from tumorlens.training.recipes import Recipe

Batch = tuple[Tensor, Tensor, Tensor]


class Classifier(LightningModule):
    """Cross-entropy training of a network on 8-bit grey squares.

    A batch is (images (N, S, S) uint8, labels (N,) int64, indices (N,) int64 into the data set).

    Args:
        network: (N, 3, S, S) to (N, K) logits; what of it is frozen has no gradient.
        classes: K.
        preprocessing: from image to network input.
        recipe: how to train.
        total_steps: optimiser steps of the whole run; the schedules need to know.
        seed: of the augmentation.
        class_weights: (K,) weight of each class in the loss; None: all alike.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        preprocessing: Preprocessing,
        recipe: Recipe,
        total_steps: int,
        seed: int,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=memory_format(network))  # type: ignore[call-overload]
        # Part of the module's state, so that a resumed run goes on with the same mean.
        self.average = (
            AveragedModel(
                self.network,
                multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging),  # type: ignore[no-untyped-call]
                use_buffers=True,
            ).requires_grad_(requires_grad=False)
            if recipe.averaging
            else None
        )
        self.preprocessing = preprocessing
        self.recipe = recipe
        self.total_steps = total_steps
        self.donors: Donors | None = None
        self.loss: nn.Module | None = None  # of `class_bias`; None: cross-entropy
        self.seed = seed
        self.register_buffer("class_weights", class_weights, persistent=False)
        # Sums over images, added up over processes: each validation image counts once.
        self.train_loss = MeanMetric()
        self.valid_loss = MeanMetric()
        self.valid_accuracy = MulticlassAccuracy(classes, average="micro")
        self.valid_macro_f1 = MulticlassF1Score(classes, average="macro")
        self.train()

    def train(self, mode: bool = True) -> "Classifier":
        """As for any module, but batch norms whose weights are frozen stay in evaluation mode."""
        super().train(mode)
        for part in self.network.modules():
            if isinstance(part, _BatchNorm) and part.affine and not part.weight.requires_grad:
                part.eval()
        return self

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and kept: the moving average where the recipe has one."""
        return self.network if self.average is None else self.average.module

    def forward(self, images: Tensor) -> Tensor:
        """(N, S, S) float in 0..1 to (N, K) logits of the network in training."""
        logits: Tensor = self.network(self._inputs(images))
        return logits

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = self.preprocessing.normalise(images)
        return inputs.contiguous(memory_format=memory_format(self.network))

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Images and labels; the indices stay on the CPU, where the augmentation draws by them.

        To fetch them back would wait for all work that the device has still to do.
        """
        moved = super().transfer_batch_to_device(batch[:2], device, dataloader_idx)
        return moved[0], moved[1], batch[2]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 (Lightning's name)
        """The batch's mean loss, weighted by class where asked."""
        images, labels, indices = batch
        images = images.float() / 255
        if self.donors is not None:
            images, labels = transfer(
                images, labels, indices, self.donors, self.seed, self.current_epoch
            )
        images = augment(images, indices, self.recipe.augmentation, self.seed, self.current_epoch)
        logits, smoothing = self(images), self.recipe.label_smoothing
        rest: dict[str, Any] = {"weight": self.class_weights, "label_smoothing": smoothing}
        loss: Tensor = (
            F.cross_entropy(logits, labels, **rest)
            if self.loss is None
            else self.loss(logits, labels, indices, **rest)
        )
        self.train_loss.update(loss.detach(), len(labels))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Take the new weights into the moving average."""
        if self.average is not None:
            self.average.update_parameters(self.network)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Add the batch to the epoch's metrics."""
        images, labels, _ = batch
        logits = self.kept(self._inputs(images.float() / 255)).float()
        self.valid_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.valid_accuracy.update(logits, labels)
        self.valid_macro_f1.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Publish the epoch's metrics under the names that callbacks monitor."""
        for name in ("valid_loss", "valid_accuracy", "valid_macro_f1"):
            metric = getattr(self, name)
            self.log(name, metric.compute(), rank_zero_only=False)
            metric.reset()

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's training loss."""
        self.train_loss.reset()

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, and its schedule stepped after every batch."""
        recipe = self.recipe
        weights = [one for one in self.network.parameters() if one.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: Optimizer = (
            SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
            if recipe.optimizer == "sgd"
            else Adam(groups, lr=recipe.lr)
        )
        schedule = {"scheduler": self._scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _scheduler(self, optimizer: Optimizer) -> LRScheduler:
        if self.recipe.schedule == "one_cycle":
            return OneCycleLR(
                optimizer,
                max_lr=self.recipe.lr,
                total_steps=self.total_steps,
                cycle_momentum=self.recipe.optimizer == "adam",
            )
        if self.recipe.schedule == "cosine":
            return CosineAnnealingLR(optimizer, T_max=self.total_steps)
        return LambdaLR(optimizer, lambda _: 1.0)


class _Images(TorchDataset[Batch]):
    """Whole batches at once from the memory-mapped images."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = np.asarray(indices, dtype=np.int64)
        return (
            torch.from_numpy(np.ascontiguousarray(self.images[chosen])),
            torch.from_numpy(self.labels[chosen]),
            torch.from_numpy(chosen),
        )


class EpochSampler(Sampler[int]):
    """This process's share of a permutation that (seed, epoch) decides.

    The epoch's images are divided into steps of `share * world` images; in each step process `rank`
    takes the `rank`-th run of `share`. One process that accumulates gradients over batches of
    `share` therefore sees the same batches, in the same order, as `world` processes. Images that do
    not fill a last step are left out of that epoch; another epoch leaves out others. With `times`
    an epoch has each image so often on average.
    """

    def __init__(
        self,
        indices: npt.NDArray[np.int64],
        share: int,
        rank: int,
        world: int,
        seed: int,
        times: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.indices = indices
        self.times = times
        self.share = share
        self.rank = rank
        self.world = world
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, 0-based."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.indices) // (self.share * self.world) * self.share

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        mine = self.indices if self.times is None else drawn(self.indices, self.times, rng)
        order = mine[rng.permutation(len(mine))]
        steps = len(order) // (self.share * self.world)
        dealt = order[: steps * self.world * self.share].reshape(steps, self.world, self.share)
        return iter(dealt[:, self.rank].ravel().tolist())


def training_batches(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    share: int,
    seed: int,
    *,
    rank: int = 0,
    world: int = 1,
    times: npt.NDArray[np.float64] | None = None,
) -> DataLoader[Batch]:
    """Shuffled batches of `share` images for process `rank` of `world`.

    Args:
        images: (N, S, S) uint8, all images of the data set.
        labels: (N,) int64.
        indices: which of them are for training.
        share: images in a batch of this process.
        seed: of the order.
        rank, world: this process and how many there are.
        times: how often an epoch has each of `indices`; None: once.
    """
    return _batches(images, labels, EpochSampler(indices, share, rank, world, seed, times), share)


def validation_batches(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    *,
    batch_size: int = 128,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """Every `world`-th of `indices`, from `rank` on: no image twice, none left out."""
    return _batches(images, labels, indices[rank::world].tolist(), batch_size)


def _batches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], order: Any, size: int
) -> DataLoader[Batch]:
    return DataLoader(
        _Images(images, labels), batch_size=size, sampler=order, collate_fn=lambda batch: batch
    )
