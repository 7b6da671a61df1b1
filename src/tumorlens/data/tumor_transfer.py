"""Tumors of some images put into images without one, so that the source tells no class.

In the public set the images without a tumor come from other sources than those with one. A network
can tell them by that alone. Here a share of them gets another image's tumor and its label; another
share gets a piece of healthy tissue of the same outline and keeps its label, so that the seam says
nothing (after Dwibedi et al. 2017, "Cut, paste and learn", and Ghiasi et al. 2021).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tumorlens.data.augment import uniform

_EDGE = 2  # pixels of 96 that the outline is widened by, and the width of its soft edge
_LEAST_INSIDE = 0.15  # of the grey range: where a tumor is put there must be tissue


@dataclass(frozen=True)
class Donors:
    """Training images whose tumor is outlined, and those without a tumor.

    Attributes:
        images: (M, S, S) uint8.
        masks: (M, S, S) uint8, 1 inside the tumor.
        labels: (M,) int64.
        healthy: (H, S, S) uint8.
        no_tumor: the label of images without a tumor.
        share: of those that get a tumor.
        sham_share: of those that get healthy tissue.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    healthy: npt.NDArray[np.uint8]
    no_tumor: int
    share: float = 0.45
    sham_share: float = 0.3


def transfer(
    images: Tensor, labels: Tensor, indices: Tensor, donors: Donors, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Some images without a tumor, with another's tumor or another's healthy tissue.

    Args:
        images: (N, S, S) float, 0..1.
        labels: (N,) int64.
        indices: (N,) int64, each image's index in the training set, by which it is drawn.
        donors: what is put in.
        seed: of the run.
        epoch: 0-based.

    Returns:
        (N, S, S) and (N,), both new where anything changed.
    """
    drawn = uniform(seed + 2, epoch, indices.cpu().numpy(), 4)
    healthy = (labels == donors.no_tumor).cpu().numpy()
    rows = np.flatnonzero(healthy & (drawn[:, 0] < donors.share + donors.sham_share))
    if not len(rows):
        return images, labels
    chosen = (drawn[rows, 1] * len(donors.images)).astype(np.int64)
    sham = drawn[rows, 0] >= donors.share
    source = donors.images[chosen]
    other = (drawn[rows, 2] * len(donors.healthy)).astype(np.int64)
    source = np.where(sham[:, None, None], donors.healthy[other], source)
    place = torch.as_tensor(rows, device=images.device)
    mixed, there = _put(
        images[place],
        torch.as_tensor(source, device=images.device).float() / 255,
        torch.as_tensor(donors.masks[chosen], device=images.device).float(),
    )
    given = torch.as_tensor(donors.labels[chosen], device=labels.device)
    changed = there.to(labels.device) & torch.as_tensor(~sham, device=labels.device)
    new = labels.clone()
    new[place] = torch.where(changed, given, labels[place])
    return images.index_copy(0, place, mixed), new


def _put(targets: Tensor, sources: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(n, S, S) each: a source's masked piece in the target, as bright as its surroundings."""
    wide = _widened(masks, _EDGE)
    ring = _widened(wide, _EDGE) - wide
    count = ring.sum(dim=(1, 2)).clamp(min=1)
    around = (targets * ring).sum(dim=(1, 2)) / count
    factor = (around / ((sources * ring).sum(dim=(1, 2)) / count).clamp(min=0.02)).clamp(0.5, 2)
    piece = (sources * factor[:, None, None]).clamp(max=1)
    soft = F.avg_pool2d(wide[:, None], 2 * _EDGE + 1, stride=1, padding=_EDGE)[:, 0]
    inside = (targets * wide).sum(dim=(1, 2)) / wide.sum(dim=(1, 2)).clamp(min=1)
    there = (inside > _LEAST_INSIDE) & (around > _LEAST_INSIDE) & (masks.sum(dim=(1, 2)) > 0)
    weight = soft * there[:, None, None]
    return targets * (1 - weight) + piece * weight, there


def _widened(masks: Tensor, pixels: int) -> Tensor:
    return F.max_pool2d(masks[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0]
