import numpy as np
import pytest

from tumorlens.evaluation.tumor_classes import accuracy, asked, right_among_tumors

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def test_removing_notumor_gives_its_share_to_the_next_likeliest() -> None:
    labels = np.array([0, 1, 2, 3])
    probabilities = np.array(
        [
            [0.3, 0.1, 0.6, 0.0],  # taken for no tumor; glioma is next: right
            [0.3, 0.2, 0.5, 0.0],  # glioma is next: wrong
            [0.9, 0.0, 0.1, 0.0],  # no tumor: not asked
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    tumor, right = right_among_tumors(labels, probabilities, CLASSES)
    assert tumor.tolist() == [True, True, False, True]
    assert right.tolist() == [True, False, False, True]
    found = accuracy(labels, probabilities, CLASSES, np.arange(4))
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


def test_hopeless_tumors_are_told_apart_where_notumor_took_all_but_a_trace() -> None:
    labels = np.array([1])
    _, right = right_among_tumors(labels, np.array([[1e-9, 2e-9, 1.0, 0.0]]), CLASSES)
    assert right.tolist() == [True]


def test_question_has_no_meaning_without_notumor_or_without_two_tumors() -> None:
    assert asked(CLASSES)
    assert not asked(("a", "b", "c"))
    assert not asked(("glioma", "notumor"))
    one = np.array([0])
    assert accuracy(one, np.array([[1.0, 0.0]]), ("a", "b"), one) is None
    no_tumor = np.array([2])
    assert accuracy(no_tumor, np.full((1, 4), 0.25), CLASSES, one) is None


def test_interval_widens_when_images_are_copies_of_each_other() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.choice([0, 1, 3], 100), 4)
    right = np.repeat(rng.random(100) < 0.8, 4)
    chosen = np.where(right, labels, (labels == 0).astype(int))
    probabilities = np.eye(4)[chosen]
    groups = np.repeat(np.arange(100), 4)
    alone = accuracy(labels, probabilities, CLASSES, np.arange(400), resamples=400)
    grouped = accuracy(labels, probabilities, CLASSES, groups, resamples=400)
    assert alone is not None
    assert grouped is not None
    assert alone.value == grouped.value
    assert (grouped.high - grouped.low) > 1.6 * (alone.high - alone.low)
