"""The edge of a tumor, drawn over its picture."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tumorlens.explain.regions import Box, Boxes

_COLOUR, _WIDTH = "#56B4E9", 1.1


@dataclass(frozen=True)
class Outline:
    """Where a tumor is, as somebody drew it.

    Attributes:
        boxes: left, top, right, bottom each, as fractions of width and height.
        mask: (H, W) 0..1, drawn instead of the boxes; None: there are boxes alone.
    """

    boxes: tuple[Box, ...]
    mask: npt.NDArray[np.float64] | None

    @property
    def word(self) -> str:
        """What it is called: "box" or "outline"."""
        return "box" if self.mask is None else "outline"

    def draw(self, axes: Axes, height: int, width: int) -> None:
        """Over a picture of (height, width) pixels."""
        if self.mask is not None:
            axes.contour(self.mask, levels=[0.5], colors=_COLOUR, linewidths=_WIDTH)
            return
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


def outline_of(boxes: Boxes, path: str, height: int, width: int) -> Outline | None:
    """That of an image of (height, width) pixels; None where `boxes` has none."""
    if path not in boxes:
        return None
    if boxes.masks:
        return Outline((), boxes.region(path, height, width))
    return Outline(boxes.outlines(path), None)
