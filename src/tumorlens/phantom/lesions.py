"""Tumors for the phantom's heads, drawn in the plane of the slice.

What tells them apart is what tells the real ones apart: a glioma grows inside the brain, irregular,
often a bright ring around a dark core in a dark swelling; a meningioma sits on the dura with a
broad base and takes up contrast agent evenly; a pituitary tumor fills the sella and rises from it.
Each has its exceptions (a solid glioma, a meningioma with a swelling or a dark heart, a cystic
pituitary tumor), so that no single sign decides.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.phantom.anatomy import SELLA, Array, Ripples, View, smoothstep
from tumorlens.phantom.head import Tissue

_TRIES = 60
_TAIL_SIGNAL = 0.62


@dataclass(frozen=True, eq=False)
class Lesion:
    """A tumor at H x W points."""

    # (H, W) how much of a pixel is tumor core, 0..1: what takes up contrast agent and what that
    # encloses; swelling and dural tail are not core
    core: Array
    signal: Array  # (H, W) signal of the core
    around: Array  # (H, W) factor on the signal of the tissue around: swelling, a cleft of fluid
    tail: Array  # (H, W) how much of a pixel is thickened, enhancing dura, 0..1
    # (2, H, W) mm along rows and columns from each pixel to the tissue that the growing tumor has
    # pushed there; 0 out of its reach
    push: Array

    def laid_into(self, healthy: Array) -> Array:
        """`healthy` signal (already displaced by `push`) with the tumor in it."""
        signal = healthy * self.around
        signal = signal + (_TAIL_SIGNAL - signal) * self.tail
        return np.asarray(signal + (self.signal - signal) * self.core, dtype=np.float32)


def draw_lesion(rng: np.random.Generator, label: str, view: View, tissue: Tissue) -> Lesion | None:
    """A tumor of the kind `label` in the slice; None for notumor."""
    draw = {"glioma": _glioma, "meningioma": _meningioma, "pituitary": _pituitary}.get(label)
    return draw(rng, view, tissue) if draw else None


class _Around:
    """The plane seen from a tumor's centre: distance, angle and direction of each pixel."""

    def __init__(self, view: View, row: float, column: float) -> None:
        size, spacing = view.points.shape[1], np.float32(view.spacing)
        steps = np.arange(size, dtype=np.float32)
        u = np.broadcast_to((steps - np.float32(column)) * spacing, (size, size))
        v = np.broadcast_to((steps - np.float32(row))[:, None] * spacing, (size, size))
        self.distance = np.hypot(u, v).astype(np.float32)  # mm
        self.angle = np.arctan2(v, u).astype(np.float32)
        # (2, H, W), unit vectors outwards, along rows and columns.
        direction = np.stack([u, v]) / np.maximum(self.distance, 1e-3)
        self.direction = direction.astype(np.float32)


def _lobed(
    rng: np.random.Generator, around: _Around, radius: float, rough: float, lobes: range
) -> Array:
    """Signed distance to a lobed outline of mean `radius`, mm, negative inside."""
    outline = np.ones_like(around.angle)
    for lobe in lobes:
        size = rough * rng.normal() / np.sqrt(lobe)
        outline = outline + size * np.cos(lobe * around.angle + rng.uniform(0, 2 * np.pi))
    outline = np.clip(outline, 0.5, 1.6)
    # An oval, not a circle: the longer axis in any direction.
    stretch = rng.uniform(0.0, 0.22)
    oval = 1 + stretch * np.cos(2 * (around.angle - rng.uniform(0, np.pi)))
    return np.asarray(around.distance - radius * outline * oval, dtype=np.float32)


def _pushed(around: _Around, outside: Array, amount: float, reach: float, tissue: Tissue) -> Array:
    """Tissue moves away from the tumor, less with distance, not at all at the skull."""
    fading = smoothstep(reach, 0.0, np.maximum(outside, 0)) * smoothstep(0.0, -9.0, tissue.depth)
    return np.asarray(-around.direction * (amount * fading), dtype=np.float32)


def _swelling(
    rng: np.random.Generator, view: View, outside: Array, tissue: Tissue, width: float
) -> Array:
    """Factor on the signal: oedema follows the white matter and spares the cortex."""
    edge = outside + 0.22 * width * Ripples(rng, 22)(view.points)
    reach = smoothstep(width, 0.15 * width, edge) * smoothstep(1.5 * width, width, outside)
    share = reach * (0.25 + 0.75 * tissue.white) * tissue.brain * smoothstep(0, -4, tissue.depth)
    return np.asarray(1 - rng.uniform(0.25, 0.5) * share, dtype=np.float32)


