"""The page and its results as HTML; images are inside, so that no slice becomes a file."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from tumorlens.data.readers import resize
from tumorlens.explain.overlay import COLOURS, full_heat, on_image
from tumorlens.web.predictor import Predictor, SlicePrediction
from tumorlens.web.uploads import Limits

STATIC = Path(__file__).parent / "static"
# The longer side of a slice on the page, pixels: sharp on a phone, a few tens of kilobytes.
_SHOWN = 384

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def page(predictor: Predictor, limits: Limits, root_path: str) -> str:
    """The page before a slice is chosen."""
    return _environment.get_template("page.html").render(
        names=predictor.names,
        classes=predictor.classes,
        examples=sorted(path.stem for path in (STATIC / "examples").glob("*.png")),
        max_mb=f"{limits.bytes / 1e6:g}",
        max_bytes=limits.bytes,
        root=root_path,
    )


def result(
    image: npt.NDArray[np.uint8],
    predictions: Sequence[SlicePrediction],
    method: str,
    **facts: Any,
) -> str:
    """A slice beside the maps of each network, with decision and probabilities.

    Maps of one class share one scale over all networks: from 0 to `full_heat` of them.

    Args:
        image: (H, W) uint8.
        predictions: one a network.
        method: how the maps were made, in words.
        facts: `coverage` of the sets of classes, `kind` of the file, `number` of the slice,
            1-based, among `slices`, and the `token` of its volume, "" where it has one slice.
    """
    scale = _SHOWN / max(image.shape)
    grey = resize(image, *(max(1, round(side * scale)) for side in image.shape))
    height, width = grey.shape
    placed = [
        [on_image(one, height, width, prediction.size) for one in prediction.maps]
        for prediction in predictions
    ]
    hottest = [full_heat(of_class) for of_class in zip(*placed, strict=True)]
    networks = [
        {
            "prediction": prediction,
            "why": prediction.rule.why(prediction.decided),
            "maps": [
                {"class": name, "image": _heat(heat, full), "full": full, "highest": heat.max()}
                for name, heat, full in zip(prediction.rule.classes, maps, hottest, strict=True)
            ],
        }
        for prediction, maps in zip(predictions, placed, strict=True)
    ]
    return _environment.get_template("result.html").render(
        networks=networks,
        image=_encoded(Image.fromarray(grey)),
        shown=(width, height),
        size=(image.shape[1], image.shape[0]),
        bar=_heat(np.linspace(0, 1, 384)[None].repeat(3, axis=0), 1.0),
        best=int(predictions[0].decided.probabilities.argmax()),
        method=method,
        **facts,
    )


def _heat(relevance: npt.NDArray[np.float64], full: float) -> str:
    """Relevance as colours; the hotter, the more opaque, and the page's slider scales that."""
    heat = np.clip(relevance / full, 0, 1) if full > 0 else np.zeros_like(relevance)
    # The map's darkest colours are black and would read as anatomy: start above them.
    colours = colormaps[COLOURS](0.15 + 0.85 * heat)
    colours[..., 3] = heat
    drawn = Image.fromarray(np.rint(255 * colours).astype(np.uint8), "RGBA")
    # A third of the slice's size is finer than any map, and a browser smooths it.
    small = (max(1, drawn.width // 3), max(1, drawn.height // 3))
    return _encoded(drawn.resize(small, Image.Resampling.BOX))


def _encoded(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
