import json

import numpy as np
import pytest

from tumorlens.inference.onnx_metadata import ABOUT, NOTICE, SPACE, ExportedFile, NotOursError
from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.uncertainty.out_of_distribution import FeatureSpace


def _space() -> FeatureSpace:
    spread = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 4.0]])
    return FeatureSpace(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.5]]), spread, 1.75)


def _whole() -> ExportedFile:
    rule = DecisionRule(("glioma", "méningiome"), 1.5, 0.625, _space())
    return ExportedFile("se_resnet18", 48, 0.2, 0.3, rule, "int8", {"selected": {"epoch": 4}})


def test_everything_comes_back_as_it_was() -> None:
    whole = _whole()
    read = ExportedFile.from_metadata(whole.to_metadata())
    assert (read.name, read.image_size, read.mean, read.std) == ("se_resnet18", 48, 0.2, 0.3)
    assert (read.precision, read.facts) == ("int8", {"selected": {"epoch": 4}})
    assert read.rule.classes == ("glioma", "méningiome")
    assert (read.rule.temperature, read.rule.threshold) == (1.5, 0.625)
    space = read.rule.space
    assert space is not None
    assert space.threshold == 1.75
    np.testing.assert_array_equal(space.means, _space().means)
    np.testing.assert_array_equal(space.covariance, _space().covariance)


def test_a_checkpoint_without_calibration_says_so_in_nulls() -> None:
    plain = ExportedFile("resnet18", 32, 0.2, 0.3, DecisionRule(("a", "b")))
    metadata = plain.to_metadata()
    assert SPACE not in metadata
    assert json.loads(metadata[ABOUT])["temperature"] is None
    assert ExportedFile.from_metadata(metadata) == plain


def test_the_file_says_what_it_is_not_for() -> None:
    metadata = _whole().to_metadata()
    assert "Not a medical device" in metadata[NOTICE]
    assert "BILINEAR" in json.loads(metadata[ABOUT])["input"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({ABOUT: None}, "not one that `tumorlens export` wrote"),
        ({ABOUT: "{"}, "damaged metadata"),
        ({ABOUT: "[]"}, "damaged metadata"),
        ({ABOUT: '{"format": "other"}'}, "not one that `tumorlens export` wrote"),
        ({ABOUT: '{"format": "tumorlens-onnx", "schema": 3}'}, "schema 3.*reads schema 2"),
        ({SPACE: None}, "damaged metadata"),
        ({SPACE: '{"means": "%%%%", "covariance_lower": ""}'}, "damaged metadata"),
        ({SPACE: '{"means": "AAAA", "covariance_lower": "AAAA"}'}, "damaged metadata"),
    ],
)
def test_foreign_and_damaged_metadata_is_told(change: dict[str, str | None], words: str) -> None:
    metadata = _whole().to_metadata() | change
    given = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(NotOursError, match=words):
        ExportedFile.from_metadata(given)
