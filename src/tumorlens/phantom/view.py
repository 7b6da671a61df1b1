"""Which slice of the phantom's head is looked at."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.phantom.anatomy import SELLA, Array, Ripples


@dataclass(frozen=True)
class View:
    """Which slice is looked at: a grid of points in the head.

    Attributes:
        plane: "axial", "coronal" or "sagittal".
        offset: mm along the slice's normal from the sella.
        points: (3, size, size) mm; rows from top to bottom of the image.
        across: (3,) unit vector along a row; down: (3,) unit vector along a column.
        spacing: mm from one pixel to the next.
    """

    plane: str
    offset: float
    points: Array
    across: Array
    down: Array
    spacing: float


# Columns, rows (downwards) and normal of each plane, and the head's centre in the image.
_PLANES = {
    "axial": ((1, 0, 0), (0, -1, 0), (0, 0, 1), (0, -6, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0), (0, 0, -14)),
    "sagittal": ((0, 1, 0), (0, 0, -1), (1, 0, 0), (0, -4, -16)),
}
# How far a slice may lie from the sella (mm along the normal), and how far it may lean (degrees).
_OFFSETS = {"axial": (-8.0, 19.0), "coronal": (-14.0, 14.0), "sagittal": (-14.0, 14.0)}
_WIDTHS = {"axial": (214.0, 240.0), "coronal": (204.0, 230.0), "sagittal": (226.0, 250.0)}  # mm
_LEANS = {"axial": (11.0, 3.0), "coronal": (9.0, 3.0), "sagittal": (4.0, 4.0)}


def draw_view(rng: np.random.Generator, size: int) -> View:
    """A slice through the sella's surroundings, leaning this way and that, in a bent head.

    Every slice passes within two centimetres of the sella: a pituitary tumor has to, and no class
    may be told by where its slices lie.
    """
    plane = str(rng.choice(list(_PLANES)))
    across, down, normal, centre = (np.array(v, dtype=np.float64) for v in _PLANES[plane])
    lean = np.clip(rng.normal(size=2), -2, 2) * _LEANS[plane] / 1.5
    turn = _rotation(across, lean[0]) @ _rotation(down, lean[1])
    turn = turn @ _rotation(normal, float(np.clip(rng.normal(0, 4), -9, 9)))
    across, down, normal = turn @ across, turn @ down, turn @ normal
    offset = float(rng.uniform(*_OFFSETS[plane]))
    width = float(rng.uniform(*_WIDTHS[plane]))
    spacing = width / size
    start = SELLA + offset * normal
    middle = (centre - start) - ((centre - start) @ normal) * normal + start
    middle = middle + rng.uniform(-6, 6) * across + rng.uniform(-6, 6) * down
    steps = (np.arange(size) - (size - 1) / 2) * spacing
    grid = (
        middle[:, None, None]
        + across[:, None, None] * steps[None, None, :]
        + down[:, None, None] * steps[None, :, None]
    )
    points = _bent(rng, grid.astype(np.float32))
    return View(plane, offset, points, across.astype(np.float32), down.astype(np.float32), spacing)


def _rotation(axis: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    turned = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return np.asarray(turned, dtype=np.float64)


def _bent(rng: np.random.Generator, points: Array) -> Array:
    """Another person's head: scaled along each axis, and bent smoothly."""
    scale = rng.uniform(0.93, 1.07, size=3).astype(np.float32)[:, None, None]
    bent = SELLA[:, None, None] + (points - SELLA[:, None, None]) / scale
    shift = [Ripples(rng, 120.0, 5)(points) for _ in range(3)]
    bent = bent + np.float32(2.8) * np.stack(shift)
    return np.asarray(bent, dtype=np.float32)
