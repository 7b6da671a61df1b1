import numpy as np
import pytest

from tumorlens.comparison.tests import error_of_runs, sign_test, two_sided, votes


def test_sign_test_counts_coins() -> None:
    assert sign_test(0, 5) == pytest.approx(2 / 32)
    assert sign_test(6, 1) == pytest.approx(2 * 8 / 128)
    assert sign_test(3, 3) == 1
    assert sign_test(0, 0) == 1


def test_group_has_one_vote_whatever_its_size() -> None:
    members = np.array([0, 0, 0, 1, 2, 2])
    assert votes(members, np.array([1, 1, 1, -1, 1, -1])) == (1, 1)
    assert votes(members[:0], members[:0]) == (0, 0)


def test_p_of_draws_is_twice_the_smaller_tail_and_never_nothing() -> None:
    draws = np.linspace(-1, 9, 1001)
    assert two_sided(draws) == pytest.approx(2 * 102 / 1002)
    assert two_sided(np.ones(999)) == pytest.approx(2 / 1000)
    assert two_sided(np.zeros(50)) == 1
    assert two_sided(np.array([np.nan])) == 1


def test_error_of_seeds_is_their_spread_over_the_root_of_their_number() -> None:
    error, freedom = error_of_runs([[0.01, 0.03, 0.05]])
    assert error == pytest.approx(0.02 / np.sqrt(3))
    assert freedom == 2


def test_spread_of_folds_does_not_count_where_seeds_tell_their_own() -> None:
    # Two folds far apart, each with two seeds 0.02 apart: s is 0.02 / sqrt 2 in both.
    error, freedom = error_of_runs([[0.0, 0.02], [0.5, 0.52]])
    assert freedom == 2
    assert error == pytest.approx(0.02 / np.sqrt(2) / np.sqrt(4))
    # With one seed each nothing else is left than the folds' own spread.
    error, freedom = error_of_runs([[0.0], [0.1], [0.2]])
    assert (error, freedom) == (pytest.approx(0.1 / np.sqrt(3)), 2)


def test_one_second_seed_does_not_outweigh_the_spread_of_the_folds() -> None:
    error, freedom = error_of_runs([[0.0, 0.2], [0.2], [0.3]])
    assert freedom == 2
    assert error == pytest.approx(0.1 / 3**0.5)  # of 0.1, 0.2, 0.3
