import numpy as np
import pytest

from tumorlens.uncertainty import calibration
from tumorlens.uncertainty.decision import DecisionRule


def _world(n: int = 4000, temperature: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(true), and logits that are `temperature` times too large."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (n, 4))
    probabilities = calibration.softmax(true)
    labels = (rng.random((n, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    return labels, true * temperature


def test_temperature_undoes_the_factor_by_which_logits_are_too_large() -> None:
    labels, logits = _world(temperature=2.5)
    assert calibration.fit_temperature(labels, logits) == pytest.approx(2.5, rel=0.06)


def test_temperature_is_where_the_likelihood_is_highest() -> None:
    labels, logits = _world(n=300)
    best = calibration.fit_temperature(labels, logits)
    lowest = calibration.negative_log_likelihood(labels, logits, best)
    for other in (best * 0.97, best * 1.03):
        assert calibration.negative_log_likelihood(labels, logits, other) > lowest


def test_temperature_lowers_the_calibration_error_and_keeps_every_prediction() -> None:
    labels, logits = _world()
    fitted = calibration.softmax(logits, calibration.fit_temperature(labels, logits))
    plain = calibration.softmax(logits)
    assert calibration.expected_calibration_error(labels, plain)[0] > 0.1
    assert calibration.expected_calibration_error(labels, fitted)[0] < 0.03
    np.testing.assert_array_equal(fitted.argmax(axis=1), plain.argmax(axis=1))


def test_temperature_of_a_network_without_a_fault_is_one() -> None:
    logits = np.array([[3.0, 0], [0, 2.0]])
    assert calibration.fit_temperature(np.array([0, 1]), logits) == 1.0


def test_likelihood_of_two_equal_logits_is_log_two() -> None:
    assert calibration.negative_log_likelihood(
        np.array([0]), np.array([[5.0, 5.0]])
    ) == pytest.approx(np.log(2))


def test_likelihood_stays_finite_where_a_probability_is_zero() -> None:
    found = calibration.negative_log_likelihood(np.array([0]), np.array([[0.0, 2000.0]]))
    assert found == pytest.approx(2000)


def test_confident_answers_of_every_class_are_right_often_enough() -> None:
    # Class 0 is right from 0.6 on; class 1 is wrong in half of its answers below 0.9.
    top = np.repeat([0.6, 0.95, 0.7, 0.95], 25)
    answer = np.repeat([0, 0, 1, 1], 25)
    labels = answer.copy()
    labels[50:62] = 0
    probabilities = np.where(answer[:, None] == [0, 1], top[:, None], 1 - top[:, None])
    threshold = calibration.threshold_for_precision(labels, probabilities, 0.95)
    assert threshold == pytest.approx(0.71)  # the first above the answers that are often wrong
    assert calibration.threshold_for_precision(answer, probabilities, 0.95) == pytest.approx(0.01)


def test_nothing_is_confident_where_no_threshold_has_enough_right_answers() -> None:
    probabilities = np.tile([[0.97, 0.03]], (40, 1))
    labels = np.arange(40) % 2
    assert calibration.threshold_for_precision(labels, probabilities, 0.95) == calibration.NEVER
    rule = DecisionRule(("a", "b"), 1.0, calibration.NEVER)
    (decided,) = rule.decide(np.array([[9.0, 0.0]]), None)
    assert decided.decision == "uncertain"
    assert "no threshold made 95% of the answers right" in rule.why(decided)


def test_few_answers_set_no_threshold() -> None:
    probabilities = np.tile([[0.9, 0.1]], (calibration.FEWEST - 1, 1))
    labels = np.zeros(len(probabilities), dtype=np.int64)
    assert calibration.threshold_for_precision(labels, probabilities, 0.5) == calibration.NEVER


def test_figures_say_what_a_temperature_changes_and_how_many_get_an_answer() -> None:
    labels, logits = _world()
    found = calibration.calibrated(labels, logits, 2.5, 0.6)
    assert found is not None
    assert found.ece_after < found.ece_before
    assert found.nll_after < found.nll_before
    top = calibration.softmax(logits, 2.5).max(axis=1)
    assert found.coverage == pytest.approx((top >= 0.6).mean())
    assert found.accuracy_covered is not None
    assert found.accuracy_covered > (logits.argmax(axis=1) == labels).mean()


def test_without_a_temperature_there_are_no_figures() -> None:
    assert calibration.calibrated(np.array([0]), np.zeros((1, 2)), None, 0.5) is None


def test_error_is_the_gap_of_the_bins_of_the_reliability_figure() -> None:
    labels, logits = _world(n=500)
    probabilities = calibration.softmax(logits)
    bins = calibration.reliability(labels, probabilities)
    gaps = np.abs(bins.accuracy - bins.confidence) * bins.count / 500
    assert calibration.expected_calibration_error(labels, probabilities)[0] == pytest.approx(
        np.nansum(gaps)
    )


def test_error_by_hand_and_of_a_resample_that_draws_one_image_twice() -> None:
    labels = np.array([0, 1])
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4]])  # right at 0.8, wrong at 0.6
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    found = calibration.expected_calibration_error(labels, probabilities, weights)
    assert found == pytest.approx([0.4, 0.2])