def _pick(rng: np.random.Generator, where: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    places = np.argwhere(where)
    if len(places) == 0:
        return None
    row, column = places[rng.integers(len(places))].tolist()
    return row, column


def _glioma(rng: np.random.Generator, view: View, tissue: Tissue) -> Lesion:
    radius = float(rng.uniform(12, 27))
    place = None
    while place is None:
        place = _pick(rng, (tissue.brain > 0.6) & (tissue.depth < -(4 + 0.35 * radius)))
        radius *= 1.0 if place else 0.8
    around = _Around(view, *place)
    edge = _lobed(rng, around, radius, 0.15, range(2, 7))
    edge = edge + 0.05 * radius * Ripples(rng, 14)(view.points)
    core = smoothstep(0.9, -0.9, edge) * smoothstep(-1.5, -3.5, tissue.depth)

    texture, patches = Ripples(rng, 7)(view.points), Ripples(rng, 15)(view.points)
    bright = float(rng.uniform(0.6, 0.95)) * (1 + 0.1 * texture)
    dead = float(rng.uniform(0.11, 0.22)) * (1 + 0.08 * texture)
    kind = rng.choice(["ring", "patchy", "faint"], p=[0.7, 0.24, 0.06])
    if kind == "ring":
        rim = float(rng.uniform(2.5, 5.5)) * np.clip(1 + 0.45 * patches, 0.3, 2.2)
        alive = smoothstep(-1.2, 0.8, edge + rim)
    elif kind == "patchy":
        alive = smoothstep(-0.5, 0.7, patches + float(rng.uniform(-0.2, 0.5)))
    else:
        alive = 0.5 * smoothstep(0.8, 1.5, patches)
    signal = dead + (bright - dead) * alive
    swelling = _swelling(rng, view, edge, tissue, float(rng.uniform(8, 20)))
    amount = radius * float(rng.uniform(0.15, 0.4))
    push = _pushed(around, edge, amount, 12 + 2.2 * amount, tissue)
    nothing = np.zeros_like(core)
    return Lesion(core, np.asarray(signal, np.float32), swelling, nothing, push)


def _meningioma(rng: np.random.Generator, view: View, tissue: Tissue) -> Lesion:
    radius = float(rng.uniform(11, 24))
    wall, row, column = _dural_seat(rng, view, tissue, radius)
    around = _Around(view, row, column)
    edge = _lobed(rng, around, radius, 0.06, range(2, 6))
    # The base is flat on the dura, its corners round.
    edge = _both(edge, np.maximum(-wall, tissue.depth), 3.0)
    core = smoothstep(0.8, -0.8, edge)

    texture, patches = Ripples(rng, 8)(view.points), Ripples(rng, 13)(view.points)
    bright = float(rng.uniform(0.58, 0.9)) * (1 + 0.035 * texture)
    if rng.random() < 0.12:  # a dark heart, or calcium
        dark = smoothstep(0.3, 1.2, patches) * smoothstep(-0.2 * radius, -0.5 * radius, edge)
        bright = bright * (1 - 0.65 * dark)
    tissue_around = np.ones_like(core)
    if rng.random() < 0.45:
        tissue_around = _swelling(rng, view, edge, tissue, float(rng.uniform(5, 15)))
    if rng.random() < 0.5:  # fluid caught between tumor and brain
        cleft = smoothstep(1.3, 0.6, np.abs(edge - 0.9)) * smoothstep(0, 2, wall)
        tissue_around = tissue_around * (1 - 0.5 * cleft * smoothstep(0, -2, tissue.depth))
    tail = np.zeros_like(core)
    if rng.random() < 0.6:
        length = float(rng.uniform(6, 14))
        near = smoothstep(radius + length, radius * 0.8, around.distance)
        tail = smoothstep(1.9, 0.5, np.abs(wall - 0.6) / np.maximum(near, 0.05)) * near
        tail = tail * smoothstep(1.0, -0.5, tissue.depth)
    amount = radius * float(rng.uniform(0.2, 0.45))
    push = _pushed(around, edge, amount, 12 + 2.2 * amount, tissue)
    signal = np.asarray(bright + np.zeros_like(core), np.float32)
    return Lesion(core, signal, tissue_around, np.asarray(tail, np.float32), push)


def _both(a: Array, b: Array, soft: float) -> Array:
    """Signed distance to what is inside both outlines, the corners rounded over `soft` mm."""
    blend = np.clip(0.5 + 0.5 * (a - b) / soft, 0, 1)
    return np.asarray(b + (a - b) * blend + soft * blend * (1 - blend), dtype=np.float32)


def _dural_seat(
    rng: np.random.Generator, view: View, tissue: Tissue, radius: float
) -> tuple[Array, float, float]:
    """Where a meningioma sits: mm from its sheet of dura (growing inwards), and its centre.

    The sheet is the inside of the skull or, where the slice cuts it across, the falx.
    """
    size = tissue.depth.shape[0]
    x, y, z = view.points
    wall = -tissue.depth
    sheet = np.abs(wall) < view.spacing
    above = ((y + 8) / 56) ** 2 + ((z - 6) / 34) ** 2 > 1.1
    falx = (np.abs(x) < view.spacing) & (tissue.depth < -0.6 * radius) & above & (z > -5)
    if view.plane != "sagittal" and falx.any() and rng.random() < 0.22:
        wall, sheet = x * np.float32(rng.choice([-1.0, 1.0])), falx
    across, down = np.gradient(wall, axis=1), np.gradient(wall, axis=0)
    seat = (0.0, 0.0)
    for attempt in range(_TRIES):
        place = _pick(rng, sheet)
        if place is None:
            break
        slope = np.array([down[place], across[place]], dtype=np.float64)
        slope /= max(float(np.linalg.norm(slope)), 1e-6)
        inward = slope * radius * rng.uniform(0.3, 0.85) / view.spacing
        centre = np.array(place) + inward
        far = np.array(place) + 2.0 * inward
        if (np.array([centre, far]) < 0).any() or (np.array([centre, far]) > size - 1).any():
            continue
        seat = (float(centre[0]), float(centre[1]))
        deep = [tissue.depth[tuple(np.rint(at).astype(int))] for at in (centre, far)]
        # Late tries take what is there: a flat tumor in a narrow place.
        if (deep[0] < -0.25 * radius and deep[1] < -3) or attempt > _TRIES - 5:
            break
    return np.asarray(wall, np.float32), *seat


def _pituitary(rng: np.random.Generator, view: View, tissue: Tissue) -> Lesion:
    """An ovoid on the floor of the sella, with a second one above it where it has risen."""
    bumps = Ripples(rng, 16)(view.points)
    least = 9.0
    for _ in range(_TRIES):
        radius = float(rng.uniform(least, max(20.0, least + 1)))
        edge = _risen(rng, view, radius) + 0.05 * radius * bumps
        # Seen as a disc of at least 7 mm radius: a slice further off needs a larger tumor.
        if (edge < 0).sum() * view.spacing**2 > np.pi * 7**2:
            break
        least += 0.6
    core = smoothstep(0.8, -0.8, edge)

    texture = Ripples(rng, 8)(view.points)
    bright = float(rng.uniform(0.58, 0.9)) * (1 + 0.045 * texture)
    if rng.random() < 0.22:
        hollow = smoothstep(-2.5, -4.5, edge + 1.2 * bumps)
        bright = bright * (1 - float(rng.uniform(0.3, 0.65)) * hollow)
    rows, columns = np.nonzero(edge < 0)
    around = _Around(view, float(rows.mean()), float(columns.mean()))
    amount = radius * float(rng.uniform(0.15, 0.35))
    push = _pushed(around, edge, amount, 10 + 2.2 * amount, tissue)
    ones, nothing = np.ones_like(core), np.zeros_like(core)
    return Lesion(core, np.asarray(bright, np.float32), ones, nothing, push)


def _risen(rng: np.random.Generator, view: View, radius: float) -> Array:
    """Signed distance to an ovoid on the sella's floor, often with a second one on top of it."""
    radii = np.array([rng.uniform(0.85, 1.2), rng.uniform(0.8, 1.05), 1.0]) * radius
    height = SELLA[2] - 5 - 0.15 * radius + radius
    centre = np.array([rng.normal(0, 1.2), SELLA[1] + rng.normal(0, 1.2), height])
    edge = _ovoid(view.points, centre, radii)
    if radius > 9 and rng.random() < 0.6:
        top = centre + np.array([rng.normal(0, 1.5), rng.normal(1, 1.5), 0.75 * radius])
        edge = np.minimum(edge, _ovoid(view.points, top, radii * rng.uniform(0.6, 0.85)))
    return edge


def _ovoid(points: Array, centre: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> Array:
    scaled = (points - centre[:, None, None]) / radii[:, None, None]
    length = np.sqrt((scaled**2).sum(axis=0))
    return np.asarray((length - 1) * radii.min(), dtype=np.float32)
