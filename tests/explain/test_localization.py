import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session
from tumorlens.errors import TumorlensError
from tumorlens.explain import localization
from tumorlens.explain.gradcam import Way
from tumorlens.explain.localization import SIZES, Localization, localize
from tumorlens.explain.regions import read_boxes

Opener = Callable[..., Session]
COUNTS = {"train": 1, "valid": 6, "test": 9}


def _localize(session: Session, way: Way | None = None) -> Localization:
    boxes = read_boxes(session.data.root / "boxes.csv")
    return localize(session, boxes, way or Way("layer2", "gradcam"), resamples=200)


def test_network_that_sees_brightness_finds_bright_tumors(
    bright: Checkpoint, heads: Callable[..., Path], opened: Opener
) -> None:
    found = _localize(opened(bright, heads(COUNTS)))
    metrics = found.metrics["network"]["all"]
    assert found.metrics["split"] == "test"
    assert (found.metrics["images"], found.metrics["images_with_box"]) == (18, 9)
    assert metrics["pointing_game"] == {
        "value": 1.0,
        "low": pytest.approx(0.664, abs=1e-3),  # Clopper-Pearson, 9 of 9
        "high": 1.0,
        "n": 9,
    }
    assert metrics["energy_ratio"]["value"] > 2
    assert metrics["energy_pointing_game"]["low"] > metrics["box_area_share"]["high"]
    assert metrics["iou"]["value"] > 0.4
    assert found.metrics["iou_threshold"]["chosen_on"] == "the 6 validation images with a box"
    assert metrics["average_precision"]["value"] > 0.7
    centre = found.metrics["centre_prior"]["all"]
    assert centre["average_precision"]["value"] < metrics["average_precision"]["value"]
    assert centre["box_area_share"] == metrics["box_area_share"]
    json.dumps([found.metrics, found.rows], allow_nan=False)


def test_rows_hold_the_figures_that_are_averaged(
    bright: Checkpoint, heads: Callable[..., Path], opened: Opener
) -> None:
    found = _localize(opened(bright, heads(COUNTS)))
    boxed = [row for row in found.rows if row["box_area_share"] is not None]
    assert [row["label"] for row in boxed] == ["glioma"] * 9
    mean = np.mean([row["energy_pointing_game"] for row in boxed])
    assert found.metrics["network"]["all"]["energy_pointing_game"]["value"] == pytest.approx(mean)
    ratio = mean / np.mean([row["box_area_share"] for row in boxed])
    assert found.metrics["network"]["all"]["energy_ratio"]["value"] == pytest.approx(ratio)
    areas = {
        size: [row["box_area_share"] for row in boxed if row["size"] == size] for size in SIZES
    }
    assert max(areas["small"]) < min(areas["medium"]) <= max(areas["medium"]) < min(areas["large"])
    subsets = found.metrics["network"]
    assert subsets["right"]["energy_pointing_game"]["n"] == sum(row["right"] for row in boxed)
    looking = found.metrics["attribution"]
    assert looking["all"]["outside_head"]["n"] == 18
    assert looking["glioma"]["skull"]["n"] == 9
    gap = looking["glioma"]["entropy"]["value"] - looking["notumor"]["entropy"]["value"]
    assert looking["glioma minus the others"]["entropy"]["value"] == pytest.approx(gap)


def test_threshold_is_never_chosen_on_the_images_scored(
    bright: Checkpoint, heads: Callable[..., Path], opened: Opener
) -> None:
    root = heads(COUNTS, boxed=("test",))
    found = _localize(opened(bright, root))
    assert found.metrics["iou_threshold"]["network"] is None
    assert "no validation image has a box" in found.metrics["iou_threshold"]["chosen_on"]
    assert "iou" not in found.metrics["network"]["all"]
    with pytest.raises(TumorlensError, match=r"none of the 12 valid images in .* has a box"):
        _localize(opened(bright, root, "valid"))


def test_validation_images_are_measured_without_a_threshold_of_their_own(
    bright: Checkpoint, heads: Callable[..., Path], opened: Opener
) -> None:
    found = _localize(opened(bright, heads(COUNTS), "valid"))
    assert "iou" not in found.metrics["network"]["all"]
    assert "those scored" in found.metrics["iou_threshold"]["chosen_on"]


def test_larger_maps_have_more_cells_and_leave_the_answers_alone(
    bright: Checkpoint, heads: Callable[..., Path], opened: Opener
) -> None:
    root = heads({"train": 1, "valid": 2, "test": 3})
    session = opened(bright, root)
    own, larger = (_localize(session, Way("layer4", "gradcam", size)) for size in (None, 128))
    assert own.maps.shape[1:] == (2, 2)
    assert larger.maps.shape[1:] == (4, 4)
    name = "probability_of_label"
    assert [row[name] for row in own.rows] == [row[name] for row in larger.rows]


def test_each_image_is_read_once_for_two_networks(
    bright: Checkpoint,
    dark: Checkpoint,
    heads: Callable[..., Path],
    opened: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = heads({"train": 1, "valid": 2, "test": 3})
    sessions = [opened(bright, root), opened(dark, root)]
    apart = [_localize(session).rows for session in sessions]
    read: list[Path] = []
    original = localization.read_grey
    monkeypatch.setattr(
        localization, "read_grey", lambda path: (read.append(path), original(path))[1]
    )
    boxes, scenes = read_boxes(root / "boxes.csv"), {}
    for session, rows in zip(sessions, apart, strict=True):
        found = localize(session, boxes, Way("layer2", "gradcam"), resamples=100, scenes=scenes)
        assert found.rows == rows
    assert len(read) == len(set(read)) == 6 + 2  # and the boxed validation images
