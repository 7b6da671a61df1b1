import numpy as np
import pytest

from tumorlens.evaluation.intervals import (
    bootstrap,
    exact_interval,
    percentile_interval,
    resampled_weights,
)


def _mean_of(values: np.ndarray):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    (weights,) = resampled_weights(np.arange(50), 200, seed=0)
    assert weights.shape == (200, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.var(axis=0).mean() == pytest.approx(1, abs=0.15)  # Poisson-like counts


def test_images_of_a_group_come_and_go_together() -> None:
    groups = np.array([7, 7, 7, 2, 2, 9])
    (weights,) = resampled_weights(groups, 100, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert not (weights[:, 0] == weights[:, 3]).all()


def test_same_seed_same_interval_other_seed_other_interval() -> None:
    values = np.random.default_rng(0).random(40)
    one, two, other = (
        bootstrap(_mean_of(values), np.arange(40), 300, seed)["mean"] for seed in (5, 5, 6)
    )
    assert (one == two).all()
    assert not (one == other).all()


def test_bootstrap_spread_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=400)
    resampled = bootstrap(_mean_of(values), np.arange(400), 4000, 0)["mean"]
    assert resampled.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_intervals_cover_about_95_percent() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(300):
        values = (rng.random(150) < 0.8).astype(float)
        low, high = percentile_interval(
            bootstrap(_mean_of(values), np.arange(150), 400, trial)["mean"]
        )
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_group_intervals_cover_where_image_intervals_do_not() -> None:
    # Ten images a group, all right or all wrong together: 300 images tell as much as 30.
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 10)
    covered = {"group": 0, "image": 0}
    for trial in range(150):
        values = np.repeat((rng.random(30) < 0.6).astype(float), 10)
        for kind, units in (("group", groups), ("image", np.arange(300))):
            low, high = percentile_interval(bootstrap(_mean_of(values), units, 300, trial)["mean"])
            covered[kind] += low <= 0.6 <= high
    assert covered["group"] / 150 > 0.88
    assert covered["image"] / 150 < 0.6


def test_exact_interval_is_clopper_and_pearsons() -> None:
    low, high = exact_interval(20, 20)
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 20))
    assert exact_interval(0, 0) == (0, 1)


def test_resamples_without_a_value_are_passed_over() -> None:
    assert percentile_interval(np.array([np.nan, 1.0, 1.0])) == (1, 1)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
