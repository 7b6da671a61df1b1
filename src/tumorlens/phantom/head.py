"""The signal of a healthy head under T1-weighting after contrast agent, at any points of it.

Painted from the inside out over the template's brain: fluid, falx and vessels; skull with its
marrow, scalp; skull base, orbits, sinuses, mouth and neck as simple solids. It is meant to look
like a head to a network, and to a radiologist at a glance; it is no atlas of the skull base.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.phantom.anatomy import (
    SELLA,
    Array,
    Ripples,
    Template,
    sample_distance,
    sample_volume,
    smoothstep,
)

# Signal of T1-weighted images after contrast agent, where fat is about 1.
AIR, BONE, FLUID, MUSCLE, FAT = 0.008, 0.035, 0.10, 0.34, 0.95
GREY, WHITE, MARROW, MUCOSA, VESSEL, GLAND = 0.335, 0.405, 0.50, 0.60, 0.80, 0.60

# numpy's stubs widen sums of float32 arrays; what is returned is float32.
_Values = npt.NDArray[np.floating]


class Person:
    """What differs from head to head besides its shape; drawn without knowing the class."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.skull = rng.uniform(5.0, 8.5)  # mm
        self.scalp = rng.uniform(4.5, 9.0)  # mm
        self.marrow = rng.uniform(0.4, 1.1)
        self.fat = rng.uniform(0.78, 1.0)
        self.contrast = rng.uniform(0.7, 1.4)  # of white against grey matter
        self.ventricles = rng.uniform(0.2, 0.5)  # from which share of fluid on a place is dark
        self.vessels = rng.uniform(0.55, 0.9)
        self.sinus = rng.uniform(0.75, 1.15)
        self.gland = rng.uniform(0.75, 1.2)
        self.gyri = [Ripples(rng, 30, 6) for _ in range(3)]
        self.thickness = Ripples(rng, 65, 6)
        self.fascia = Ripples(rng, 34, 8)
        self.folds = Ripples(rng, 21, 8)
        self.fibres = Ripples(rng, 10, 8)
        self.mucosa = Ripples(rng, 8, 6)


@dataclass(frozen=True, eq=False)
class Tissue:
    """What is where in a healthy head, at H x W points."""

    depth: Array  # mm to the inside of the skull, negative inside
    brain: Array  # share of brain tissue, 0..1
    white: Array  # share of white matter in it, 0..1
    t1: Array  # the template's own signal, 0..1


def survey(template: Template, person: Person, points: Array) -> Tissue:
    """What is at `points` (3, H, W) mm of the head of `person`."""
    depth = sample_distance(template.cavity, points)
    inside = depth < 1
    within = points[:, inside]
    # Gyri differ from head to head more than skulls do.
    sway = np.stack([gyri(within) for gyri in person.gyri])
    within = within + np.float32(1.6) * sway * smoothstep(0, -7, depth[inside])
    sampled = []
    for volume in (template.grey, template.white, template.t1):
        values = np.zeros_like(depth)
        values[inside] = sample_volume(volume, within)
        sampled.append(values)
    grey, white, t1 = sampled
    brain = np.clip(grey + white, 0, 1)
    return Tissue(depth, brain, smoothstep(0.2, 0.8, white / (brain + 0.03)), t1)


def paint_head(template: Template, person: Person, points: Array, tissue: Tissue) -> Array:
    """Signal at `points` (3, H, W) mm, of which `tissue` is the survey; fat is about 1."""
    vault = sample_distance(template.vault, points)
    signal = _outside(person, points, tissue.depth, vault)
    signal = _over(signal, _inside(person, points, tissue), smoothstep(0.6, -0.6, tissue.depth))
    return _sella(person, points, signal)


def _over(below: _Values, above: _Values | float, alpha: _Values) -> Array:
    return np.asarray(below + (above - below) * alpha, dtype=np.float32)


def _ball(points: Array, centre: tuple[float, ...], radii: tuple[float, ...]) -> Array:
    """Signed distance to an ellipsoid, mm, negative inside (exact for a sphere, else close)."""
    x, y, z = (
        (p - np.float32(c)) / np.float32(r) for p, c, r in zip(points, centre, radii, strict=True)
    )
    length = np.sqrt(x**2 + y**2 + z**2)
    return np.asarray((length - 1) * np.float32(min(radii)), dtype=np.float32)


