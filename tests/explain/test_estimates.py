import numpy as np
import pytest

from tumorlens.evaluation.intervals import exact_interval
from tumorlens.explain.estimates import estimates, primitives

N = 60
GROUPS = np.arange(N) // 2
RNG = np.random.default_rng(0)
ENERGY, AREA = RNG.random(N), RNG.random(N) / 4
ALL = np.ones(N, dtype=bool)
FIRST = np.arange(N) < 24


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
