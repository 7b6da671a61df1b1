"""Where the tumors are: boxes in a CSV, or masks in a folder; as regions, and as outlines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import SUFFIXES, read_grey, resize
from tumorlens.errors import TumorlensError, UnreadableImageError
from tumorlens.image_tables import ByPath, read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
_COLOUR, _WIDTH = "#56B4E9", 1.1
EDGES = ("box_x0", "box_y0", "box_x1", "box_y1")


@dataclass(frozen=True, eq=False)
class Outline:
    """Where a tumor is, as somebody drew it."""

    boxes: tuple[Box, ...]  # left, top, right, bottom each, as fractions of width and height
    # (H, W) 0..1, drawn instead of the boxes; None: there are boxes alone
    mask: npt.NDArray[np.float64] | None

    def draw(self, axes: "Axes", height: int, width: int) -> None:
        """Over an image of (height, width) pixels."""
        if self.mask is not None:
            axes.contour(self.mask, levels=[0.5], colors=_COLOUR, linewidths=_WIDTH)
            return
        from matplotlib.patches import Rectangle  # noqa: PLC0415 (read_boxes needs none)

        for x0, y0, x1, y1 in self.boxes:
            axes.add_patch(
                Rectangle(
                    (x0 * width - 0.5, y0 * height - 0.5),
                    (x1 - x0) * width,
                    (y1 - y0) * height,
                    fill=False,
                    edgecolor=_COLOUR,
                    linewidth=_WIDTH,
                )
            )


@dataclass(frozen=True)
class Boxes:
    """The annotated images of a data folder."""

    source: Path  # the CSV or the folder of masks
    # path, relative to the data folder, to its boxes: left, top, right, bottom as fractions of
    # width and height
    boxes: Mapping[str, tuple[Box, ...]]
    masks: Mapping[str, Path]  # path, relative to the data folder, to its mask's file

    def __contains__(self, path: str) -> bool:
        return path in self.boxes or Path(path).with_suffix("").as_posix() in self.masks

    def region(self, path: str, height: int, width: int) -> Floats:
        """(height, width) 0..1: how much of each pixel is tumor; a box's edge may divide a pixel.

        Raises:
            TumorlensError: a mask cannot be decoded, or shows nothing.
        """
        if path in self.boxes:
            covered = np.zeros((height, width))
            for x0, y0, x1, y1 in self.boxes[path]:
                rows, columns = _covered(height, y0, y1), _covered(width, x0, x1)
                covered = np.maximum(covered, rows[:, None] * columns)
            return covered
        file = self.masks[Path(path).with_suffix("").as_posix()]
        try:
            mask = read_grey(file, flat_ok=True)
        except UnreadableImageError as error:
            raise TumorlensError(f"--boxes {self.source}: {error}") from error
        tumor = np.where(mask > 127, np.uint8(255), np.uint8(0))
        region: Floats = resize(tumor, height, width) / 255
        if not region.any():
            raise TumorlensError(
                f"--boxes {self.source}: the mask {file.name} marks nothing; expected white (above "
                "127) where the tumor is, and no mask where there is none."
            )
        return region

    def outline(self, path: str, height: int, width: int) -> Outline | None:
        """To draw over an image of (height, width) pixels; None where there is none."""
        if path not in self:
            return None
        if self.masks:
            return Outline((), self.region(path, height, width))
        return Outline(self.boxes[path], None)


def _covered(pixels: int, low: float, high: float) -> Floats:
    """(pixels,) share of each pixel between two fractions of the side."""
    edges = np.arange(pixels + 1, dtype=np.float64)
    inside = np.clip(edges, low * pixels, high * pixels)
    return np.diff(inside)


def read_boxes(source: Path) -> Boxes:
    """Read a CSV with columns path, box_x0, box_y0, box_x1, box_y1, or a folder of masks.

    In a CSV, other columns are ignored, and rows without a box are left out; an image with several
    tumors has several rows. In a folder, masks lie as their images do in the data folder, white
    where the tumor is; the suffix may differ.

    Raises:
        TumorlensError: no such file, a column is missing, a value is no fraction, no box at all.
    """
    if not source.exists():
        raise TumorlensError(
            f"--boxes {source}: there is no such file; expected a CSV with columns path, "
            f"{', '.join(EDGES)}, or a folder of masks."
        )
    if source.is_dir():
        masks = ByPath(
            {
                path.relative_to(source).with_suffix("").as_posix(): path
                for path in sorted(source.rglob("*"))
                if path.suffix.lower() in SUFFIXES
            }
        )
        if not masks:
            raise TumorlensError(
                f"--boxes {source}: no mask in this folder; expected images named as those of the "
                "data folder, such as test/glioma/a.png."
            )
        return Boxes(source, {}, masks)
    rows, _columns = read_table(source, "--boxes", ("path", *EDGES), repeated=True)
    found: dict[str, tuple[Box, ...]] = {}
    for number, row in enumerate(rows, start=2):
        values = [row[edge] for edge in EDGES]
        if not any(values):
            continue
        box = _box(source, number, values)
        found[row["path"]] = (*found.get(row["path"], ()), box)
    if not found:
        raise TumorlensError(f"--boxes {source}: no row has a box; expected {', '.join(EDGES)}.")
    return Boxes(source, ByPath(found), {})


def _box(source: Path, number: int, values: list[str]) -> Box:
    try:
        x0, y0, x1, y1 = (float(value.replace(",", ".")) for value in values)
    except ValueError:
        x0 = y0 = x1 = y1 = float("nan")
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise TumorlensError(
            f"--boxes {source}: line {number} has the box {', '.join(values)}; expected fractions "
            "of width and height, 0 to 1, left before right and top before bottom."
        )
    return x0, y0, x1, y1