def _rod(points: Array, a: tuple[float, ...], b: tuple[float, ...], radius: float) -> Array:
    """Signed distance to a rod from `a` to `b` with round ends, mm, negative inside."""
    start = np.array(a, dtype=np.float32)
    along = np.array(b, dtype=np.float32) - start
    offset = points - start[:, None, None]
    t = np.clip(np.tensordot(along, offset, 1) / np.float32(along @ along), 0, 1)
    offset = offset - along[:, None, None] * t
    return np.asarray(np.sqrt((offset**2).sum(axis=0)) - radius, dtype=np.float32)


def _filled(distance: _Values, soft: float = 0.6) -> Array:
    return smoothstep(soft, -soft, distance)


def _folded(points: Array) -> Array:
    """The same points with both sides laid on one: |x| for x."""
    return np.asarray(np.stack([np.abs(points[0]), points[1], points[2]]), dtype=np.float32)


def _inside(person: Person, points: Array, tissue_map: Tissue) -> Array:
    """Brain, fluid, falx, vessels."""
    x, y, z = points
    depth, share = tissue_map.depth, tissue_map.white
    mean = GREY + (WHITE - GREY) * 0.5
    contrast = (WHITE - GREY) * person.contrast
    matter = mean + contrast * (share - 0.5) + 0.12 * (tissue_map.t1 - 0.75)
    tissue = smoothstep(person.ventricles - 0.15, person.ventricles + 0.3, tissue_map.brain)
    # The average of many brains has no sulci of its own: thin dark folds near the surface.
    fold = np.abs(person.folds(points)) / 0.16
    rind = smoothstep(-24, -8, depth) * smoothstep(0.75, 0.2, share)
    tissue = tissue * (1 - 0.75 * np.exp(-(fold**2)) * rind)
    signal = _over(np.full_like(depth, FLUID), matter, tissue)
    # Falx: the sheet between the hemispheres, from above the corpus callosum to the skull.
    below = ((y + 8) / 56) ** 2 + ((z - 6) / 34) ** 2
    falx = _filled(np.abs(x) - 0.7, 0.8) * smoothstep(1.0, 1.2, below) * smoothstep(-12, 0, z)
    sheet = np.abs(np.gradient(x, axis=0)) + np.abs(np.gradient(x, axis=1))
    falx = falx * np.clip(sheet, 0, 1)  # seen from the side a sheet is no line
    signal = _over(signal, 0.52, 0.75 * falx)
    signal = _over(signal, 0.45, 0.4 * _filled(np.abs(depth + 0.4) - 0.3, 0.9))  # dura
    # Vessels: dots where two folds of space cross in the fluid.
    dots = np.exp(-((person.fibres(points) - 1.9) ** 2) / 0.06) * (1 - tissue)
    vessel = VESSEL * person.vessels
    signal = _over(signal, vessel, 0.8 * dots * smoothstep(-16, -4, depth))
    back = (z > -5) | (y < -60)
    sagittal_sinus = np.hypot(x / 4.5, (depth + 0.5) / 3.2) - 1
    signal = _over(signal, vessel, _filled(np.where(back, sagittal_sinus, 1), 0.25))
    transverse = np.hypot((z + 20 + 0.1 * np.abs(x)) / 4.0, (depth + 0.5) / 3.5) - 1
    signal = _over(signal, vessel, _filled(np.where(y < -52, transverse, 1), 0.25))
    basilar = _rod(points, (0, -19, -48), (0, -17, -22), 1.5)
    artery = _rod(_folded(points), (12, 0, -22), (38, 2, -16), 1.2)
    return _over(signal, vessel, 0.9 * _filled(np.minimum(basilar, artery), 0.7))


