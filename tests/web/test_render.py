import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.web.predictor import SlicePrediction

IMAGE = np.full((96, 96), 128, np.uint8)
CLASSES = ("<b>bold</b>", "plain")


def _html(maps: np.ndarray, threshold: float | None = 0.9, **facts: Any) -> str:
    from tumorlens.web.render import result

    rule = DecisionRule(CLASSES, 1.0, threshold, least=facts.pop("least", None))
    decided = rule.decide(np.array([[0.0, 4.0]]), None)[0]
    prediction = SlicePrediction(
        "net", rule, decided, maps.astype(np.float32), 32, facts.pop("no_set", "")
    )
    facts = {"coverage": 0.95, "kind": "PNG image", "number": 1, "slices": 1, "token": "", **facts}
    return result(IMAGE, [prediction], "Grad-CAM at layer4", **facts)


def _images(html: str, kind: str) -> list[np.ndarray]:
    found = re.findall(rf'<img class="{kind}"[^>]* src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def test_map_is_clear_where_nothing_speaks_for_the_class_and_opaque_where_most_does() -> None:
    maps = np.zeros((2, 2, 2))
    maps[1, 0] = 1.0  # the upper half
    empty, upper = _images(_html(maps), "map")
    assert empty[..., 3].max() == 0
    assert upper[0, :, 3].min() == 255
    assert upper[-1, :, 3].max() == 0


def test_result_says_what_it_shows() -> None:
    maps = np.zeros((2, 2, 2))
    maps[1] = 0.25
    html = _html(maps)
    assert "Grad-CAM at layer4, for plain. Brightest colour: 99th percentile; highest" in html
    assert "Grad-CAM at layer4 finds no place that speaks for" in html
    assert "0.25 or more" in html
    assert "0.98 is at or above the threshold of 0.90" in html
    assert '<meter min="0" max="1" value="0.9820"' in html


def test_checkpoint_without_a_threshold_decides_nothing_and_says_so() -> None:
    html = _html(np.zeros((2, 2, 2)), None)
    assert "This checkpoint has no threshold for a decision." in html
    assert not re.search("confident|uncertain|out of distribution", html)


@pytest.mark.parametrize("where", ["kind", "token"])
def test_whatever_a_name_holds_it_is_text(where: str) -> None:
    html = _html(np.zeros((2, 2, 2)), **{where: '"><script>'})
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;bold" in html


def test_set_of_classes_is_shown_or_the_reason_why_there_is_none() -> None:
    html = _html(np.zeros((2, 2, 2)), no_set="it keeps no calibration scores.")
    assert "No set of classes: it keeps no calibration scores." in html
    html = _html(np.zeros((2, 2, 2)), least=(0.01, 0.5), coverage=0.8)
    assert "The set plain or &lt;b&gt;bold&lt;/b&gt; is of those that have the true class" in html
    assert "in at least 80% of the images of every class" in html
