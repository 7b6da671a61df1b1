"""The grey values of one image given the distribution of another's, of another class.

Sources and classes differ in their histograms, which tells a network the class where each class
comes from sources of its own. After matching, the histogram says nothing (after Nyul and Udupa
1999, with an image of another class in place of a standard scale).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tumorlens.data.augment import uniform
from tumorlens.data.preprocessing import FOREGROUND

_QUANTILES = 17


@dataclass(frozen=True, eq=False)
class Described:
    """What is borrowed of each image of a data set, such as its histogram.

    Attributes:
        values: (N, ...) float32, of every image.
        labels: (N,) int64.
        donors: which of them are for training.
    """

    values: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    donors: npt.NDArray[np.int64]


def described(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    donors: npt.NDArray[np.int64],
    describe: Callable[[Tensor], Tensor],
) -> Described:
    """Of (N, S, S) images on their own scales; `describe` takes (n, S, S) float in 0..1."""
    found = [
        describe(torch.from_numpy(images[start : start + 256]).float() / 255)
        for start in range(0, len(images), 256)
    ]
    return Described(torch.cat(found).numpy(), labels, donors)


def histograms(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], donors: npt.NDArray[np.int64]
) -> Described:
    """Quantiles of the foregrounds."""
    return described(images, labels, donors, foreground_quantiles)


def foreground_quantiles(images: Tensor) -> Tensor:
    """(N, S, S) float in 0..1 to (N, 17): what is brighter than air, from darkest to brightest."""
    values = images.flatten(1)
    inside = values > FOREGROUND
    ranked = torch.where(inside, values, torch.inf).sort(dim=1).values
    last = (inside.sum(dim=1) - 1).clamp(min=0)
    places = torch.linspace(0, 1, _QUANTILES, device=images.device) * last[:, None]
    # An image without foreground has no quantiles; its own scale stays.
    straight = torch.linspace(FOREGROUND, 1, _QUANTILES, device=images.device)
    found = ranked.gather(1, places.round().long())
    return torch.where(found.isinf(), straight, found)


def partners_of(
    indices: Tensor, table: Described, probability: float, seed: int, epoch: int
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Which images of a batch are changed, and for each a training image of another class.

    An image is drawn by its index in the data set; one whose class has no other is not changed.
    """
    labels, donors, places = table.labels, table.donors, indices.cpu().numpy()
    drawn = uniform(seed + 3, epoch, places, 2)
    rows = np.flatnonzero(drawn[:, 0] < probability)
    others = {label: donors[labels[donors] != label] for label in np.unique(labels[places[rows]])}
    rows = np.array([r for r in rows if len(others[labels[places[r]]])], dtype=np.int64)
    partners = [
        int(others[labels[places[r]]][int(drawn[r, 1] * len(others[labels[places[r]]]))])
        for r in rows
    ]
    return rows, partners


def matched(
    images: Tensor,
    indices: Tensor,
    table: Described,
    probability: float,
    seed: int,
    epoch: int,
) -> Tensor:
    """Some images with the foreground histogram of a training image of another class.

    Args:
        images: (N, S, S) float, 0..1.
        indices: (N,) int64, each image's index in the data set, by which it is drawn.
        table: of the data set.
        probability: of a match, for each image.
        seed: of the run.
        epoch: 0-based.

    Returns:
        (N, S, S) float, 0..1; an image whose class has no other keeps its histogram.
    """
    rows, partners = partners_of(indices, table, probability, seed, epoch)
    if not len(rows):
        return images
    at = torch.as_tensor(rows, device=images.device)
    some = images[at]
    own = F.pad(foreground_quantiles(some), (1, 1))
    theirs = F.pad(torch.as_tensor(table.values[partners], device=images.device), (1, 1))
    own[:, -1] = theirs[:, -1] = 1
    flat = some.flatten(1)
    above = torch.searchsorted(own.contiguous(), flat.contiguous()).clamp(1, own.shape[1] - 1)
    low, high = own.gather(1, above - 1), own.gather(1, above)
    share = ((flat - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    mapped = torch.lerp(theirs.gather(1, above - 1), theirs.gather(1, above), share)
    return images.index_copy(0, at, mapped.reshape(some.shape))
