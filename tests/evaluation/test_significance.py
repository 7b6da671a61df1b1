import itertools

import numpy as np
import pytest

from tumorlens.evaluation.significance import (
    error_of_runs,
    holm,
    permutation_test,
    sign_test,
    two_sided,
    votes,
)


def test_holm_multiplies_by_how_many_are_left_and_never_falls() -> None:
    # Holm's own example has this shape: 3 x 0.01, 2 x 0.02, 1 x 0.04 raised to the one before.
    assert holm([0.02, 0.04, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_is_the_share_of_all_orders_that_lie_as_far_apart() -> None:
    # 5 units all right in one subgroup, 5 all wrong in the other: of 252 orders 2 are as extreme.
    hits, member = np.repeat([1.0, 0.0], 10), np.repeat([0, 1], 10)
    p, shares = permutation_test(hits, member, np.arange(20) // 2, 20000, 0)
    orders = list(itertools.combinations(range(10), 5))
    assert p == pytest.approx(np.full(2, 2 / len(orders)), rel=0.2)
    assert shares.shape == (20000, 2)
    np.testing.assert_allclose(shares.sum(axis=1), 1)  # as many are right in all


def test_no_difference_has_p_1() -> None:
    p, _ = permutation_test(np.ones(12), np.arange(12) % 3, np.arange(12), 100, 0)
    assert p.tolist() == [1, 1, 1]


def test_false_alarms_are_as_rare_as_promised_with_patients_of_different_sizes() -> None:
    """Patients with 1 image in one subgroup and with 8 in the other, images of one much alike."""
    rng = np.random.default_rng(0)
    images = np.r_[np.ones(15, int), np.full(40, 8)]
    units = np.repeat(np.arange(55), images)
    member = np.repeat(np.r_[np.zeros(15, int), np.ones(40, int)], images)
    alarms = []
    for seed in range(300):
        recall = rng.beta(2, 1, 55)[units]
        p, _ = permutation_test((rng.random(len(units)) < recall) * 1.0, member, units, 200, seed)
        alarms.append(p[0] < 0.05)
    assert np.mean(alarms) < 0.09


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
