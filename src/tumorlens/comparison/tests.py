"""Exact tests of differences, what few runs can tell."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, t

Floats = npt.NDArray[np.float64]


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

    Args:
        members: (N,) group of each image, 0 and up.
        gain: (N,) 1 where the second alone is right, -1 where the first is, else 0.
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
