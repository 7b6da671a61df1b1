import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tumorlens.comparison.tango import paired_interval, restricted_rate, score


def test_interval_is_where_the_score_says_two_standard_errors() -> None:
    low, high = paired_interval(12, 2, 50)
    assert score(low, 12, 2, 50) == pytest.approx(1.96, abs=1e-3)
    assert score(high, 12, 2, 50) == pytest.approx(-1.96, abs=1e-3)
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