def _outside(person: Person, points: Array, depth: Array, vault: Array) -> Array:
    """Air, scalp, skull, and the soft tissue of face and neck."""
    ripple = person.thickness(points)
    skull = person.skull + 0.8 * ripple
    outer = vault - person.skull - person.scalp - 0.8 * ripple
    sides = _folded(points)
    face = _ball(points, (0, 22, -70), (70, 73, 92))
    nose = _rod(points, (0, 84, -40), (0, 99, -72), 9)
    neck = _rod(points, (0, -30, -60), (0, -42, -220), 60)
    neck = np.maximum(neck, points[2] + 45)
    ear = _ball(sides, (84, -28, -42), (6, 15, 25))
    body = np.minimum(np.minimum(face, neck), np.minimum(nose, ear))
    blend = np.clip(0.5 + 0.5 * (outer - body) / 10, 0, 1)
    head = outer + (body - outer) * blend - 10 * blend * (1 - blend)

    fibres, fascia = person.fibres(points), person.fascia(points)
    muscle = MUSCLE * (1 + 0.08 * fibres + 0.10 * ripple)
    # Sheets of fat between muscles, and lumps of it.
    sheets = np.exp(-((fascia + 0.06 * fibres) ** 2) / 0.03)
    lumps = smoothstep(1.1, 1.7, ripple + 0.8 * fascia)
    flesh = _over(muscle, 0.75 * person.fat * FAT, np.maximum(0.45 * sheets, 0.6 * lumps))
    under_skin = smoothstep(-person.scalp, -person.scalp * 0.5, head + 0.8 * fascia)
    flesh = _over(flesh, person.fat * FAT * (0.95 + 0.08 * fibres), under_skin)
    # Temporalis lies on the skull above the cheekbone, galea under the fat elsewhere.
    temporal = smoothstep(skull + 11, skull + 7, depth) * smoothstep(48, 20, np.abs(points[1] - 18))
    temporal = temporal * smoothstep(22, -8, points[2]) * smoothstep(20, 45, sides[0])
    flesh = _over(flesh, muscle, temporal * smoothstep(-2.5, -4.5, head))
    flesh = _over(flesh, 0.42, smoothstep(-1.5, -0.5, head))  # skin
    flesh = _bones(person, points, sides, flesh)
    grain = person.mucosa(points)
    mastoid = _ball(sides, (52, -26, -44), (16, 16, 15)) + 1.2 * grain
    flesh = _over(flesh, BONE + 0.25 * np.clip(grain, 0, 2), 0.9 * _filled(mastoid, 2))
    flesh = _airways(person, points, sides, grain, _orbits(person, sides, flesh))
    # Two dark tables with marrow between them, here more, there less.
    diploe = np.exp(-(((depth - 0.5 * skull) / (0.23 * skull)) ** 2))
    marrow = np.clip(0.55 + 0.3 * fascia + 0.1 * fibres, 0, 1.2)
    bone = BONE + MARROW * person.marrow * marrow * diploe
    signal = _over(flesh, bone, smoothstep(skull + 0.6, skull - 0.6, depth))
    return _over(signal, AIR, smoothstep(-0.6, 0.6, head))


def _bones(person: Person, points: Array, sides: Array, signal: Array) -> Array:
    """Jaw, clivus, cheekbone and vertebrae, marrow in dark bone; the spinal canal; cheek fat."""
    cheek = _filled(_ball(sides, (44, 58, -72), (13, 20, 20)), 3)
    signal = _over(signal, 0.8 * person.fat * FAT, 0.8 * cheek)
    jaw = _rod(sides, (46, 8, -90), (16, 76, -128), 5)
    clivus = _rod(points, (0, -7, -44), (0, -20, -68), 6)
    zygoma = _rod(sides, (58, 48, -52), (66, 14, -50), 3)
    signal = _bone(person, signal, np.minimum(np.minimum(jaw, clivus), zygoma))
    spine = _rod(points, (0, -22, -76), (0, -24, -200), 9)
    discs = smoothstep(0.86, 0.97, np.cos(points[2] * np.float32(2 * np.pi / 19)))
    signal = _bone(person, signal, np.where(discs > 0.5, np.maximum(spine, -1.0), spine))
    spinous = _rod(points, (0, -58, -84), (0, -66, -200), 4)
    signal = _bone(person, signal, np.where(np.cos(points[2] / 3) > 0, spinous, 9))
    canal = _rod(points, (0, -44, -62), (0, -46, -200), 9)
    signal = _over(signal, FLUID, _filled(canal))
    return _over(signal, 0.9 * WHITE, _filled(canal + 3.5))


def _bone(person: Person, signal: Array, distance: Array) -> Array:
    signal = _over(signal, BONE, _filled(distance))
    return _over(signal, MARROW * person.marrow, _filled(distance + 2.0))


