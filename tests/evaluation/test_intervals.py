import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tumorlens.evaluation.intervals import (
    Estimate,
    bootstrap,
    difference,
    estimates,
    exact_interval,
    paired_interval,
    percentile_interval,
    primitives,
    resampled_weights,
    restricted_rate,
    tango_score,
)

N = 60
GROUPS = np.arange(N) // 2
RNG = np.random.default_rng(0)
ENERGY, AREA = RNG.random(N), RNG.random(N) / 4
ALL = np.ones(N, dtype=bool)
FIRST = np.arange(N) < 24


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


def test_interval_is_where_the_score_says_two_standard_errors() -> None:
    low, high = paired_interval(12, 2, 50)
    assert tango_score(low, 12, 2, 50) == pytest.approx(1.96, abs=1e-3)
    assert tango_score(high, 12, 2, 50) == pytest.approx(-1.96, abs=1e-3)
    assert low < 10 / 50 < high


def test_restricted_rate_is_the_likeliest() -> None:
    difference = 0.1

    def unlikely(rate: float) -> float:
        return -(
            12 * np.log(rate + difference)
            + 2 * np.log(rate)
            + 36 * np.log(1 - 2 * rate - difference)
        )

    best = minimize_scalar(unlikely, bounds=(1e-9, 0.449), method="bounded")
    assert restricted_rate(difference, 12, 2, 50) == pytest.approx(best.x, abs=1e-5)


def test_two_that_never_differ_leave_room_for_a_difference() -> None:
    low, high = paired_interval(0, 0, 100)
    # Where neither counts any, the statistic is n d / sqrt(n d (1 + d)): 1.96 at z2 / (n + z2).
    assert high == pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-5)
    assert low == pytest.approx(-high)


def test_interval_turns_with_the_order_and_holds_its_value_at_the_ends() -> None:
    low, high = paired_interval(3, 1, 20)
    assert paired_interval(1, 3, 20) == (pytest.approx(-high), pytest.approx(-low))
    assert paired_interval(5, 0, 5)[1] == 1
    assert paired_interval(0, 5, 5)[0] == -1


def test_means_ratios_and_contrasts_of_subsets() -> None:
    found = estimates(
        {"energy": ENERGY, "area": AREA},
        {"all": ALL, "first": FIRST, "rest": ~FIRST, "none": ~ALL},
        GROUPS,
        ratios={"over": ("energy", "area")},
        contrasts={"gap": ("first", "rest"), "void": ("first", "none")},
        resamples=200,
    )
    assert set(found) == {"all", "first", "rest", "gap"}
    assert found["first"]["energy"].value == pytest.approx(ENERGY[:24].mean())
    assert found["first"]["energy"].n == 24
    assert found["all"]["over"].value == pytest.approx(ENERGY.mean() / AREA.mean())
    gap = found["gap"]["energy"]
    assert gap.value == pytest.approx(ENERGY[:24].mean() - ENERGY[24:].mean())
    assert gap.low < gap.value < gap.high
    assert gap.n == N
    assert primitives(found)["all"]["area"]["value"] == pytest.approx(AREA.mean())


def test_groups_widen_the_interval() -> None:
    twice = np.repeat(RNG.random(30), 2)
    widths = []
    for groups in (np.arange(N), GROUPS):
        one = estimates({"x": twice}, {"all": ALL}, groups, resamples=1000)["all"]["x"]
        widths.append(one.high - one.low)
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(2), rel=0.15)


def test_images_without_a_value_do_not_count() -> None:
    holes = np.where(FIRST, np.nan, 2.0)
    one = estimates({"x": holes}, {"all": ALL}, GROUPS, resamples=100)["all"]["x"]
    assert (one.value, one.low, one.high, one.n) == (2, 2, 2, 36)


def test_proportion_with_few_misses_has_an_exact_interval_over_groups() -> None:
    found = estimates(
        {"hit": np.ones(N)}, {"all": ALL}, GROUPS, proportions=("hit",), resamples=100
    )
    one = found["all"]["hit"]
    assert (one.low, one.high) == exact_interval(30, 30)


def test_difference_without_a_resample_that_differs_is_as_wide_as_both_intervals() -> None:
    one, other = Estimate(1.0, 0.8, 1.0, 9), Estimate(1.0, 0.6, 1.0, 5)
    assert difference(one, other, np.zeros(50), 14) == Estimate(
        0.0, pytest.approx(-0.2), pytest.approx(0.4), 14
    )
