"""Tests of subgroups and of two networks, Holm's correction, and what few runs can tell."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, t

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_AT_ONCE = 500  # permutations


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): the k-th smallest p times (m - k + 1), never falling."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.zeros(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def permutation_test(
    hits: Floats, member: Indices, units: Indices, permutations: int, seed: int
) -> tuple[Floats, Floats]:
    """Does the share of hits in each subgroup differ from that in all others?

    What is permuted are the images of one unit in one subgroup, together, so that it is exact where
    a unit is in one subgroup. The statistic is the difference over its standard error, which holds
    where units differ in size (Chung and Romano 2013).

    Args:
        hits: (N,) 0 or 1 of each image.
        member: (N,) subgroup of each image, 0 to G - 1, none of them empty.
        units: (N,) images of one unit, such as a patient, are not independent.

    Returns:
        (G,) two-sided p, never 0 (Phipson and Smyth 2010); (B, G) share of hits in each subgroup
        under permutation.
    """
    _, cell = np.unique(np.stack([units, member]), axis=1, return_inverse=True)
    cell = cell.ravel()
    images, right = np.bincount(cell), np.bincount(cell, hits)
    of_cell = np.zeros(len(images), dtype=np.int64)
    of_cell[cell] = member
    sums = np.stack([images, right, right**2, right * images, images**2], axis=1).astype(np.float64)
    count, rng = int(member.max()) + 1, np.random.default_rng(seed)
    observed, _ = _standing(of_cell[None], sums, count)
    beyond, shares = np.zeros(count), []
    for start in range(0, permutations, _AT_ONCE):
        size = min(_AT_ONCE, permutations - start)
        shuffled = rng.permuted(np.tile(of_cell, (size, 1)), axis=1)
        drawn, share = _standing(shuffled, sums, count)
        beyond += (drawn >= observed - 1e-9).sum(axis=0)
        shares.append(share)
    return (1 + beyond) / (1 + permutations), np.concatenate(shares)


def _standing(of_cell: Indices, sums: Floats, count: int) -> tuple[Floats, Floats]:
    """(b, m) subgroups of cells to (b, G): standard errors from the others, and share of hits."""
    inside = np.stack([(of_cell == one) @ sums for one in range(count)], axis=1)
    (share, error), (others, of_others) = map(_share, (inside, sums.sum(axis=0) - inside))
    return np.abs(share - others) / np.sqrt(np.maximum(error + of_others, 1e-12)), share


def _share(sums: Floats) -> tuple[Floats, Floats]:
    """Share of hits and its variance over cells, as of a ratio (Cochran 1977, eq. 6.13)."""
    images, right, squared, mixed, size = np.moveaxis(sums, -1, 0)
    share = right / images
    return share, (squared - 2 * share * mixed + share**2 * size) / images**2


def sign_test(b_only: int, a_only: int) -> float:
    """Exact McNemar: two-sided p of so many votes for each of the two; 1 without votes."""
    both = b_only + a_only
    return float(binomtest(b_only, both, 0.5).pvalue) if both else 1.0


def error_of_runs(runs: list[list[float]]) -> tuple[float, int]:
    """Standard error of the mean difference that the runs make, and its degrees of freedom.

    From the spread of seeds within folds where these have at least as many degrees of freedom as
    the folds have; else from the spread of the folds' means, which holds that of their images too
    and so is on the safe side. (A second seed of one fold alone would have one degree of freedom,
    and 12.7 standard errors in its interval.)

    `runs` are the values of each fold's runs, two or more in all.
    """
    freedom = sum(len(fold) - 1 for fold in runs)
    if freedom and freedom >= len(runs) - 1:
        pooled = sum(
            (len(fold) - 1) * float(np.var(fold, ddof=1)) for fold in runs if len(fold) > 1
        )
        share = sum(1 / len(fold) for fold in runs) / len(runs) ** 2
        return math.sqrt(pooled / freedom * share), freedom
    means = [float(np.mean(fold)) for fold in runs]
    return float(np.std(means, ddof=1)) / math.sqrt(len(means)), len(means) - 1


def two_sided(draws: Floats) -> float:
    """Two-sided p of no difference: twice the smaller share of draws beyond zero, never 0."""
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        return 1.0
    tail = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (1 + tail) / (1 + len(finite))))


def votes(members: npt.NDArray[np.int64], gain: npt.NDArray[np.int64]) -> tuple[int, int]:
    """In how many groups the second is ahead, and in how many the first; a group has one vote.

    `gain` is (N,) 1 where the second alone is right, -1 where the first is, else 0.
    """
    if len(members) == 0:
        return 0, 0
    net = np.bincount(members, weights=gain)
    return int((net > 0).sum()), int((net < 0).sum())


def run_draws(runs: list[list[float]], count: int, rng: np.random.Generator) -> Floats:
    """(count,) how far the mean may lie off for its few runs: t-distributed, in random order.

    Even quantiles instead of free draws, so that the far tails of few runs do not depend on luck.
    """
    error, freedom = error_of_runs(runs)
    quantiles: Floats = t.ppf((np.arange(count) + 0.5) / count, freedom)
    return error * rng.permutation(quantiles)
