import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import Estimate
from tumorlens.explain.compare_looks import compare, sentence
from tumorlens.explain.localization import SIZES, Localization, localize

COUNTS = {"train": 1, "valid": 6, "test": 9}


def _localize(checkpoint: Checkpoint, root: Path, **more: object) -> Localization:
    settings = {"layer": "layer2", "method": "gradcam", "resamples": 200, "data_dir": root} | more
    return localize(checkpoint, root / "boxes.csv", **settings)


def test_network_that_sees_brightness_finds_bright_tumors(
    bright: Checkpoint, heads: Callable[..., Path]
) -> None:
    found = _localize(bright, heads(COUNTS))
    figures = found.figures["network"]["all"]
    assert found.figures["part"] == "test"
    assert (found.figures["images"], found.figures["images_with_box"]) == (18, 9)
    assert figures["pointing_game"] == {
        "value": 1.0,
        "low": pytest.approx(0.664, abs=1e-3),  # Clopper-Pearson, 9 of 9
        "high": 1.0,
        "n": 9,
    }
    assert figures["energy_over_chance"]["value"] > 2
    assert figures["energy_in_box"]["low"] > figures["box_area_share"]["high"]
    assert figures["iou"]["value"] > 0.4
    assert found.figures["iou_threshold"]["chosen_on"] == "the 6 validation images with a box"
    assert figures["average_precision"]["value"] > 0.7
    centre = found.figures["centre"]["all"]
    assert centre["average_precision"]["value"] < figures["average_precision"]["value"]
    assert centre["box_area_share"] == figures["box_area_share"]
    json.dumps([found.figures, found.rows], allow_nan=False)


def test_rows_hold_the_figures_that_are_averaged(
    bright: Checkpoint, heads: Callable[..., Path]
) -> None:
    found = _localize(bright, heads(COUNTS))
    boxed = [row for row in found.rows if row["box_area_share"] is not None]
    assert [row["label"] for row in boxed] == ["glioma"] * 9
    mean = np.mean([row["energy_in_box"] for row in boxed])
    assert found.figures["network"]["all"]["energy_in_box"]["value"] == pytest.approx(mean)
    ratio = mean / np.mean([row["box_area_share"] for row in boxed])
    assert found.figures["network"]["all"]["energy_over_chance"]["value"] == pytest.approx(ratio)
    areas = {
        size: [row["box_area_share"] for row in boxed if row["size"] == size] for size in SIZES
    }
    assert max(areas["small"]) < min(areas["medium"]) <= max(areas["medium"]) < min(areas["large"])
    subsets = found.figures["network"]
    assert subsets["right"]["energy_in_box"]["n"] == sum(row["right"] for row in boxed)
    looking = found.figures["looking"]
    assert looking["all"]["outside_head"]["n"] == 18
    assert looking["glioma"]["skull"]["n"] == 9
    gap = looking["glioma"]["entropy"]["value"] - looking["notumor"]["entropy"]["value"]
    assert looking["glioma minus the others"]["entropy"]["value"] == pytest.approx(gap)


def test_network_that_looks_astray_is_told_from_one_that_looks_at_the_tumor(
    bright: Checkpoint, dark: Checkpoint, heads: Callable[..., Path]
) -> None:
    root = heads(COUNTS)
    one, other = _localize(bright, root), _localize(dark, root)
    figures = other.figures["network"]["all"]
    assert figures["energy_in_box"]["high"] < figures["box_area_share"]["low"]
    gap = compare(one, other, resamples=200)
    fit = gap["localization"]["all"]
    expected = (
        figures["energy_in_box"]["value"] - one.figures["network"]["all"]["energy_in_box"]["value"]
    )
    assert fit["energy_in_box"]["value"] == pytest.approx(expected)
    assert fit["energy_in_box"]["high"] < 0
    ratio = "energy_over_chance"
    expected = figures[ratio]["value"] - one.figures["network"]["all"][ratio]["value"]
    assert fit[ratio]["value"] == pytest.approx(expected)
    assert gap["looking"]["all"]["outside_head"]["low"] > 0
    assert gap["n"] == 9
    # both are called resnet18
    assert gap["sentence"].startswith(
        "The second ResNet18 does not localise better than the first ResNet18; it localises worse"
    )
    itself = compare(one, one, resamples=100)["localization"]["all"]["energy_in_box"]
    assert (itself["value"], itself["low"], itself["high"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "gain", "words"),
    [
        ("resnet18", "se_resnet18", (0.2, 0.1, 0.3), "SE-ResNet18 does localise better than Res"),
        ("se_resnet18", "resnet18", (0.2, 0.1, 0.3), "SE-ResNet18 does not localise better than R"),
        ("se_resnet18", "resnet18", (-0.2, -0.3, -0.1), "does localise better than ResNet18 (ener"),
        ("resnet18", "se_resnet18", (0.2, -0.1, 0.3), "does not localise better than ResNet18 (e"),
        ("resnet18", "se_resnet18", (-0.2, -0.3, -0.1), "does not localise better than ResNet18;"),
    ],
)
def test_sentence_follows_the_interval_whatever_the_order(
    first: str, second: str, gain: tuple[float, float, float], words: str
) -> None:
    told = sentence(first, second, Estimate(*gain, 40))
    assert words in told
    assert told.startswith("SE-ResNet18 ")
    assert "n = 40" in told


def test_threshold_is_never_chosen_on_the_images_scored(
    bright: Checkpoint, heads: Callable[..., Path]
) -> None:
    root = heads(COUNTS, boxed=("test",))
    found = _localize(bright, root)
    assert found.figures["iou_threshold"]["network"] is None
    assert "no validation image has a box" in found.figures["iou_threshold"]["chosen_on"]
    assert "iou" not in found.figures["network"]["all"]
    with pytest.raises(TumorlensError, match=r"none of the 12 valid images in .* has a box"):
        _localize(bright, root, split="valid")


def test_validation_images_are_measured_without_a_threshold_of_their_own(
    bright: Checkpoint, heads: Callable[..., Path]
) -> None:
    found = _localize(bright, heads(COUNTS), split="valid")
    assert "iou" not in found.figures["network"]["all"]
    assert "those scored" in found.figures["iou_threshold"]["chosen_on"]


def test_larger_maps_have_more_cells_and_leave_the_answers_alone(
    bright: Checkpoint, heads: Callable[..., Path]
) -> None:
    root = heads({"train": 1, "valid": 2, "test": 3})
    own, larger = (_localize(bright, root, layer="layer4", map_size=size) for size in (None, 128))
    assert own.maps.shape[1:] == (2, 2)
    assert larger.maps.shape[1:] == (4, 4)
    name = "probability_of_label"
    assert [row[name] for row in own.rows] == [row[name] for row in larger.rows]
