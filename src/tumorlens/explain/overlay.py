"""Relevance laid over the image it explains, with its scale drawn. No torch."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tumorlens.data.readers import placement
from tumorlens.explain.regions import Outline

Floats = npt.NDArray[np.float64]
COLOURS = "inferno"
# The most opaque a map gets: anatomy stays visible under its hottest place.
OPACITY = 0.65
_RIGHT, _WRONG = "#0072B2", "#D55E00"
_STRIDES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Explained:
    """One network's view of an image.

    Attributes:
        name: of the network.
        map: (h, w) relevance >= 0 over the network's square input.
        size: side of that input, pixels.
        target: class that the map explains.
        prediction: class with the highest probability.
        probability: of the prediction, 0..1, calibrated where the checkpoint has a temperature.
        target_probability: of the target, likewise.
    """

    name: str
    map: npt.NDArray[np.float32]
    size: int
    target: str
    prediction: str
    probability: float
    target_probability: float


@dataclass(frozen=True)
class Tile:
    """An image and what one or two networks saw in it.

    Attributes:
        grey: (H, W) uint8, the image in its own proportions.
        path: where it comes from, for the caption.
        label: true class; None where nobody says.
        views: one a network.
        outline: of its tumor, drawn where it is known.
    """

    grey: npt.NDArray[np.uint8]
    path: str
    label: str | None
    views: tuple[Explained, ...]
    outline: Outline | None = None


def on_image(relevance: npt.NDArray[np.float32], height: int, width: int, size: int) -> Floats:
    """Bring a map over the square input to the image's own frame.

    Bilinear between the centres of the map's cells. In a network of odd kernels with padding on
    both sides, cell i of a layer of stride s is centred on pixel s i of the input, not, as plain
    resizing has it, on the middle of the i-th of h equal parts: at stride 32 that would be 15.5
    pixels too far down and right. Beyond the last centre the last value goes on.

    Args:
        relevance: (h, w) over the square that `readers.fit_square` made.
        height, width: of the image, pixels.
        size: side of the square, pixels.

    Returns:
        (height, width), same scale as `relevance`; what lies on padding is left out.
    """
    place = placement(height, width, size)
    rows = _interpolation(height, place.top, place.height, size, relevance.shape[0])
    columns = _interpolation(width, place.left, place.width, size, relevance.shape[1])
    placed: Floats = rows @ relevance.astype(np.float64) @ columns.T
    return placed


def _interpolation(pixels: int, start: int, length: int, size: int, cells: int) -> Floats:
    """(pixels, cells) weights, rows sum to 1; the image is `length` of `size`, from `start`."""
    in_square = start + (np.arange(pixels) + 0.5) * length / pixels - 0.5
    strides = (stride for stride in _STRIDES if math.ceil(size / stride) == cells)
    stride = next(strides, None)
    at = in_square / stride if stride else (in_square + 0.5) * cells / size - 0.5
    at = np.clip(at, 0, cells - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells)))


def full_heat(maps: Iterable[Floats]) -> float:
    """The value drawn hottest: the 99th percentile of an image's map, the highest of several.

    A map of an early layer has a few pixels of ten times the rest. Scaled to those, it would be
    drawn as no map at all.

    Args:
        maps: (H, W) each, on the image.

    Returns:
        The value; where 99% of every map are 0, the highest value there is.
    """
    placed = list(maps)
    return max(float(np.percentile(one, 99)) for one in placed) or max(
        float(one.max()) for one in placed
    )


def blend(grey: npt.NDArray[np.uint8], relevance: Floats, hottest: float) -> npt.NDArray[np.uint8]:
    """Colour over grey: the hotter, the more opaque.

    Args:
        grey: (H, W) uint8.
        relevance: (H, W) >= 0.
        hottest: the value that gets the hottest colour and `OPACITY`, as all above it; 0: nothing
            is coloured.

    Returns:
        (H, W, 3) uint8.
    """
    heat = np.clip(relevance / hottest, 0, 1) if hottest > 0 else np.zeros_like(relevance)
    return np.rint(255 * _mixed(grey / 255, heat)).astype(np.uint8)


def _mixed(grey: Floats, heat: Floats) -> Floats:
    # The map's darkest colours are black and would read as anatomy: start above them.
    colour = colormaps[COLOURS](0.15 + 0.85 * heat)[..., :3]
    opacity = (OPACITY * heat)[..., None]
    mixed: Floats = grey[..., None] * (1 - opacity) + colour * opacity
    return mixed


def panel(tiles: Sequence[Tile], title: str) -> Figure:
    """Each image beside its heat map or maps, with what was said and what is true.

    The maps of one image are drawn on one scale, from 0 to `full_heat` of them. A map's own
    highest value is written under it.

    Args:
        tiles: 1 or more, all with the same number of views.
        title: above all.
    """
    views = len(tiles[0].views)
    across = 1 + views
    tiles_a_row = max(1, min(4 if views == 1 else 2, len(tiles)))
    rows = math.ceil(len(tiles) / tiles_a_row)
    figure = Figure(
        figsize=(max(5.2, 1.75 * across * tiles_a_row + 0.9), 2.2 * rows + 0.7),
        layout="constrained",
    )
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), fontsize=10)
    axes = figure.subplots(rows, across * tiles_a_row, squeeze=False)
    for one in axes.ravel():
        one.set_axis_off()
    for number, tile in enumerate(tiles):
        row, first = number // tiles_a_row, (number % tiles_a_row) * across
        _draw(axes[row, first : first + across], tile)
    heat_scale(figure, axes)
    return figure


def heat_scale(figure: Figure, axes: npt.NDArray[np.object_]) -> None:
    """Draw the colours of `blend`, as they are over grey, beside `axes`."""
    shades = np.linspace(0, 1, 256)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), ListedColormap(_mixed(np.full(256, 0.3), shades))),
        ax=axes,
        fraction=0.015,
        pad=0.01,
        extend="max",
    )
    bar.set_label("relevance; 1: the 99th percentile\nof the image's map", fontsize=7)


def _draw(axes: npt.NDArray[np.object_], tile: Tile) -> None:
    height, width = tile.grey.shape
    axes[0].imshow(tile.grey, cmap="gray", vmin=0, vmax=255)
    axes[0].set_title("no label given" if tile.label is None else f"true: {tile.label}", fontsize=8)
    axes[0].text(
        0.5,
        -0.06,
        _short(tile.path),
        transform=axes[0].transAxes,
        ha="center",
        va="top",
        fontsize=6,
        color="#666666",
    )
    placed = [on_image(view.map, height, width, view.size) for view in tile.views]
    hottest = full_heat(placed)
    for one, view, heat in zip(axes[1:], tile.views, placed, strict=True):
        one.imshow(blend(tile.grey, heat, hottest))
        said = f"{view.prediction} {view.probability:.2f}"
        if tile.label is None:
            decision, colour = f"said: {said}", "black"
        elif view.prediction == tile.label:
            decision, colour = f"right: {said}", _RIGHT
        else:
            decision, colour = f"WRONG: {said}", _WRONG
        name = f"{view.name}\n" if len(tile.views) > 1 else ""
        one.set_title(name + decision, fontsize=8, color=colour)
        one.text(
            0.5,
            -0.06,
            f"for {view.target} (p = {view.target_probability:.2f}), highest {view.map.max():.2g}",
            transform=one.transAxes,
            ha="center",
            va="top",
            fontsize=6,
            color="#666666",
        )
        # Right and wrong are told apart by the frame's stroke too, not by colour alone. It stays
        # off the image: maps are hot at its edge at times.
        frame = Rectangle(
            (-0.02, -0.02),
            1.04,
            1.04,
            transform=one.transAxes,
            fill=False,
            edgecolor=colour,
            linewidth=1.6,
            linestyle="--" if decision.startswith("WRONG") else "-",
            clip_on=False,
        )
        one.add_patch(frame)
    if tile.outline is not None:
        for one in axes:
            tile.outline.draw(one, height, width)


def _short(path: str, length: int = 30) -> str:
    return path if len(path) <= length else "..." + path[-(length - 3) :]
