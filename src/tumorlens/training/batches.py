"""Which images come when: the same order for any number of processes, and for a resumed run."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset


class _Images(TorchDataset[tuple[Tensor, Tensor, Tensor]]):
    """Whole batches at once from the memory-mapped images."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        chosen = np.asarray(indices, dtype=np.int64)
        return (
            torch.from_numpy(np.ascontiguousarray(self.images[chosen])),
            torch.from_numpy(self.labels[chosen]),
            torch.from_numpy(chosen),
        )


class EpochSampler(Sampler[int]):
    """This process's share of a permutation that (seed, epoch) decides.

    The epoch's images are dealt in steps of `share * world` images; in each step process `rank`
    takes the `rank`-th run of `share`. One process that accumulates gradients over batches of
    `share` therefore sees the same batches, in the same order, as `world` processes. Images that do
    not fill a last step are left out of that epoch; another epoch leaves out others.
    """

    def __init__(
        self, indices: npt.NDArray[np.int64], share: int, rank: int, world: int, seed: int
    ) -> None:
        self.indices = indices
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
        shuffled = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.indices))
        order = self.indices[shuffled]
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
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Shuffled batches of `share` images for process `rank` of `world`.

    Args:
        images: (N, S, S) uint8, all images of the data set.
        labels: (N,) int64.
        indices: which of them are for training.
        share: images in a batch of this process.
        seed: of the order.
        rank, world: this process and how many there are.
    """
    return _batches(images, labels, EpochSampler(indices, share, rank, world, seed), share)


def validation_batches(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    *,
    batch_size: int = 128,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Every `world`-th of `indices`, from `rank` on: no image twice, none left out."""
    return _batches(images, labels, indices[rank::world].tolist(), batch_size)


def _batches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], order: Any, size: int
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    return DataLoader(
        _Images(images, labels), batch_size=size, sampler=order, collate_fn=lambda batch: batch
    )
