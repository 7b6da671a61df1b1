"""Maps laid over the images that they explain, with their scale drawn. No torch."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
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
_RIGHT, _WRONG, _GREY = "#0072B2", "#D55E00", "#555555"
_STRIDES = (1, 2, 4, 8, 16, 32, 64)
# Points, and how many letters of them fit above or below an image.
_FONT, _LETTERS = 9, 27


@dataclass(frozen=True, eq=False)
class Explained:
    """One network's map of an image."""

    name: str  # of the network
    map: npt.NDArray[np.float32]  # (h, w) relevance >= 0 over the network's square input
    size: int  # side of that input, pixels
    target: str  # class that the map explains
    prediction: str  # class with the highest probability
    probability: float  # of the prediction, 0..1, calibrated where the checkpoint has a temperature
    target_probability: float  # of the target, likewise
    note: str = ""  # below the map, instead of the target


@dataclass(frozen=True, eq=False)
class Tile:
    """An image and the maps of one or two networks."""

    grey: npt.NDArray[np.uint8]  # (H, W) uint8, the image in its own proportions
    path: str  # where it comes from, for the caption
    label: str | None  # true class; None: not known
    views: tuple[Explained, ...]  # one a network
    outline: Outline | None = None  # of its tumor, drawn where it is known

    def placed(self) -> tuple[list[Floats], float]:
        """Each map on the image, (H, W), and the value drawn hottest in all of them."""
        height, width = self.grey.shape
        maps = [on_image(view.map, height, width, view.size) for view in self.views]
        return maps, full_heat(maps)


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
    drawn as no map at all. Where 99% of every map are 0, it is the highest value there is.
    """
    placed = list(maps)
    return max(float(np.percentile(one, 99)) for one in placed) or max(
        float(one.max()) for one in placed
    )


def blend(grey: npt.NDArray[np.uint8], relevance: Floats, hottest: float) -> npt.NDArray[np.uint8]:
    """Colour over grey, (H, W, 3) uint8: the hotter, the more opaque.

    What is `hottest` or above gets the hottest colour and `OPACITY`; with 0 nothing is coloured.
    """
    heat = np.clip(relevance / hottest, 0, 1) if hottest > 0 else np.zeros_like(relevance)
    return np.rint(255 * _mixed(grey / 255, heat)).astype(np.uint8)


def _mixed(grey: Floats, heat: Floats) -> Floats:
    # The map's darkest colours are black and would read as anatomy: start above them.
    colour = colormaps[COLOURS](0.15 + 0.85 * heat)[..., :3]
    opacity = (OPACITY * heat)[..., None]
    mixed: Floats = grey[..., None] * (1 - opacity) + colour * opacity
    return mixed


def tiles_a_row(views: int) -> int:
    """How many tiles of so many maps stand side by side."""
    return math.ceil(8 / (1 + views))


def panel(tiles: Sequence[Tile], title: str) -> Figure:
    """Images beside their maps, in rows; see `gallery`."""
    across = tiles_a_row(len(tiles[0].views))
    starts = range(0, len(tiles), across)
    return _grid([("", tiles[start : start + across]) for start in starts], title)


def gallery(rows: Mapping[str, Sequence[Tile]], title: str) -> Figure:
    """Images beside their maps, with prediction and true class.

    The maps of one image are drawn on one scale, from 0 to `full_heat` of them.

    All tiles have the same number of views; empty rows are left out.
    """
    return _grid([(name, tiles) for name, tiles in rows.items() if tiles], title)


def _grid(rows: Sequence[tuple[str, Sequence[Tile]]], title: str) -> Figure:
    across = 1 + len(rows[0][1][0].views)
    columns = across * max(len(tiles) for _, tiles in rows)
    views = [view for _, tiles in rows for tile in tiles for view in tile.views]
    # Long names take more lines: of the network, its prediction and the class of the map.
    longest = max(len(name) for view in views for name in (view.name, view.prediction, view.target))
    height = 2.75 + 0.5 * (longest // _LETTERS)
    figure = Figure(
        figsize=(max(6.0, 2.1 * columns + 1.3), height * len(rows) + 0.6), layout="constrained"
    )
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())), fontsize=12)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for (name, tiles), line in zip(rows, grid, strict=True):
        line[0].text(
            *(-0.1, 0.5, name),
            rotation=90,
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=11,
            fontweight="bold",
        )
        for number, tile in enumerate(tiles):
            _draw(line[number * across : (number + 1) * across], tile)
    _heat_scale(figure, grid)
    return figure


def _heat_scale(figure: Figure, axes: npt.NDArray[np.object_]) -> None:
    """Draw the colours of `blend`, as they are over grey, beside `axes`."""
    shades = _mixed(np.full(256, 0.3), np.linspace(0, 1, 256))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), ListedColormap(shades)),
        ax=axes,
        aspect=30,
        fraction=0.02,
        pad=0.01,
        extend="max",
    )
    bar.set_label("relevance / 99th percentile\nof the image's maps", fontsize=_FONT)
    bar.ax.tick_params(labelsize=_FONT)


def _draw(axes: npt.NDArray[np.object_], tile: Tile) -> None:
    axes[0].imshow(tile.grey, cmap="gray", vmin=0, vmax=255)
    _caption(
        axes[0],
        "no label given" if tile.label is None else f"true: {tile.label}",
        tile.path if len(tile.path) <= _LETTERS else "..." + tile.path[3 - _LETTERS :],
    )
    placed, hottest = tile.placed()
    for one, view, heat in zip(axes[1:], tile.views, placed, strict=True):
        one.imshow(blend(tile.grey, heat, hottest))
        decision, colour = "predicted", "black"
        if tile.label is not None:
            right = view.prediction == tile.label
            decision, colour = ("right", _RIGHT) if right else ("WRONG", _WRONG)
        name = f"{textwrap.fill(view.name, _LETTERS)}\n" if len(tile.views) > 1 else ""
        target = f"map of {view.target}, p {view.target_probability:.2f}"
        note = view.note or f"{target}\nmaximum {view.map.max():.2g}"
        above = f"{decision}: {view.prediction} {view.probability:.2f}"
        _caption(one, name + textwrap.fill(above, _LETTERS), note, colour)
        # Right and wrong differ by the frame's stroke too, not by colour alone. It stays off the
        # image: maps are hot at its edge at times.
        frame = Rectangle(
            *((-0.02, -0.02), 1.04, 1.04),
            transform=one.transAxes,
            fill=False,
            edgecolor=colour,
            linewidth=1.6,
            linestyle="--" if decision == "WRONG" else "-",
            clip_on=False,
        )
        one.add_patch(frame)
    if tile.outline is not None:
        for one in axes:
            tile.outline.draw(one, *tile.grey.shape)


def _caption(axes: Axes, above: str, below: str, colour: str = "black") -> None:
    axes.set_title(above, fontsize=_FONT, color=colour)
    axes.text(
        *(0.5, -0.05, "\n".join(textwrap.fill(line, _LETTERS) for line in below.split("\n"))),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=_FONT,
        color=_GREY,
    )
