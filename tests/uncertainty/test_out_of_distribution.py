import numpy as np
import pytest

from tumorlens.uncertainty.out_of_distribution import (
    FeatureSpace,
    spread,
    threshold_for_false_alarms,
)


def test_distance_is_mahalanobis_to_the_nearest_class_over_root_of_the_dimension() -> None:
    space = FeatureSpace(
        means=np.array([[0.0, 0.0], [10.0, 0.0]]),
        covariance=np.diag([4.0, 1.0]),
        threshold=2.0,
    )
    features = np.array([[2.0, 0.0], [10.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(
        space.distances(features), [1 / np.sqrt(2), 3 / np.sqrt(2), 0], atol=1e-12
    )


def test_correlated_features_are_measured_along_their_own_axes() -> None:
    covariance = np.array([[2.0, 1.0], [1.0, 3.0]])
    space = FeatureSpace(np.zeros((1, 2)), covariance, threshold=1.0)
    x = np.array([1.0, -2.0])
    expected = np.sqrt(x @ np.linalg.inv(covariance) @ x / 2)
    assert space.distances(x[None])[0] == pytest.approx(expected)


def test_features_that_are_not_numbers_are_novel() -> None:
    space = FeatureSpace(np.zeros((1, 2)), np.eye(2), threshold=1.0)
    assert not space.distances(np.array([[np.nan, 0.0]]))[0] <= space.threshold


def test_spread_finds_the_class_means_and_what_is_left_around_them() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 4000)
    centres = np.array([[0.0, 0, 0], [50.0, 0, 0]])
    features = centres[labels] + rng.normal(0, 1, (8000, 3)) * [1, 2, 3]
    means, covariance, share = spread(features, labels, ("a", "b"))
    np.testing.assert_allclose(means, centres, atol=0.2)
    np.testing.assert_allclose(np.diag(covariance), [1, 4, 9], rtol=0.1)
    assert share < 0.05


def test_fewer_images_than_features_still_give_a_distance() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (12, 40))
    features[:, 7] = 0.0  # a unit that is always shut
    labels = np.array([0, 1, 2] * 4)
    means, covariance, share = spread(features, labels, ("a", "b", "c"))
    assert 0 < share <= 1
    space = FeatureSpace(means, covariance, threshold=2.0)
    near = space.distances(rng.normal(0, 1, (50, 40)))
    far = space.distances(rng.normal(0, 1, (50, 40)) + 8)
    assert near.max() < far.min()


def test_features_without_any_spread_still_give_a_distance() -> None:
    means, covariance, _ = spread(np.ones((4, 3)), np.array([0, 0, 1, 1]), ("a", "b"))
    distances = FeatureSpace(means, covariance, 1.0).distances(np.array([[1.0, 1, 1], [2.0, 1, 1]]))
    assert distances[0] == 0
    assert distances[1] > 100


def test_threshold_is_exceeded_by_no_more_than_the_rate() -> None:
    distances = np.arange(100, dtype=float)
    assert threshold_for_false_alarms(distances, 0.05) == (94.0, 0.05)
    assert threshold_for_false_alarms(distances, 0.0) == (99.0, 0.0)
    assert threshold_for_false_alarms(np.array([1.0, 1.0, 2.0]), 0.5) == (1.0, pytest.approx(1 / 3))
