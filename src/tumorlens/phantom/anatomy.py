"""A head to be imaged, the MNI152 template's brain, and the slice in which it is looked at.

The brain is the ICBM 2009a nonlinear symmetric average of 152 people (Fonov et al. 2011, NeuroImage
54), as nilearn ships it: 1 mm, T1 and the probabilities of grey and white matter. It ends at the
brain's surface; everything outside is drawn by distance from that surface and by simple solids.
Coordinates are MNI millimetres throughout: x to the patient's right, y forward, z up.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorlens.errors import TumorlensError

Array = npt.NDArray[np.float32]

_ORIGIN = (-98.0, -134.0, -72.0)  # millimetres of voxel (0, 0, 0) of the template
_FIELD_ORIGIN = (-130.0, -160.0, -130.0)  # the distance field reaches further than the brain
_FIELD_SHAPE = (131, 151, 126)
_FIELD_STEP = 2.0  # mm: skull and scalp are smooth, a finer grid would show no more

SELLA = np.array([0.0, 2.0, -33.0], dtype=np.float32)  # centre of the pituitary gland


def smoothstep(low: float | Array, high: float | Array, value: npt.NDArray[np.floating]) -> Array:
    """0 below `low`, 1 above `high`, a smooth cubic between; `low` > `high` turns it round."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)


class Ripples:
    """A smooth random field over space, mean 0 and variance 1: plane waves of random directions.

    The field is a function of millimetres, so a slice looks the same at every image size.
    """

    def __init__(self, rng: np.random.Generator, wavelength: float, waves: int = 8) -> None:
        direction = rng.normal(size=(waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = wavelength * rng.uniform(0.75, 1.35, size=(waves, 1))
        self._vectors = (2 * np.pi * direction / length).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, size=waves).astype(np.float32)

    def __call__(self, points: Array) -> Array:
        """The field at `points` (3, ...) mm."""
        total = np.zeros(points.shape[1:], dtype=np.float32)
        for vector, phase in zip(self._vectors, self._phases, strict=True):
            total += np.cos(
                vector[0] * points[0] + vector[1] * points[1] + vector[2] * points[2] + phase
            )
        return total * np.float32(np.sqrt(2.0 / len(self._phases)))


@dataclass(frozen=True, eq=False)
class Template:
    """The averaged brain, and how far every place is from the space that it fills."""

    t1: npt.NDArray[np.uint8]  # (197, 233, 189) uint8, T1 signal, 0 outside the brain
    grey: npt.NDArray[np.uint8]  # (197, 233, 189) uint8, probability of grey matter times 255
    white: npt.NDArray[np.uint8]  # the same for white matter
    cavity: Array  # millimetres to the inside of the skull, negative inside, on a coarser grid
    vault: Array  # the same for a rounder, closed hull: the shape that the scalp follows


def sample_volume(volume: npt.NDArray[np.uint8], points: Array) -> Array:
    """A volume of the template at `points` (3, N) mm: 0..1, linearly interpolated, 0 outside."""
    places = points - np.array(_ORIGIN, dtype=np.float32)[:, None]
    values = ndimage.map_coordinates(volume, places, order=1, output=np.float32)
    return np.asarray(values, dtype=np.float32) / np.float32(255)


def sample_distance(distance: Array, points: Array) -> Array:
    """A distance field of the template at `points` (3, H, W) mm."""
    step = np.float32(_FIELD_STEP * round(_FIELD_SHAPE[0] / distance.shape[0]))
    places = (points - np.array(_FIELD_ORIGIN, dtype=np.float32)[:, None, None]) / step
    values = ndimage.map_coordinates(distance, places, order=1, output=np.float32, mode="nearest")
    return np.asarray(values, dtype=np.float32)


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The template that nilearn carries in its package; nothing is downloaded.

    Raises:
        TumorlensError: nilearn is missing, or a version of it that no longer has the files.
    """
    volumes = {name: _volume(name) for name in ("t1", "gm", "wm")}
    cavity, vault = _distances(volumes["t1"])
    return Template(volumes["t1"], volumes["gm"], volumes["wm"], cavity, vault)


def _volume(name: str) -> npt.NDArray[np.uint8]:
    # The files are read where they lie: importing nilearn itself takes seconds.
    spec = importlib.util.find_spec("nilearn")
    if spec is None:
        raise TumorlensError(
            "phantom needs the package nilearn for its MNI152 template, which is not installed; "
            "install the extra: pip install 'tumorlens[phantom]'."
        )
    file = f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    for root in spec.submodule_search_locations or ():
        path = Path(root) / file
        if path.is_file():
            return np.ascontiguousarray(
                nibabel.Nifti1Image.from_filename(path).dataobj, dtype=np.uint8
            )
    raise TumorlensError(
        f"nilearn/{file}: not found, expected the MNI152 template that nilearn ships; "
        "install nilearn 0.11 or newer."
    )


def _distances(t1: npt.NDArray[np.uint8]) -> tuple[Array, Array]:
    brain = np.zeros(_FIELD_SHAPE, dtype=bool)
    start = [round((a - b) / _FIELD_STEP) for a, b in zip(_ORIGIN, _FIELD_ORIGIN, strict=True)]
    coarse = t1[::2, ::2, ::2] > 40
    stop = [first + count for first, count in zip(start, coarse.shape, strict=True)]
    brain[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = coarse
    # Sulci, fissures and cisterns are inside the skull, and 1.5 mm of fluid around the brain.
    cavity = _hull_distance(brain, 10.0, _FIELD_STEP) - np.float32(1.5)
    vault = _hull_distance(brain[::2, ::2, ::2], 36.0, 2 * _FIELD_STEP) - np.float32(1.5)
    return cavity, vault


def _hull_distance(inside: npt.NDArray[np.bool_], closing: float, step: float) -> Array:
    """Signed distance, mm, to `inside` after closing gaps narrower than twice `closing` mm."""
    grown = ndimage.distance_transform_edt(~inside) <= closing / step
    hull = ndimage.distance_transform_edt(grown) > closing / step
    signed = ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull)
    return np.asarray(ndimage.gaussian_filter(signed * step, 1.0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class View:
    """Which slice of the head is looked at: a grid of points in it."""

    plane: str  # "axial", "coronal" or "sagittal"
    offset: float  # mm along the slice's normal from the sella
    points: Array  # (3, size, size) mm; rows from top to bottom of the image
    across: Array  # (3,) unit vector along a row; down: (3,) unit vector along a column
    down: Array
    spacing: float  # mm from one pixel to the next


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
    # Another person's head: scaled along each axis, and bent smoothly.
    points, sella = grid.astype(np.float32), SELLA[:, None, None]
    scale = rng.uniform(0.93, 1.07, size=3).astype(np.float32)[:, None, None]
    bent = sella + (points - sella) / scale
    bent = bent + np.float32(2.8) * np.stack([Ripples(rng, 120.0, 5)(points) for _ in range(3)])
    points = np.asarray(bent, dtype=np.float32)
    return View(plane, offset, points, across.astype(np.float32), down.astype(np.float32), spacing)


def _rotation(axis: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    turned = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return np.asarray(turned, dtype=np.float64)
