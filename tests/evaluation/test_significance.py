import itertools

import numpy as np
import pytest

from tumorlens.evaluation.significance import holm, permutation_test


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
