"""Answers as HTML with the pictures inside: nothing of a slice becomes a file."""

import base64
import html
import io
from collections.abc import Sequence
from importlib import resources

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from tumorlens.data.readers import resize
from tumorlens.explain.overlay import COLOURS, full_heat, on_image
from tumorlens.web.answers import Answer

# The longer side of what is shown, pixels: sharp on a phone, a few tens of kilobytes.
_SHOWN = 384

NOTICE = "For research. This is not a medical device, and nothing it says is a diagnosis."


def answer_html(
    picture: npt.NDArray[np.uint8], answers: Sequence[Answer], source: str, shown: int
) -> str:
    """One card a network: decision, probabilities, the slice with its maps laid over it.

    Maps of one class share one scale over all networks: from 0 to `full_heat` of them.

    Args:
        picture: (H, W) uint8.
        answers: one a network.
        source: what the slice is, in words.
        shown: index of the class whose map is shown first.
    """
    grey = _shown(picture)
    height, width = grey.shape
    base = _png(grey)
    placed = [
        [on_image(one.maps[index], height, width, one.size) for index in _range(answers)]
        for one in answers
    ]
    hottest = [full_heat(of_class) for of_class in zip(*placed, strict=True)]
    cards = []
    for one, maps in zip(answers, placed, strict=True):
        layers = [
            f'<img class="tl-map" data-class="{index}" alt="" '
            f'src="{_heat(maps[index], hottest[index])}">'
            for index in _range(answers)
        ]
        scales = [
            f'<span class="tl-scale" data-class="{index}">Grad-CAM for {html.escape(name)}: colour '
            f"from 0 to {hottest[index]:.2g} (99th percentile), highest here "
            f"{float(one.maps[index].max()):.2g}</span>"
            for index, name in enumerate(one.rule.classes)
        ]
        cards.append(
            f'<section class="tl-card"><h3>{html.escape(one.name)}</h3>{_verdict(one)}{_bars(one)}'
            f'<div class="tl-frame"><img class="tl-slice" src="{base}" width="{width}" '
            f'height="{height}" alt="the slice">{"".join(layers)}</div>'
            f'<p class="tl-soft">{"".join(scales)}</p></section>'
        )
    return (
        f'<div class="tl-answer" data-shown="{shown}"><p class="tl-soft">{html.escape(source)}</p>'
        f'<div class="tl-cards">{"".join(cards)}</div></div>'
    )


def fault_html(sentence: str) -> str:
    """A sentence in the place of an answer."""
    return f'<div class="tl-fault" role="alert">{html.escape(sentence)}</div>'


def style(classes: int) -> str:
    """The page's CSS; system fonts, no resource."""
    shown = "".join(
        f'.tl-answer[data-shown="{index}"] .tl-map[data-class="{index}"]'
        "{opacity:var(--tl-opacity,.6)}"
        f'.tl-answer[data-shown="{index}"] .tl-scale[data-class="{index}"]{{display:inline}}'
        for index in range(classes)
    )
    sheet = resources.files("tumorlens.web").joinpath("page.css").read_text("utf-8")
    return sheet + shown


def _range(answers: Sequence[Answer]) -> range:
    return range(len(answers[0].rule.classes))


def _shown(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = picture.shape
    scale = _SHOWN / max(height, width)
    return resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def _verdict(answer: Answer) -> str:
    name = html.escape(answer.decided.prediction)
    top = float(answer.decided.probabilities.max())
    threshold = answer.rule.threshold
    why = html.escape(answer.rule.why(answer.decided))
    if answer.decided.decision == "not calibrated" or threshold is None:
        said = f"{name} <small>no threshold in this checkpoint: how sure is not calibrated</small>"
        return f'<p class="tl-decision">{said}</p>'
    if answer.decided.decision == "out of distribution":
        said = f"{why}; the network would say {name}"
        return f'<p class="tl-decision tl-unsure">out of distribution <small>{said}</small></p>'
    if answer.decided.decision == "uncertain":
        return f'<p class="tl-decision tl-unsure">uncertain <small>{why}</small></p>'
    said = f"{top:.2f}, threshold {threshold:.2f}"
    return f'<p class="tl-decision">{name} <small>{said}</small></p>'


def _bars(answer: Answer) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td class="tl-number">{value:.3f}</td>'
        f'<td class="tl-bar"><span style="width:{100 * value:.1f}%"></span></td></tr>'
        for name, value in zip(
            answer.rule.classes, answer.decided.probabilities.tolist(), strict=True
        )
    )
    kind = "calibrated" if answer.rule.temperature is not None else "not calibrated"
    return f"<table><caption>class probabilities, {kind}</caption>{rows}</table>"


def _heat(relevance: npt.NDArray[np.float64], hottest: float) -> str:
    heat = np.clip(relevance / hottest, 0, 1) if hottest > 0 else np.zeros_like(relevance)
    colours = colormaps[COLOURS](0.15 + 0.85 * heat)
    colours[..., 3] = heat  # the hotter, the more opaque; the slider scales it
    # A third of the slice's size is finer than any map, and a browser smooths it.
    drawn = Image.fromarray(np.rint(255 * colours).astype(np.uint8), "RGBA")
    small = (max(1, drawn.width // 3), max(1, drawn.height // 3))
    return _encoded(drawn.resize(small, Image.Resampling.BOX))


def _png(grey: npt.NDArray[np.uint8]) -> str:
    return _encoded(Image.fromarray(grey))


def _encoded(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
