import json
import tracemalloc

import numpy as np
import pytest

from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.scores import Scores, tumor_accuracy
from tumorlens.evaluation.scores import score as score_of

CLASSES = ("glioma", "meningioma", "notumor")
FOUR = (*CLASSES, "pituitary")


def _of(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray | None = None,
    duplicates: np.ndarray | None = None,
) -> Predictions:
    named = None if groups is None else tuple(map(str, groups))
    paths = tuple(f"{index}.png" for index in range(len(labels)))
    return Predictions("a.csv", classes, paths, labels, probabilities, duplicates, named)


def score(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    *,
    groups: np.ndarray | None = None,
    duplicates: np.ndarray | None = None,
    resamples: int,
) -> Scores:
    return score_of(_of(labels, probabilities, classes, groups, duplicates), resamples=resamples)


def _sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """300 images; the 100 near-duplicates are always right, of the others one third is wrong."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 100)
    duplicates = np.array(["exact"] * 60 + ["near"] * 40 + [""] * 200)
    predicted = np.where((duplicates == "") & (rng.random(300) < 1 / 3), (labels + 1) % 3, labels)
    return labels, np.eye(3)[predicted] * 0.94 + 0.02, duplicates


def test_score_without_copies_and_by_how_much_they_flatter() -> None:
    labels, probabilities, duplicates = _sample()
    scores = score(labels, probabilities, CLASSES, duplicates=duplicates, resamples=500)
    right = probabilities.argmax(axis=1) == labels
    assert scores.without_near_duplicates is not None
    assert scores.without_exact_duplicates is not None
    assert scores.all.metrics["accuracy"].value == pytest.approx(right.mean())
    clean = scores.without_near_duplicates.metrics["accuracy"]
    assert clean.value == pytest.approx(right[100:].mean())
    assert (scores.without_near_duplicates.n, scores.without_exact_duplicates.n) == (200, 240)
    leakage_inflation = scores.leakage_inflation["accuracy"]
    assert leakage_inflation.value == pytest.approx(right.mean() - right[100:].mean())
    assert 0 < leakage_inflation.low < leakage_inflation.value < leakage_inflation.high
    assert scores.duplicates == {
        "exact": {"glioma": 20, "meningioma": 20, "notumor": 20},
        "near": {"glioma": 14, "meningioma": 13, "notumor": 13},
    }


def test_every_interval_holds_its_value() -> None:
    labels, probabilities, duplicates = _sample()
    scores = score(labels, probabilities, CLASSES, duplicates=duplicates, resamples=500)
    for name, estimate in scores.all.metrics.items():
        assert estimate.low <= estimate.value + 1e-12, name
        assert estimate.value <= estimate.high + 1e-12, name


def test_perfect_recall_of_few_images_has_an_honest_lower_end() -> None:
    labels = np.array([0] * 20 + [1] * 5)
    scores = score(labels, np.eye(2)[labels], ("a", "b"), resamples=200)
    recall = scores.all.metrics["recall_b"]
    assert (recall.value, recall.high, recall.n) == (1, 1, 5)
    assert recall.low == pytest.approx(0.025 ** (1 / 5))
    grouped = score(
        labels, np.eye(2)[labels], ("a", "b"), groups=np.repeat(np.arange(5), 5), resamples=200
    )
    assert grouped.all.metrics["accuracy"].low == pytest.approx(0.025 ** (1 / 5))


def test_no_interval_of_a_perfect_network_is_without_width() -> None:
    labels = np.array([0] * 20 + [1] * 30)
    duplicates = np.where(np.arange(50) % 2 == 0, "exact", "")
    scores = score(labels, np.eye(2)[labels], ("a", "b"), duplicates=duplicates, resamples=200)
    for name in ("macro_f1", "balanced_accuracy", "auroc_a", "precision_a", "f1_b", "mcc"):
        metric = scores.all.metrics[name]
        assert metric.value == 1, name
        assert 0.8 < metric.low < 0.95, name
    both = (scores.all.metrics[name] for name in ("recall_a", "recall_b"))
    mean_low = np.mean([one.low for one in both])
    assert scores.all.metrics["balanced_accuracy"].low == pytest.approx(mean_low)
    gap = scores.leakage_inflation["accuracy"]
    assert gap.value == 0
    assert gap.low == pytest.approx(0.025 ** (1 / 50) - 1)
    assert gap.high == pytest.approx(1 - 0.025 ** (1 / 25))


def test_precision_of_a_single_prediction_is_not_believed() -> None:
    labels = np.repeat([0, 1], 30)
    predicted = np.zeros(60, dtype=int)
    predicted[30] = 1  # one image alone is called "b", rightly
    scores = score(labels, np.eye(2)[predicted], ("a", "b"), resamples=200)
    precision = scores.all.metrics["precision_b"]
    assert (precision.value, precision.n) == (1, 1)
    assert precision.low == pytest.approx(0.025)


def test_without_fingerprints_nothing_is_claimed_about_copies() -> None:
    labels, probabilities, _ = _sample()
    scores = score(labels, probabilities, CLASSES, resamples=100)
    assert scores.without_near_duplicates is None
    assert scores.duplicates is None
    assert scores.leakage_inflation == {}


def test_nothing_left_without_near_duplicates() -> None:
    labels, probabilities, _ = _sample()
    scores = score(labels, probabilities, CLASSES, duplicates=np.full(300, "near"), resamples=100)
    assert scores.without_near_duplicates is None
    assert scores.duplicates is not None


def test_scores_become_json() -> None:
    labels, probabilities, duplicates = _sample()
    content = score(labels, probabilities, CLASSES, duplicates=duplicates, resamples=100).to_dict()
    assert json.loads(json.dumps(content))["all"]["n"] == 300
    assert content["bias_pair"] == ["glioma", "meningioma"]


def test_accuracy_among_tumors_leaves_notumor_out() -> None:
    labels = np.array([0, 1, 2, 3])
    probabilities = np.array(
        [
            [0.3, 0.1, 0.6, 0.0],  # taken for no tumor; glioma is next: right
            [0.3, 0.2, 0.5, 0.0],  # glioma is next: wrong
            [0.9, 0.0, 0.1, 0.0],  # no tumor: not asked
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    found = tumor_accuracy(_of(labels, probabilities, FOUR))
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


def test_accuracy_among_tumors_has_no_meaning_without_notumor_or_without_tumors() -> None:
    one = np.array([0])
    assert tumor_accuracy(_of(one, np.array([[1.0, 0.0]]), ("a", "b"))) is None
    no_tumor = np.array([2])
    assert tumor_accuracy(_of(no_tumor, np.full((1, 4), 0.25), FOUR)) is None


def test_interval_among_tumors_widens_when_images_are_copies_of_each_other() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.choice([0, 1, 3], 100), 4)
    right = np.repeat(rng.random(100) < 0.8, 4)
    chosen = np.where(right, labels, (labels == 0).astype(int))
    probabilities = np.eye(4)[chosen]
    groups = np.repeat(np.arange(100), 4)
    alone = tumor_accuracy(_of(labels, probabilities, FOUR), resamples=400)
    grouped = tumor_accuracy(_of(labels, probabilities, FOUR, groups), resamples=400)
    assert alone is not None
    assert grouped is not None
    assert alone.value == grouped.value
    assert (grouped.high - grouped.low) > 1.6 * (alone.high - alone.low)


def test_scoring_holds_a_dozen_arrays_of_the_weights_and_none_with_the_bins_too() -> None:
    labels = np.arange(1000) % 4
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 1000)
    duplicates = np.where(labels == 0, "near", "")
    score(
        labels, probabilities, FOUR, duplicates=duplicates, resamples=10
    )  # what is imported late is
    tracemalloc.start()
    try:
        score(labels, probabilities, FOUR, duplicates=duplicates, resamples=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weights = 1000 * 1000 * 8
    assert peak < 13 * weights  # with the 15 bins it would be 20
