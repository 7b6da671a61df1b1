"""How well one map fits one tumor. No torch.

All is measured in a frame of the picture's own proportions whose longer side has `SIDE` pixels, so
that a tolerance in pixels means the same in every picture.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorlens.explain.overlay import on_picture

Floats = npt.NDArray[np.float64]

SIDE = 224
# Zhang et al. 2018, "Top-down neural attention by excitation backprop", section 4.1.
TOLERANCE = 15
# Shares of the map's highest value that are tried as the outline's threshold.
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
_LEVELS = 1000


@dataclass(frozen=True)
class Fit:
    """A map against a region.

    Attributes:
        energy: share of the map's sum that lies in the region, 0..1; of an empty map the region's
            share of the area.
        area: the region's share of the picture, 0..1: what `energy` is by chance.
        hit: 1.0 where the map's highest place is in the region or at most `TOLERANCE` pixels away
            (Zhang et al. 2018); an empty map points nowhere: 0.
        hit_by_chance: share of the picture where pointing is a hit.
        precision: average precision of the pixels, scored by the map (as scikit-learn's, on 1,000
            levels); of an empty map `area`.
        overlap: intersection over union with the places of at least t times the highest value, for
            each t of `THRESHOLDS`.
        empty: the map is zero everywhere in the picture.
    """

    energy: float
    area: float
    hit: float
    hit_by_chance: float
    precision: float
    overlap: Floats
    empty: bool


def frame(height: int, width: int) -> tuple[int, int]:
    """Sides of the frame in which a picture of (height, width) is measured."""
    scale = SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def in_frame(relevance: npt.NDArray[np.float32], height: int, width: int, size: int) -> Floats:
    """A map over the network's square input, brought to the frame; see `overlay.on_picture`.

    Args:
        relevance: (h, w) >= 0 over a square of side `size` pixels.
        height, width: of the frame.
        size: see above.
    """
    return on_picture(relevance, height, width, size)


def fit(relevance: Floats, region: Floats) -> Fit:
    """Measure a map against a region.

    Args:
        relevance: (H, W) >= 0, in the frame.
        region: (H, W) 0..1, how much of each pixel is tumor; not empty.
    """
    area = float(region.mean())
    inside = region >= 0.5 if (region >= 0.5).any() else region > 0
    reach = ndimage.distance_transform_edt(~inside) <= TOLERANCE
    highest = float(relevance.max())
    empty = highest <= 0
    if empty:
        return Fit(
            area, area, 0.0, float(reach.mean()), area, np.zeros(len(THRESHOLDS)), empty=True
        )
    level = np.minimum((relevance * (_LEVELS / highest)).astype(np.int64), _LEVELS - 1)
    # Descending: how many pixels, and how many of the tumor's, reach each level.
    selected = np.bincount(level.ravel(), minlength=_LEVELS)[::-1].cumsum()
    tumor = np.bincount(level[inside], minlength=_LEVELS)[::-1].cumsum()
    recall = tumor / inside.sum()
    precision = tumor / np.maximum(selected, 1)
    at = _LEVELS - 1 - np.rint(THRESHOLDS * _LEVELS).astype(np.int64)
    overlap = tumor[at] / (selected[at] + inside.sum() - tumor[at])
    return Fit(
        energy=float((relevance * region).sum() / relevance.sum()),
        area=area,
        hit=float(reach.ravel()[relevance.argmax()]),
        hit_by_chance=float(reach.mean()),
        precision=float((np.diff(recall, prepend=0.0) * precision).sum()),
        overlap=overlap.astype(np.float64),
        empty=False,
    )
