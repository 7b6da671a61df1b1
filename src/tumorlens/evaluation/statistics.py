"""How sure is a figure? Intervals and paired tests that respect which images belong together.

Every interval here is two-sided at 95%. The choices, each checked by simulation in the tests:

- The bootstrap is stratified by class: whoever made the test set chose how many images of each
  class it has, so a resample has as many, and no resample lacks a class.
- Groups (copies of one picture, or images of one patient) are drawn whole, never image by image:
  a picture that is there twice is one piece of evidence. A group whose images have several labels
  belongs to the stratum of most of them.
- A proportion with few failures or few successes gets the exact binomial interval instead, because
  the bootstrap of 20 right answers out of 20 would claim certainty.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binomtest

LEVEL = 0.95
RESAMPLES = 2000
# With at least this many failures and successes (counted in groups) the percentile interval of a
# proportion and the exact one differ by less than either's own noise.
FEW = 10
_CELLS = 2_000_000  # weights held at once: 16 MB

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval.

    Attributes:
        value: the point estimate; NaN where the figure is undefined (a class without images).
        low: lower end; NaN where no interval can be given (undefined, or no resample differs).
        high: upper end; NaN likewise.
        n: how many images the figure is over: for a recall, those of its class.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: what is undefined is None."""
        return {
            "value": _or_none(self.value),
            "low": _or_none(self.low),
            "high": _or_none(self.high),
            "n": self.n,
        }


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


class Draws:
    """Bootstrap resamples, as how often each image is in each of them.

    The same arguments give the same resamples, so that two figures over the same images, or two
    models, can be compared resample by resample.

    Args:
        n: images.
        groups: (N,) any values; images of equal value are drawn together. None: each on its own.
        strata: (N,) any values; as many groups of each stratum are drawn as there are. None: one.
        resamples: how many.
        seed: of the generator.
    """

    def __init__(
        self,
        n: int,
        groups: npt.ArrayLike | None = None,
        strata: npt.ArrayLike | None = None,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self.n = n
        self.resamples = resamples
        self.seed = seed
        self.group_of = group_numbers(n, groups)
        self.groups = int(self.group_of.max(initial=-1)) + 1
        stratum_of = group_numbers(n, strata)
        votes = np.zeros((self.groups, int(stratum_of.max(initial=0)) + 1), dtype=np.int64)
        np.add.at(votes, (self.group_of, stratum_of), 1)
        majority = votes.argmax(axis=1) if self.groups else np.zeros(0, dtype=np.int64)
        self.strata = [np.flatnonzero(majority == number) for number in np.unique(majority)]

    def __iter__(self) -> Iterator[Floats]:
        """Yield (r, N) float64 weights, whole numbers >= 0, `resamples` rows in all."""
        rng = np.random.default_rng(self.seed)
        rows = max(1, _CELLS // max(1, self.n))
        for start in range(0, self.resamples, rows):
            count = min(rows, self.resamples - start)
            times = np.empty((count, self.groups))
            offsets = np.arange(count)[:, None]
            for members in self.strata:
                size = len(members)
                drawn = rng.integers(size, size=(count, size)) + offsets * size
                counted = np.bincount(drawn.ravel(), minlength=count * size)
                times[:, members] = counted.reshape(count, size)
            yield times[:, self.group_of]

    def of(self, statistic: Statistic) -> Floats:
        """`statistic` of each resample: (r, N) weights to (r, ...) values, stacked to (R, ...)."""
        return np.concatenate([statistic(weights) for weights in self])


def group_numbers(n: int, groups: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
    """(N,) any values to (N,) 0-based numbers; None means that each image is on its own for groups.

    Raises:
        ValueError: not one value an image.
    """
    if groups is None:
        return np.arange(n)
    values = np.asarray(groups)
    if values.shape != (n,):
        raise ValueError(f"groups has shape {values.shape}, expected ({n},): one value an image")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """The middle 95% of (R,) resampled values (Efron 1979).

    Undefined resamples (NaN) are left out; when more than one in twenty is undefined, or all are
    equal, there is no telling and both ends are NaN.
    """
    defined = samples[np.isfinite(samples)]
    if len(defined) < 0.95 * len(samples) or not len(defined) or np.ptp(defined) == 0:
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def reverse_percentile_interval(value: float, samples: Floats) -> tuple[float, float]:
    """`value` minus the percentile interval of the resamples' own errors (Davison & Hinkley 1997).

    For figures that resampling inflates, as it does a calibration error: the percentile interval
    of such a figure lies above the figure.
    """
    low, high = percentile_interval(samples)
    return 2 * value - high, 2 * value - low


def exact_proportion(successes: float, n: int, clusters: int | None = None) -> Estimate:
    """A proportion with its exact interval (Clopper & Pearson 1934).

    Args:
        successes: of `n`.
        n: images.
        clusters: how many groups the images fall into, where copies belong together; the interval
            is then that of so many independent images with the same proportion (Korn & Graubard
            1998), which errs on the wide side.
    """
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = successes / n
    effective = n if clusters is None else clusters
    right = value * effective
    wrong = effective - right
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, right, wrong + 1)) if right > 0 else 0.0
    high = float(beta.ppf(1 - tail, right + 1, wrong)) if wrong > 0 else 1.0
    return Estimate(value, low, high, n)


def proportion(successes: float, n: int, clusters: int, samples: Floats) -> Estimate:
    """A proportion with the percentile interval of `samples`, or the exact one where few decide."""
    exact = exact_proportion(successes, n, clusters)
    if n == 0 or min(exact.value, 1 - exact.value) * clusters < FEW:
        return exact
    return Estimate(exact.value, *percentile_interval(samples), n)


def weighted_sum(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The sum of independent estimates, each times its weight, with its interval.

    The ends are as far from the sum as the parts' ends, squared and added, say (MOVER, Zou & Donner
    2008; for a difference of two proportions it is Newcombe's method 10, 1998). It keeps what the
    parts know about few images, where a bootstrap of the sum would not.
    """
    value = math.fsum(weight * part.value for part, weight in zip(parts, weights, strict=True))
    below = above = 0.0
    for part, weight in zip(parts, weights, strict=True):
        down, up = part.value - part.low, part.high - part.value
        if weight < 0:
            down, up = up, down
        below += (weight * down) ** 2
        above += (weight * up) ** 2
    n = sum(part.n for part in parts)
    return Estimate(value, value - math.sqrt(below), value + math.sqrt(above), n)


def paired_difference(first: Statistic, second: Statistic, draws: Draws) -> Estimate:
    """`first` minus `second`, both over the same images, resample by resample.

    Args:
        first: (r, N) weights of the images to (r,) values of the figure, for one model.
        second: the same figure for the other model.
        draws: the resamples.
    """
    every = np.ones((1, draws.n))
    value = float(first(every)[0] - second(every)[0])
    samples = draws.of(lambda weights: first(weights) - second(weights))
    return Estimate(value, *percentile_interval(samples), draws.n)


@dataclass(frozen=True)
class McNemar:
    """Do two models err equally often on the same images?

    Attributes:
        only_first: images that the first alone has right.
        only_second: images that the second alone has right.
        p_value: exact, two-sided, if images were independent; 1 when the models never differ.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first_right: npt.ArrayLike, second_right: npt.ArrayLike) -> McNemar:
    """The exact McNemar test (a binomial test on the images where one model alone is right).

    It takes images for independent: give it one image a group, or read it beside
    `paired_difference`, which does not.

    Args:
        first_right: (N,) bool, whether the first model has the image right.
        second_right: (N,) bool.
    """
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape}: the models saw different images")
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(second & ~first))
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p_value)
