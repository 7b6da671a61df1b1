import numpy as np
import pytest
from sklearn import metrics as oracle

from tumorlens.evaluation import metrics
from tumorlens.evaluation.metrics import (
    bias,
    compute,
    confusion,
    correct_among_tumors,
    tells_tumors,
)

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def _sample(n: int = 300, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 4)) + 1.2 * np.eye(4)[labels]
    if ties:
        logits = logits.round()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities


@pytest.mark.parametrize("ties", [False, True])
def test_every_figure_is_scikit_learns(ties: bool) -> None:
    labels, probabilities = _sample(ties=ties)
    found = {
        name: float(value[0]) for name, value in compute(labels, probabilities, CLASSES).items()
    }
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
        "macro_f1": oracle.f1_score(labels, predicted, average="macro"),
        "mcc": oracle.matthews_corrcoef(labels, predicted),
        "log_loss": oracle.log_loss(labels, probabilities),
    }
    for index, name in enumerate(CLASSES):
        truth, guess = labels == index, predicted == index
        expected |= {
            f"recall_{name}": oracle.recall_score(truth, guess),
            f"precision_{name}": oracle.precision_score(truth, guess),
            f"specificity_{name}": oracle.recall_score(~truth, ~guess),
            f"f1_{name}": oracle.f1_score(truth, guess),
            f"auroc_{name}": oracle.roc_auc_score(truth, probabilities[:, index]),
            f"average_precision_{name}": oracle.average_precision_score(
                truth, probabilities[:, index]
            ),
        }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_weights_count_an_image_as_often_as_they_say() -> None:
    labels, probabilities = _sample(60, seed=1)
    times = np.random.default_rng(2).integers(0, 4, (3, 60))
    weighted = compute(labels, probabilities, CLASSES, times.astype(float))
    for row in range(3):
        chosen = np.repeat(np.arange(60), times[row])
        plain = compute(labels[chosen], probabilities[chosen], CLASSES)
        for name, value in plain.items():
            assert weighted[name][row] == pytest.approx(value[0], abs=1e-9), name


def test_brier_and_ece_by_hand() -> None:
    labels = np.array([0, 1])
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4]])
    found = compute(labels, probabilities, ("a", "b"))
    assert found["brier"][0] == pytest.approx(((0.2**2 + 0.2**2) + (0.6**2 + 0.6**2)) / 2)
    # one right at 0.8, one wrong at 0.6, in bins of their own
    assert found["ece"][0] == pytest.approx((0.2 + 0.6) / 2)


def test_bias_figures_by_hand() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2] * 5 + [3] * 5)
    predicted = np.array([0] * 7 + [1] * 3 + [1] * 8 + [0] * 2 + [2] * 5 + [3] * 5)
    found = compute(labels, np.eye(4)[predicted] * 0.97 + 0.0075, CLASSES)
    assert found["recall_glioma"][0] == pytest.approx(0.7)
    assert found["recall_meningioma"][0] == pytest.approx(0.8)
    assert found["recall_gap_meningioma_minus_glioma"][0] == pytest.approx(0.1)
    assert found["glioma->meningioma"][0] == pytest.approx(0.3)
    assert found["meningioma->glioma"][0] == pytest.approx(0.2)
    table = confusion(labels, predicted, 4, np.ones((1, 30)))[0]
    assert table.tolist() == [[7, 3, 0, 0], [2, 8, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5]]
    assert bias(table, CLASSES) == ("glioma", "meningioma")


def test_other_classes_are_judged_by_their_worst_pair() -> None:
    table = np.array([[9.0, 1, 0], [0, 5, 5], [0, 3, 7]])
    assert bias(table, ("cat", "dog", "wolf")) == ("dog", "wolf")
    assert bias(np.eye(3), ("cat", "dog", "wolf")) is None
    assert bias(np.eye(1), ("cat",)) is None


def test_class_without_images_has_no_recall_and_does_not_spoil_the_means() -> None:
    labels = np.array([0, 0, 1, 1])
    predicted = np.array([0, 0, 1, 2])
    found = compute(labels, np.eye(3)[predicted], ("a", "b", "c"))
    assert np.isnan(found["recall_c"][0])
    assert np.isnan(found["auroc_c"][0])
    assert found["balanced_accuracy"][0] == pytest.approx(0.75)
    assert found["macro_f1"][0] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("classes", [("a", "b"), ("a",)])
def test_one_image_and_few_classes_do_not_break_it(classes: tuple[str, ...]) -> None:
    found = compute(np.array([0]), np.eye(len(classes))[:1], classes)
    assert found["accuracy"][0] == 1
    assert found["mcc"][0] == 0
    assert set(metrics.OVERALL) <= set(found)


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
    tumor, right = correct_among_tumors(labels, probabilities, CLASSES)
    assert tumor.tolist() == [True, True, False, True]
    assert right.tolist() == [True, False, False, True]


def test_hopeless_tumors_are_told_apart_where_notumor_took_all_but_a_trace() -> None:
    labels = np.array([1])
    _, right = correct_among_tumors(labels, np.array([[1e-9, 2e-9, 1.0, 0.0]]), CLASSES)
    assert right.tolist() == [True]


def test_tumors_are_told_apart_where_there_are_two_and_something_else() -> None:
    assert tells_tumors(CLASSES)
    assert not tells_tumors(("a", "b", "c"))
    assert not tells_tumors(("glioma", "notumor"))
