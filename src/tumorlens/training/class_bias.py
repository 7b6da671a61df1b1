"""What training does against class-wise bias: what is drawn how often, and which loss.

Groups are classes, or classes divided by a column of the patients table, such as site.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorlens.data.dataset import Dataset
from tumorlens.errors import TumorlensError
from tumorlens.training.recipes import Recipe

CLASS = "class"
_STEP = 0.01  # of group DRO, how fast the groups' weights move (as Sagawa et al. 2020)
_FOCUS = 2.0  # of the focal loss, gamma (Lin et al. 2017)


def groups_of(data: Dataset, column: str, flag: str) -> npt.NDArray[np.str_]:
    """(N,) class of each image, or class and value of a column of the patients table.

    Args:
        data: N images.
        column: "class", or a column's name.
        flag: that named it.

    Raises:
        TumorlensError: there is no such column.
    """
    names = np.array(data.classes)[data.labels]
    if column == CLASS:
        return names
    there = data.patients.properties() if data.patients else {}
    if column not in there:
        table = f"the table {data.patients.source} has" if data.patients else "without one there is"
        raise TumorlensError(
            f"{flag} {column}: no such column of a patients table; {table} "
            f"{', '.join(there) or 'none'}. Name a table that has it by --patients, or `{CLASS}`."
        )
    values = np.where(there[column] == "", "not known", there[column])
    return np.array([f"{one}, {other}" for one, other in zip(names, values, strict=True)])


def weights_of(recipe: Recipe, data: Dataset) -> Tensor | None:
    """(K,) float32, N / (K n_k) of each class k (King and Zeng 2001); None: classes weigh alike."""
    if recipe.class_weights != "balanced":
        return None
    labels, classes = torch.from_numpy(data.labels[data.indices("train")]), len(data.classes)
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1).float())


def times_of(recipe: Recipe, data: Dataset) -> npt.NDArray[np.float64] | None:
    """(N,) how often an epoch has each training image, 1 on average; None: each once.

    In proportion to (1 / n_g)^exponent for an image of a group of n_g: with 0 as the images are,
    with 1 each group as often as any other (Mahajan et al. 2018, with 0.5, for classes).
    """
    if recipe.balance is None or recipe.loss == "balanced_softmax":
        return None
    groups = groups_of(data, recipe.balance, "--balance")[data.indices("train")]
    _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = (1.0 / counts[member]) ** recipe.balance_exponent
    found: npt.NDArray[np.float64] = weights * len(groups) / weights.sum()
    return found


def drawn(
    indices: npt.NDArray[np.int64], times: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """(N,) of N indices, each `times` times: as often as its whole part, the rest by chance."""
    ends = np.cumsum(times) * len(indices) / times.sum()
    # Systematic sampling: one random start, then steps of 1 (Kish 1965, section 4.1).
    places = np.arange(len(indices)) + rng.uniform()
    return indices[np.minimum(np.searchsorted(ends, places, side="right"), len(indices) - 1)]


class Focal(nn.Module):
    """Cross-entropy times (1 - p)^2, so that sure images count little (Lin et al. 2017, eq. 4)."""

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor, **rest: Any) -> Tensor:  # noqa: ARG002
        """The batch's mean; see `loss_of`."""
        each = F.cross_entropy(logits, labels, reduction="none", **rest)
        sure = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return ((1 - sure) ** _FOCUS * each).mean()


class BalancedSoftmax(nn.Module):
    """Cross-entropy of logits plus tau log of the class's share among the image's like.

    The network then learns what is left when that share is known (balanced softmax: Ren et al.
    2020; logit adjustment: Menon et al. 2021, eq. 10). With a column the share is the class's among
    the training images of the same value, so that the value itself says nothing of the class.

    Args:
        prior: (N, K) log-shares, of every image of the data set.
    """

    def __init__(self, prior: Tensor) -> None:
        super().__init__()
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor, **rest: Any) -> Tensor:
        """The batch's mean; see `loss_of`."""
        prior = self.get_buffer("prior")
        return F.cross_entropy(logits + prior[indices.to(prior.device)], labels, **rest)


class GroupDro(nn.Module):
    """The groups' mean losses, weighted by weights that grow where the loss is high.

    (Sagawa et al. 2020, "Distributionally robust neural networks", algorithm 1.) The weights are
    part of the module's state, so that a resumed run goes on with them.

    Args:
        members: (N,) int64 group of every image of the data set.
    """

    def __init__(self, members: Tensor) -> None:
        super().__init__()
        self.register_buffer("members", members, persistent=False)
        count = int(members.max()) + 1
        self.register_buffer("weights", torch.full((count,), 1 / count))

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor, **rest: Any) -> Tensor:
        """The batch's weighted loss; see `loss_of`. Groups that are not in the batch stay."""
        members, weights = self.get_buffer("members"), self.get_buffer("weights")
        mine = members[indices.to(members.device)]
        each = F.cross_entropy(logits, labels, reduction="none", **rest)
        counts = torch.bincount(mine, minlength=len(weights))
        sums = torch.zeros_like(weights).index_add(0, mine, each.to(weights.dtype))
        means = sums / counts.clamp(min=1)
        if self.training:
            moved = weights * torch.exp(_STEP * means.detach())
            weights.copy_(moved / moved.sum())
        return (weights * means).sum()


def loss_of(recipe: Recipe, data: Dataset) -> nn.Module | None:
    """The recipe's loss; None: cross-entropy.

    It is called with logits (B, K), labels (B,) and indices (B,) into the data set, and further
    arguments of `torch.nn.functional.cross_entropy`.
    """
    if recipe.loss == "focal":
        return Focal()
    column = recipe.balance or CLASS
    if recipe.loss == "group_dro":
        _, members = np.unique(groups_of(data, column, "--balance"), return_inverse=True)
        return GroupDro(torch.from_numpy(members.astype(np.int64)))
    if recipe.loss != "balanced_softmax":
        return None
    _, like, counts = _counts_by(data, column)
    shares = (counts + 1) / (counts + 1).sum(axis=1, keepdims=True)  # 0 has no logarithm
    prior = recipe.balance_exponent * np.log(shares)
    return BalancedSoftmax(torch.from_numpy(prior[like]).float())


def check_groups(recipe: Recipe, data: Dataset) -> None:
    """Refuse what cannot be balanced.

    Raises:
        TumorlensError: no such column; for balanced softmax, a value that one class alone has: the
            share alone would explain those images, and the network would learn nothing of them.
    """
    if recipe.balance is None:
        return
    groups_of(data, recipe.balance, "--balance")
    if recipe.loss != "balanced_softmax":
        return
    values, _, counts = _counts_by(data, recipe.balance)
    for value, those in zip(values, counts, strict=True):
        if np.count_nonzero(those) == 1:
            raise TumorlensError(
                f"--loss balanced_softmax --balance {recipe.balance}: of the training images with "
                f"{recipe.balance} {value or 'not known'} all are {data.classes[those.argmax()]}, "
                "so that this loss would learn nothing of them; take --balance class."
            )


def _counts_by(
    data: Dataset, column: str
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Values of a column, the one that each image has, (V, K) training images of each by class."""
    train, values = data.splits == "train", np.array([""] * len(data.labels))
    if column != CLASS:
        assert data.patients is not None  # see `groups_of`
        values = data.patients.columns[column]
    names, like = np.unique(values, return_inverse=True)
    counts = np.zeros((len(names), len(data.classes)), dtype=np.int64)
    np.add.at(counts, (like[train], data.labels[train]), 1)
    return names, like, counts
