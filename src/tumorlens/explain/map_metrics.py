"""Metrics of one map: how well it fits a tumor, how much lies where no tumor is. No torch.

All is measured in a frame of the image's own proportions whose longer side has `SIDE` pixels, so
that a tolerance in pixels means the same in every image. The head is found in the image itself,
so that the bias in looking needs no annotation.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorlens.data.readers import resize

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SIDE = 224
# Zhang et al. 2018, "Top-down neural attention by excitation backprop", section 4.1.
TOLERANCE = 15
# Shares of the map's highest value that are tried as the outline's threshold.
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
_LEVELS = 1000
# Width of the band along the image's border: a sixteenth of the longer side.
BORDER = SIDE // 16
# Depth of scalp and skull below the head's outline, in parts of the diameter of a disk of the
# head's area: 15 mm of 190.
SKULL = 0.08
# Spread of the centre prior, in parts of the head's height and width.
CENTRE = 0.15


@dataclass(frozen=True, eq=False)
class Fit:
    """A map against a region."""

    # share of the map's sum that lies in the region, 0..1 (Wang et al. 2020, "Score-CAM", section
    # 4.2); of an empty map the region's share of the area.
    energy_pointing_game: float
    box_area_share: float  # the region's share of the image, 0..1: what that is by chance
    # 1.0 where the map's highest place is in the region or at most `TOLERANCE` pixels away (Zhang
    # et al. 2018); an empty map points nowhere: 0.
    pointing_game: float
    pointing_area_share: float  # share of the image where pointing is a hit
    # of the pixels, scored by the map (as scikit-learn's, on 1,000 levels); of an empty map
    # `box_area_share`
    average_precision: float
    # intersection over union with the places of at least t times the highest value, for each t of
    # `THRESHOLDS`
    overlap: Floats


def frame(height: int, width: int) -> tuple[int, int]:
    """Sides of the frame in which an image of (height, width) is measured."""
    scale = SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit(relevance: Floats, region: Floats) -> Fit:
    """Measure a map, (H, W) >= 0 in the frame, against a region, (H, W) 0..1 and not empty."""
    area = float(region.mean())
    inside = region >= 0.5 if (region >= 0.5).any() else region > 0
    reach = ndimage.distance_transform_edt(~inside) <= TOLERANCE
    reached, highest = float(reach.mean()), float(relevance.max())
    if highest <= 0:
        return Fit(area, area, 0.0, reached, area, np.zeros(len(THRESHOLDS)))
    level = np.minimum((relevance * (_LEVELS / highest)).astype(np.int64), _LEVELS - 1)
    # Descending: how many pixels, and how many of the tumor's, reach each level.
    selected = np.bincount(level.ravel(), minlength=_LEVELS)[::-1].cumsum()
    tumor = np.bincount(level[inside], minlength=_LEVELS)[::-1].cumsum()
    recall = tumor / inside.sum()
    precision = tumor / np.maximum(selected, 1)
    at = _LEVELS - 1 - np.rint(THRESHOLDS * _LEVELS).astype(np.int64)
    overlap = tumor[at] / (selected[at] + inside.sum() - tumor[at])
    return Fit(
        energy_pointing_game=float((relevance * region).sum() / relevance.sum()),
        box_area_share=area,
        pointing_game=float(reach.ravel()[relevance.argmax()]),
        pointing_area_share=reached,
        average_precision=float((np.diff(recall, prepend=0.0) * precision).sum()),
        overlap=overlap.astype(np.float64),
    )


@dataclass(frozen=True)
class Attribution:
    """Where a map lies, whatever it should show."""

    # outside_head, border, skull: share of the map's sum there, 0..1
    outside_head: float
    border: float
    skull: float
    # of the map as a distribution over pixels, over its highest possible value: 0 all in one pixel,
    # 1 the same everywhere
    entropy: float
    # root mean square distance from the map's centre of mass, in parts of the image's longer side;
    # 0.408 for a square image filled evenly
    spread: float
    empty: bool  # the map is zero everywhere; the shares are those of the area then


def head(grey: npt.NDArray[np.uint8]) -> Mask:
    """The head in a (H, W) uint8 image, as a mask in the image's frame: one piece, no holes.

    Otsu's threshold (1979) divides the image's brightness in two; half of it, since bright fat
    would draw it up into the brain. Of what is above, the largest piece, holes filled; all True
    where nothing stands out from the dark.
    """
    grey = resize(grey, *frame(*grey.shape))
    smooth = ndimage.gaussian_filter(grey.astype(np.float64), 1)
    bright = smooth > 0.5 * _otsu(smooth)
    bright = ndimage.binary_opening(bright, iterations=2)
    pieces, count = ndimage.label(bright)
    if count == 0:
        return np.ones(grey.shape, dtype=bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    filled: Mask = ndimage.binary_fill_holes(pieces == sizes.argmax())
    return filled


def _otsu(values: Floats) -> float:
    """The threshold that leaves the two sides' variances, weighted by size, the smallest."""
    counts, edges = np.histogram(values, bins=256, range=(0, 256))
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * centres).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = below * above * (total / below - (total[-1] - total) / above) ** 2
    if not np.isfinite(apart).any():  # one brightness everywhere
        return float(values.max()) * 2
    return float(edges[int(np.nanargmax(apart)) + 1])


def attribution(relevance: Floats, head_mask: Mask) -> Attribution:
    """Measure where a map lies.

    `relevance` is (H, W) >= 0, in the frame; `head_mask` (H, W), see `head`.
    """
    empty = bool(relevance.max() <= 0)
    share = np.full(relevance.shape, 1 / relevance.size) if empty else relevance / relevance.sum()
    rows, columns = np.indices(share.shape)
    row, column = (share * rows).sum(), (share * columns).sum()
    variance = (share * ((rows - row) ** 2 + (columns - column) ** 2)).sum()
    some = share[share > 0]
    return Attribution(
        outside_head=float(share[~head_mask].sum()),
        border=float(share[border(share.shape)].sum()),
        skull=float(share[skull(head_mask)].sum()),
        entropy=float(-(some * np.log(some)).sum() / np.log(share.size)),
        spread=float(np.sqrt(variance) / max(share.shape)),
        empty=empty,
    )


def border(shape: tuple[int, ...]) -> Mask:
    """The band along the border of an image of this shape."""
    band = np.ones(shape, dtype=bool)
    band[BORDER:-BORDER, BORDER:-BORDER] = False
    return band


def skull(head_mask: Mask) -> Mask:
    """The band below the head's outline; the image's own edge is no outline."""
    depth = SKULL * 2 * np.sqrt(head_mask.sum() / np.pi)
    padded = np.pad(head_mask, 1, mode="edge")
    inward = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    return np.asarray(head_mask & (inward <= depth), dtype=bool)


def centre_map(head_mask: Mask) -> Floats:
    """The centre prior: a fixed Gaussian in the middle of the head, the same for every class.

    What a map gets that guesses that tumors lie in the middle; pituitary tumors nearly always do.
    """
    rows, columns = (np.flatnonzero(head_mask.any(axis=axis)) for axis in (1, 0))
    bumps = []
    for extent, count in ((rows, head_mask.shape[0]), (columns, head_mask.shape[1])):
        middle = (extent[0] + extent[-1]) / 2
        sigma = CENTRE * (extent[-1] - extent[0] + 1)
        bumps.append(np.exp(-0.5 * ((np.arange(count) - middle) / sigma) ** 2))
    return np.asarray(bumps[0][:, None] * bumps[1], dtype=np.float64)
