import numpy as np
import pytest

from tumorlens.audit.shortcuts import Shortcut, border, display_of, shortcuts
from tumorlens.data.readers import ImageFacts, fit_square

CLASSES = ("a", "b", "c")


def _asked(
    labels: np.ndarray, facts: list[ImageFacts], images: np.ndarray | None = None
) -> dict[str, Shortcut]:
    if images is None:
        images = np.zeros((len(labels), 32, 32), dtype=np.uint8)
    found = shortcuts(images, facts, labels, CLASSES, np.arange(len(labels)))
    assert [shortcut.score for shortcut in found] == sorted(
        (shortcut.score for shortcut in found), reverse=True
    )
    return {shortcut.property: shortcut for shortcut in found}


def test_colour_mode_of_one_class_alone_is_told_and_the_rest_is_at_chance() -> None:
    labels = np.repeat([0, 1, 2], 100)
    facts = [ImageFacts("JPEG", "L" if label == 0 else "RGB", 200, 200) for label in labels]
    found = _asked(labels, facts)
    mode = found["colour mode"]
    # Class a is told for sure; of b and c one question can tell one.
    assert mode.score == pytest.approx(2 / 3)
    assert mode.chance == pytest.approx(1 / 3)
    assert mode.above_chance
    assert {side.answer: side.counts for side in mode.sides} == {
        "colour mode L": {"a": 100, "b": 0, "c": 0},
        "colour mode other than L": {"a": 0, "b": 100, "c": 100},
    }
    for name in ("format", "width", "height", "orientation", "border"):
        assert found[name].score == pytest.approx(1 / 3)
        assert not found[name].above_chance
        assert found[name].sides == ()


def test_size_that_goes_with_the_class_is_told_by_a_threshold() -> None:
    labels = np.repeat([0, 1, 2], 60)
    facts = [ImageFacts("PNG", "L", (512, 256, 240)[label], 256) for label in labels]
    found = _asked(labels, facts)
    assert found["width"].score == pytest.approx(2 / 3)
    assert found["orientation"].score == pytest.approx(2 / 3)
    assert any("above" in side.answer for side in found["width"].sides)


def test_what_has_nothing_to_do_with_the_class_is_not_told() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    facts = [
        ImageFacts(rng.choice(["PNG", "JPEG"]), rng.choice(["L", "RGB"]), int(width), int(height))
        for width, height in rng.integers(100, 600, (600, 2))
    ]
    found = _asked(labels, facts, rng.integers(0, 255, (600, 16, 16), dtype=np.uint8))
    assert not any(shortcut.above_chance for shortcut in found.values())
    for shortcut in found.values():
        assert shortcut.score == pytest.approx(1 / 3, abs=0.08)


def test_memorised_value_does_not_count_because_images_are_held_out_in_groups() -> None:
    # Every image ten times, each with a width of its own: a stump fitted on nine tells the tenth
    # nothing about other images.
    rng = np.random.default_rng(1)
    labels = np.repeat(rng.integers(0, 3, 60), 10)
    widths = np.repeat(rng.permutation(60) * 10 + 100, 10)
    facts = [ImageFacts("PNG", "L", int(width), 900) for width in widths]
    images = np.zeros((600, 16, 16), dtype=np.uint8)
    found = shortcuts(images, facts, labels, CLASSES, np.repeat(np.arange(60), 10))
    assert not any(shortcut.above_chance for shortcut in found)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (80, 80)])
def test_border_is_the_pictures_own_not_the_squares_padding(height: int, width: int) -> None:
    image = np.full((height, width), 40, dtype=np.uint8)
    image[10:-10, 10:-10] = 200
    image = fit_square(image, 96)
    assert border(image, ImageFacts("PNG", "L", width, height), 96) == pytest.approx(40, abs=1)
    # Stored lying, shown upright by its EXIF orientation.
    assert border(image, ImageFacts("PNG", "L", height, width), 96) == pytest.approx(40, abs=1)


def test_display_tells_four_brightnesses_that_one_question_cannot() -> None:
    labels = np.repeat([0, 1, 2], 40)
    rng = np.random.default_rng(0)
    # The middle class lies on both sides of the others: two questions are needed.
    grey = np.where(labels == 0, 120, np.where(labels == 1, 60, rng.choice([20, 220], 120)))
    images = np.repeat(grey[:, None], 32 * 32, axis=1).reshape(-1, 32, 32)
    noisy = np.clip(images + rng.normal(0, 2, images.shape), 0, 255).astype(np.uint8)
    found = _asked(labels, [ImageFacts("PNG", "L", 32, 32)] * 120, noisy)
    assert found["display"].score > 0.95
    assert found["display"].above_chance
    assert found["brightness"].score < 0.8
    assert any("mean grey" in side.answer for side in found["brightness"].sides)


def test_display_of_known_images() -> None:
    half = np.zeros((32, 32), dtype=np.uint8)
    half[:, :16] = 200
    mean, extent, sharpness = display_of(half)
    assert (mean, extent) == (100, 0.5)
    assert sharpness == pytest.approx(200 * 32 / (32 * 31) / 2 / 100)
    assert display_of(np.full((8, 8), 50, dtype=np.uint8))[2] == 0
