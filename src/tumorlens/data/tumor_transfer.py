"""Tumors of some images put into images without one, so that the source tells no class.

In the public set the images without a tumor come from other sources than those with one. A network
can tell them by that alone. Here a share of them gets another image's tumor and its label; another
share gets a piece of healthy tissue of the same outline and keeps its label, so that the seam says
nothing (after Dwibedi et al. 2017, "Cut, paste and learn", and Ghiasi et al. 2021).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from tumorlens.data.augment import uniform
from tumorlens.data.dataset import Dataset
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import ByPath, read_table

_EDGE = 2  # pixels of 96 that the outline is widened by, and the width of its soft edge
_LEAST_INSIDE = 0.15  # of the grey range: where a tumor is put there must be tissue


@dataclass(frozen=True, eq=False)
class Donors:
    """Training images whose tumor is outlined, and those without a tumor."""

    images: npt.NDArray[np.uint8]  # (M, S, S) uint8
    masks: npt.NDArray[np.uint8]  # (M, S, S) uint8, 1 inside the tumor
    labels: npt.NDArray[np.int64]  # (M,) int64
    healthy: npt.NDArray[np.uint8]  # (H, S, S) uint8
    no_tumor: int  # the label of images without a tumor
    share: float = 0.45  # of those that get a tumor
    sham_share: float = 0.3  # of those that get healthy tissue


def read_outlines(path: Path) -> ByPath[list[tuple[float, float]]]:
    """A table with columns `path, outline`: path to the corners around its tumor, 0..1 each.

    An outline is `x,y x,y ...`, fractions of the file's width and height.

    Raises:
        TumorlensError: no such file or column, or an outline that is none.
    """
    rows, _ = read_table(path, "--outlines", ("path", "outline"))
    found = {}
    for row in rows:
        try:
            corners = [tuple(map(float, point.split(","))) for point in row["outline"].split()]
            found[row["path"]] = [(x, y) for x, y in corners]
        except ValueError:
            corners = []
        if len(corners) < 3 or not all(0 <= value <= 1 for corner in corners for value in corner):
            raise TumorlensError(
                f"--outlines {path}: {row['path']} has the outline {row['outline']!r:.60}; "
                "expected three or more corners as `x,y x,y x,y`, fractions from 0 to 1."
            )
    return ByPath(found)


def donors_of(path: Path, data: Dataset, preprocessing: Preprocessing) -> Donors:
    """Of the training images, those with an outline and those without a tumor.

    Args:
        path: see `read_outlines`.
        data: images of a network's size; its training images alone are taken.
        preprocessing: by which both are framed and scaled, as training shows them.

    Raises:
        TumorlensError: no class is notumor, no training image has an outline, or one that has is
            called notumor.
    """
    outlines, train = read_outlines(path), data.indices("train")
    if "notumor" not in data.classes:
        raise TumorlensError(
            f"--outlines {path}: tumors are put into images of the class notumor; found the "
            f"classes {', '.join(data.classes)}."
        )
    no_tumor = data.classes.index("notumor")
    drawn = np.array([at for at in train if data.paths[at] in outlines], dtype=np.int64)
    if not len(drawn):
        raise TumorlensError(
            f"--outlines {path}: has none of the {len(train):,} training images; expected their "
            f"paths below {data.root}, such as {data.paths[train[0]]}."
        )
    wrong = drawn[data.labels[drawn] == no_tumor]
    if len(wrong):
        raise TumorlensError(
            f"--outlines {path}: has an outline for {data.paths[wrong[0]]}, which is notumor."
        )
    side = data.images.shape[1]
    masks = np.stack([_mask(outlines[data.paths[at]], side) for at in drawn])
    images = torch.from_numpy(data.images[drawn]).float() / 255
    framed = preprocessing.frame(torch.from_numpy(masks).float(), images)
    return Donors(
        preprocessing.prepared(data.images[drawn]),
        (framed > 0.5).byte().numpy(),
        data.labels[drawn],
        preprocessing.prepared(data.images[train[data.labels[train] == no_tumor]]),
        no_tumor,
    )


def _mask(outline: list[tuple[float, float]], side: int) -> npt.NDArray[np.uint8]:
    """(S, S), 1 inside."""
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).polygon([(x * side, y * side) for x, y in outline], fill=1)
    return np.array(image)


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