def _orbits(person: Person, sides: Array, signal: Array) -> Array:
    """Fat, eye, muscles and nerve."""
    orbit = _ball(sides, (30, 49, -37), (16, 29, 15))
    signal = _over(signal, BONE, _filled(np.abs(orbit) - 0.8))
    signal = _over(signal, 0.85 * person.fat * FAT, _filled(orbit + 1.2))
    eye = _ball(sides, (33, 66, -38), (12, 12, 12))
    nerve = _rod(sides, (32, 54, -38), (10, 12, -28), 1.9)
    muscles = [
        _rod(sides, (20, 60, -38), (12, 22, -33), 1.7),
        _rod(sides, (45, 60, -38), (16, 22, -33), 1.7),
        _rod(sides, (32, 60, -26), (14, 22, -30), 1.7),
        _rod(sides, (32, 60, -50), (14, 22, -36), 1.7),
    ]
    signal = _over(signal, 0.62, _filled(np.minimum.reduce(muscles)) * _filled(orbit))
    signal = _over(signal, GREY, _filled(nerve) * smoothstep(40, 10, sides[0]))
    signal = _over(signal, 0.5, _filled(eye))
    signal = _over(signal, 0.13, _filled(eye + 1.8))
    lens = _ball(sides, (33, 75, -38), (4.5, 2.2, 4.5))
    return _over(signal, 0.3, _filled(lens))


def _airways(person: Person, points: Array, sides: Array, grain: Array, signal: Array) -> Array:
    """Air spaces with bright mucosa, turbinates in the nose, palate and tongue."""
    air = person.sinus
    sphenoid = _ball(points, (1.5, 18, -44), (13 * air, 13 * air, 9 * air))
    maxilla = _ball(sides, (29, 50, -68), (13 * air, 18 * air, 17 * air))
    frontal = _ball(sides, (9, 76, -22), (9 * air, 4 * air, 9 * air))
    hollow = np.minimum(np.minimum(sphenoid, maxilla), frontal) + 0.4 * grain
    signal = _over(signal, MUCOSA, 0.8 * _filled(hollow - 1.2))
    signal = _over(signal, AIR, _filled(hollow))
    ethmoid = _ball(points, (0, 45, -40), (11, 24, 10))
    nose = _ball(points, (0, 60, -64), (15, 38, 20))
    cells = 0.75 * smoothstep(-1.1, 1.0, grain)
    signal = _over(signal, AIR + MUCOSA * cells, _filled(np.minimum(ethmoid, nose)))
    septum = np.maximum(np.abs(points[0]) - 1.2, np.minimum(ethmoid, nose))
    signal = _over(signal, 0.6, _filled(septum))
    # Throat and mouth.
    upper = _ball(points, (0, 8, -72), (12, 9, 14))
    throat = np.minimum(upper, _rod(points, (0, -4, -80), (0, -8, -200), 6))
    signal = _over(signal, MUCOSA, 0.7 * _filled(throat - 2))
    signal = _over(signal, AIR, _filled(throat))
    palate = np.maximum(np.abs(points[2] + 87) - 2.5, _ball(points, (0, 50, -87), (24, 36, 20)))
    signal = _over(signal, BONE, _filled(palate))
    tongue = _ball(points, (0, 42, -106), (25, 34, 16))
    return _over(signal, MUSCLE * (1.05 + 0.15 * grain), 0.9 * _filled(tongue, 2))


def _sella(person: Person, points: Array, signal: Array) -> Array:
    """The gland with its stalk, the sinuses beside it, and the bone that it sits in."""
    sides = _folded(points)
    x, y, z = (float(v) for v in SELLA)
    bone = _ball(points, (x, y, z - 5), (11, 10, 7))
    signal = _over(signal, BONE + 0.2 * person.marrow * MARROW, 0.9 * _filled(bone, 1.5))
    cavernous = _ball(sides, (13.5, y - 1, z), (5, 10, 6.5))
    signal = _over(signal, GLAND * person.gland, 0.85 * _filled(cavernous, 1.0))
    carotid = _rod(sides, (13, y - 6, z - 3), (13, y + 5, z), 2.2)
    carotid = np.minimum(carotid, _rod(sides, (13, y + 5, z), (12, y + 1, z + 11), 2.0))
    signal = _over(signal, 0.08, _filled(carotid, 0.8))
    gland = _ball(points, (x, y, z), (7, 5, 3.6))
    stalk = _rod(points, (x, y - 1, z), (x, y - 3, z + 12), 1.2)
    return _over(signal, GLAND * person.gland, 0.95 * _filled(np.minimum(gland, stalk), 0.8))
