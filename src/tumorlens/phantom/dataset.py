"""Phantom data: made-up T1-weighted slices after contrast agent, with exact tumor masks.

The anatomy is that of the MNI152 template, bent and framed differently each time; skull, face and
tumors are drawn. Good for trying everything out and for tests with known answers; a model trained
on it knows nothing about patients.

A class differs from the others by its tumor only. Plane, position, framing, head, scanner and file
are drawn before the class is known, from one distribution: every slice passes near the sella,
because those of a pituitary tumor must.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorlens.errors import TumorlensError
from tumorlens.files import claim, csv_text, write_image, write_manifest, write_text
from tumorlens.labels import KNOWN_CLASSES
from tumorlens.phantom.anatomy import Array, Ripples, draw_view, load_template
from tumorlens.phantom.head import Person, paint_head, survey
from tumorlens.phantom.lesions import draw_lesion
from tumorlens.phantom.notice import NOTICE
from tumorlens.progress import Progress, silent
from tumorlens.settings import PhantomSettings, primitives

LARGEST = 1024  # pixels: above, nothing is gained


@dataclass(frozen=True, eq=False)
class PhantomSlice:
    """One made-up slice."""

    label: str  # one of `labels.KNOWN_CLASSES`
    plane: str  # "axial", "coronal" or "sagittal"
    offset: float  # mm along the slice's normal from the sella
    image: npt.NDArray[np.uint8]  # (size, size) uint8
    # (size, size) bool, the tumor's core: what takes up contrast agent and the dead or fluid parts
    # that it encloses. Swelling (oedema) and dural tail do not count, as in the boxes of the public
    # data set. Empty for notumor.
    mask: npt.NDArray[np.bool_]
    # (size, size) uint8, the same slice of the same head with the same noise, without the tumor;
    # None where it was not asked for
    duplicate: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class PhantomSummary:
    """What `make_phantom` wrote: `images[split][label]` is how many."""

    out: Path
    size: int
    seed: int
    images: dict[str, dict[str, int]]


def phantom_slice(
    seed: int | Sequence[int], label: str, size: int = 224, *, duplicate: bool = True
) -> PhantomSlice:
    """Make one slice; everything but the tumor depends on `seed` and `size` alone.

    Args:
        seed: a non-negative number or several.
        label: one of `labels.KNOWN_CLASSES`.
        size: side of the image, pixels; the same head in the same frame at any size.
        duplicate: also make the slice without its tumor.

    Raises:
        TumorlensError: the template is missing.
    """
    template = load_template()
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    view = draw_view(streams[0], size)
    person = Person(streams[1])
    scanner = _Scanner(streams[2], size)
    tissue = survey(template, person, view.points)
    lesion = draw_lesion(streams[3], label, view, tissue)

    def healthy() -> npt.NDArray[np.uint8]:
        return scanner.image(paint_head(template, person, view.points, tissue), view.points)

    if lesion is None:
        image = healthy()
        empty = np.zeros(image.shape, dtype=bool)
        return PhantomSlice(label, view.plane, view.offset, image, empty, image)
    without = healthy() if duplicate else None
    along, down = lesion.push
    pushed = (
        view.points
        + view.across[:, None, None] * along[None]
        + view.down[:, None, None] * down[None]
    )
    displaced = paint_head(template, person, pushed, survey(template, person, pushed))
    image = scanner.image(lesion.laid_into(displaced), view.points)
    return PhantomSlice(label, view.plane, view.offset, image, lesion.core > 0.5, without)


class _Scanner:
    """How a signal becomes an image; drawn without knowing the class."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        noise = rng.uniform(0.006, 0.022) * rng.standard_normal((2, size, size), dtype=np.float32)
        self.noise = noise.astype(np.float32)  # real and imaginary
        self.bias = Ripples(rng, 260, 5)
        self.shading = rng.uniform(0.03, 0.15)
        self.blur = rng.uniform(0.5, 0.85) * size / 224  # pixels
        self.gain = rng.uniform(0.8, 1.05)
        self.gamma = rng.uniform(0.9, 1.1)

    def image(self, signal: Array, points: Array) -> npt.NDArray[np.uint8]:
        """Coil shading, the point spread, Rician noise (Gudbjartsson and Patz 1995), window."""
        seen = signal * np.exp(self.shading * self.bias(points))
        seen = ndimage.gaussian_filter(seen, self.blur, truncate=3)
        seen = np.hypot(seen + self.noise[0], self.noise[1])
        shown = np.clip(self.gain * seen, 0, 1) ** self.gamma
        return np.asarray(np.rint(shown * 255), dtype=np.uint8)


def phantom(settings: PhantomSettings, progress: Progress = silent) -> PhantomSummary:
    """Write a phantom data set; the same settings write the same bytes.

    Layout: `SPLIT/CLASS/CLASS-NUMBER.png` (8-bit grey), `masks/SPLIT/CLASS/...` (0 and 255, tumor
    images only), `boxes.csv` (path, label, box_x0, box_y0, box_x1, box_y1: fractions of width and
    height around the mask, empty without a tumor), `NOTICE.txt` (the template's), and a manifest.
    An image depends on its split, class, number and the seed, not on how many there are. Images of
    these names from an earlier, larger run are removed.

    Raises:
        TumorlensError: a folder of something else, or a size out of range.
    """
    out, size, seed = settings.out, settings.size, settings.seed
    if size > LARGEST:
        raise TumorlensError(f"--size {size}: expected at most {LARGEST} pixels.")
    claim(out, "phantom")
    counts = {"train": settings.train, "valid": settings.valid, "test": settings.test}
    tasks = [
        (f"{split}/{label}/{label}-{number:04d}.png", label, (seed, s, c, number))
        for s, (split, count) in enumerate(counts.items())
        for c, label in enumerate(KNOWN_CLASSES)
        for number in range(count)
    ]
    for split, count in counts.items():
        _clear(out, split, count)
    from joblib import cpu_count  # noqa: PLC0415 (a tenth of a second)

    load_template()
    boxes: list[list[str]] = []
    # Threads: nearly all the time is spent in numpy and scipy, which let go of the interpreter.
    with ThreadPoolExecutor(cpu_count()) as pool:
        for done, row in enumerate(pool.map(lambda task: _write(out, size, *task), tasks), 1):
            boxes.append(row)
            progress("phantom", done, len(tasks))
    header = ["path", "label", "box_x0", "box_y0", "box_x1", "box_y1"]
    write_text(out / "boxes.csv", csv_text(header, boxes))
    write_text(out / "NOTICE.txt", NOTICE)
    write_manifest(out, "phantom", settings=primitives(settings), seed=seed)
    images = {split: dict.fromkeys(KNOWN_CLASSES, count) for split, count in counts.items()}
    return PhantomSummary(out, size, seed, images)


def _clear(out: Path, split: str, count: int) -> None:
    for label in KNOWN_CLASSES:
        kept = {f"{label}-{number:04d}.png" for number in range(count)}
        for folder in (out / split / label, out / "masks" / split / label):
            for path in folder.glob(f"{label}-*.png"):
                if path.name not in kept:
                    path.unlink()


def _write(out: Path, size: int, path: str, label: str, seed: tuple[int, ...]) -> list[str]:
    made = phantom_slice(seed, label, size, duplicate=False)
    write_image(out / path, made.image)
    if not made.mask.any():
        return [path, label, "", "", "", ""]
    write_image(out / "masks" / path, made.mask.astype(np.uint8) * np.uint8(255))
    rows, columns = np.nonzero(made.mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [path, label, *(f"{edge / size:.4f}" for edge in box)]
