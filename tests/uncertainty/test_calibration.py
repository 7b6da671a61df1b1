import numpy as np
import pytest

from tumorlens.uncertainty import calibration


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


def test_threshold_lets_the_surest_share_through() -> None:
    top = np.linspace(0.5, 0.99, 20)
    probabilities = np.stack([top, 1 - top], axis=1)
    threshold, covered = calibration.threshold_for_coverage(probabilities, 0.95)
    assert threshold == pytest.approx(np.sort(top)[1])
    assert covered == pytest.approx(0.95)


def test_threshold_of_whole_coverage_is_the_least_sure_image() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    assert calibration.threshold_for_coverage(probabilities, 1.0) == (0.6, 1.0)


def test_images_that_tie_with_the_threshold_are_answered() -> None:
    probabilities = np.array([[0.8, 0.2]] * 9 + [[0.5, 0.5]])
    assert calibration.threshold_for_coverage(probabilities, 0.5) == (0.8, 0.9)


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
