import numpy as np
import pytest

from tumorlens.evaluation.operating_point import GOALS, fit_offsets, frontier, frontier_figure

LABELS = np.repeat([0, 1], 20)
# Told apart without a fault at 0, but class 0 has been given 1 nat too much.
APART = np.where(LABELS[:, None] == [0, 1], 0.4, -0.4)
LEANING = APART + np.array([1.0, 0.0])
EACH = np.arange(40)


@pytest.mark.parametrize("goal", GOALS)
def test_offset_swaps_the_decisions_that_lean_to_one_class(goal: str) -> None:
    assert (LEANING.argmax(axis=1) == 0).all()
    found = fit_offsets(LABELS, LEANING, EACH, goal)
    assert ((LEANING + found.offsets).argmax(axis=1) == LABELS).all()
    assert (found.accuracy, found.worst_class, found.held_out_worst_class) == (1, 1, 1)
    assert sum(found.offsets) == pytest.approx(0)
    # Any difference from 0.2 to 1.8 is right; the middle is farthest from every image.
    assert found.offsets[1] - found.offsets[0] == pytest.approx(1.0)


def test_decisions_that_are_right_are_left_as_they_are() -> None:
    for goal in GOALS:
        assert fit_offsets(LABELS, APART, EACH, goal).offsets == (0, 0)


def test_without_a_goal_there_are_no_offsets_and_the_recalls_are_told() -> None:
    found = fit_offsets(LABELS, LEANING, EACH, "none")
    assert found.offsets == (0, 0)
    assert (found.accuracy, found.recall, found.worst_class) == (0.5, (1, 0), 0)
    assert found.held_out_recall == (1, 0)


def _overlapping() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """400 images of a common class, 40 of a rare one, whose best accuracy is to name the common."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [400, 40])
    evidence = rng.normal(np.where(labels == 1, 1.5, 0.0), 1.0)
    # Log-odds of equal shares, for normal distributions 1.5 apart; and of the true shares.
    odds = 1.5 * evidence - 1.5**2 / 2 - np.log(10)
    return labels, np.stack([np.zeros(440), odds], axis=1), np.arange(440) // 4


def test_balanced_accuracy_takes_back_the_classes_shares_as_menon_has_it() -> None:
    labels, scores, patients = _overlapping()
    found = fit_offsets(labels, scores, patients, "balanced_accuracy")
    assert found.offsets[1] - found.offsets[0] == pytest.approx(np.log(10), abs=0.7)


def test_frontier_trades_accuracy_for_the_worst_class() -> None:
    points = {one.goal: one for one in frontier(*_overlapping())}
    assert next(iter(points)) == "none"
    assert points["worst_class"].worst_class > points["none"].worst_class + 0.3
    assert points["worst_class"].recall[0] == pytest.approx(
        points["worst_class"].recall[1], abs=0.1
    )
    assert points["accuracy"].accuracy >= points["none"].accuracy - 0.01
    assert points["worst_class"].accuracy < points["accuracy"].accuracy
    (axes,) = frontier_figure(list(points.values()), "title").axes
    assert {text.get_text() for text in axes.texts} == {
        *("no offsets", "accuracy", "balanced accuracy", "worst class")
    }


def test_patients_left_out_of_the_fit_are_whole_patients() -> None:
    # Each patient's images are alike: with an image each, a left-out image would have its twin in.
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 10)
    scores = rng.normal(0, 1, (20, 2))
    many, patients = np.repeat(np.arange(20), 5), np.repeat(np.arange(20), 5)
    one = fit_offsets(labels, scores, np.arange(20), "accuracy")
    five = fit_offsets(labels[many], scores[many], patients, "accuracy")
    assert five.offsets == one.offsets
    assert five.held_out_recall == pytest.approx(one.held_out_recall)
