"""How far a figure from so many images can be believed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

Floats = npt.NDArray[np.float64]

# Of proportions with fewer images than this right or wrong the percentile bootstrap is too narrow
# (with none it has no width at all), and an exact interval over groups stands in.
FEW = 10

# Resamples held at once times images: 16 million weights are 128 MB.
_AT_ONCE = 16_000_000


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval; NaN where it has no meaning.

    Attributes:
        value: of the sample itself.
        low, high: ends of the interval.
        n: images behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """As primitives."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def resampled_weights(groups: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[Floats]:
    """Bootstrap counts, in blocks: how often each image is in each resample.

    Groups are drawn with replacement, as many as there are, and bring all their images: images that
    show one picture, or one patient, are not independent. With a group for each image this is the
    ordinary bootstrap. Classes are not held at their sizes: the class mix is part of the chance.

    Args:
        groups: (N,) group of each image.
        resamples: B.
        seed: of the draws.

    Yields:
        (b, N) float64, b's adding up to B.
    """
    rng = np.random.default_rng(seed)
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    block = max(1, min(resamples, _AT_ONCE // max(1, len(groups))))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, count, (size, count))
        times = np.zeros((size, count))
        for row in range(size):
            times[row] = np.bincount(drawn[row], minlength=count)
        yield times[:, member]


def bootstrap(
    figures: Callable[[Floats], dict[str, Floats]],
    groups: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
) -> dict[str, Floats]:
    """Figures of every resample.

    Args:
        figures: from (b, N) weights to (b,) values by name.
        groups, resamples, seed: see `resampled_weights`.

    Returns:
        (B,) values by name.
    """
    blocks = [figures(weights) for weights in resampled_weights(groups, resamples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def percentile_interval(resampled: Floats) -> tuple[float, float]:
    """95% percentile interval (Efron and Tibshirani 1993, ch. 13); resamples without value skip."""
    values = resampled[np.isfinite(resampled)]
    if len(values) == 0:
        return math.nan, math.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def exact_interval(successes: int, n: int) -> tuple[float, float]:
    """95% Clopper-Pearson interval of a proportion; the whole range where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def with_width(
    value: float, interval: tuple[float, float], independent: int
) -> tuple[float, float]:
    """`interval`, unless no resample differed: then the exact one of as many all right or wrong.

    A network without an error has none in any resample either; that says nothing of the next one.

    Args:
        value: between 0 and 1.
        interval: percentiles of the resamples.
        independent: groups behind the value; those of the rarest class it needs.
    """
    low, high = interval
    if low == high and value in (0.0, 1.0):
        return exact_interval(round(value) * independent, independent)
    return interval


def proportion_interval(
    value: float, resampled: Floats, groups: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """95% interval of a share of images: percentiles, or exact over groups where there are few.

    Args:
        value: share of the images that are counted.
        resampled: (B,) the same of every resample.
        groups: (n,) group of each image that is asked.
    """
    count = len(groups)
    if count and not math.isnan(value):
        counted = round(value * count)
        if min(counted, count - counted) < FEW:
            independent = len(np.unique(groups))
            return exact_interval(round(value * independent), independent)
    return percentile_interval(resampled)
