"""How far a metric from so many images can be believed: bootstrap over groups, exact, Tango's."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binomtest

Floats = npt.NDArray[np.float64]
Masks = Mapping[str, npt.NDArray[np.bool_]]

# Of proportions with fewer images than this right or wrong the percentile bootstrap is too narrow
# (with none it has no width at all), and an exact interval over groups stands in.
FEW = 10

# Resamples held at once times images: 4 million weights are 32 MB, and ranking holds a dozen times
# that. The draws are the same whatever the size of a block.
_AT_ONCE = 4_000_000

_Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95% interval; NaN where it has no meaning.

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


Estimates = dict[str, dict[str, Estimate]]


def resampled_weights(groups: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[Floats]:
    """Bootstrap counts, in blocks: how often each image is in each resample.

    Groups are drawn with replacement, as many as there are, and bring all their images: images that
    show one image, or one patient, are not independent. With a group for each image this is the
    ordinary bootstrap. Classes are not held at their sizes: the class mix is part of the chance.

    Args:
        groups: (N,) group of each image.
        resamples: B.

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
        drawn += count * np.arange(size)[:, None]  # each resample counts in a row of its own
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield times[:, member].astype(np.float64)


def bootstrap(
    metrics: Callable[[Floats], dict[str, Floats]],
    groups: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
) -> dict[str, Floats]:
    """(B,) metrics of each resample by name; `metrics` takes (b, N) weights to (b,) values."""
    blocks = [metrics(weights) for weights in resampled_weights(groups, resamples, seed)]
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
    `independent` are the groups behind the value; those of the rarest class it needs.
    """
    low, high = interval
    if low == high and value in (0.0, 1.0):
        return exact_interval(round(value) * independent, independent)
    return interval


def proportion_interval(
    value: float, resampled: Floats, groups: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """95% interval of a share of images: percentiles, or exact over groups where there are few.

    `resampled` is (B,) the share in every resample, `groups` (n,) that of each image asked.
    """
    count = len(groups)
    if count and not math.isnan(value):
        counted = round(value * count)
        if min(counted, count - counted) < FEW:
            independent = len(np.unique(groups))
            return exact_interval(round(value * independent), independent)
    return percentile_interval(resampled)


def ece_interval(value: float, resampled: Floats) -> tuple[float, float]:
    """95% interval of an expected calibration error.

    Resampling adds noise to every bin and so raises ECE: its spread is reflected about the value
    (Efron and Tibshirani 1993, sec. 13.4).
    """
    low, high = percentile_interval(resampled)
    return max(0.0, 2 * value - high), max(value, 2 * value - low)


def share_estimate(
    shares: Floats, groups: npt.NDArray[np.int64], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of what each image has right, with its 95% interval over groups.

    `shares` is (N,) 0 or 1 of each image, or between, of several networks.
    """
    value = float(shares.mean())
    drawn = bootstrap(
        lambda weights: {"": weights @ shares / weights.sum(axis=1)}, groups, resamples, seed
    )
    low, high = proportion_interval(value, drawn[""], groups)
    return Estimate(value, low, high, len(shares))


def difference(one: Estimate, other: Estimate, resampled: Floats, n: int) -> Estimate:
    """`one` minus `other`; as far apart as their intervals let them where no resample differed.

    `resampled` is (B,) the difference in every resample, `n` the images behind it.
    """
    low, high = percentile_interval(resampled)
    if low == high:
        low, high = one.low - other.high, one.high - other.low
    return Estimate(one.value - other.value, low, high, n)


def estimates(
    columns: Mapping[str, Floats],
    subsets: Masks,
    groups: npt.NDArray[np.int64],
    *,
    ratios: Mapping[str, tuple[str, str]] | None = None,
    proportions: Sequence[str] = (),
    contrasts: Mapping[str, tuple[str, str]] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimates:
    """Mean of each column in each subset, with a 95% bootstrap interval over groups.

    Args:
        columns: (N,) a metric of each image; NaN where it has none.
        subsets: (N,) who belongs to it; empty ones are left out.
        groups: (N,) images of one group are resampled together.
        ratios: further metrics: mean of one column over mean of another.
        proportions: columns of zeros and ones; with few of either the interval is exact
            (Clopper-Pearson over groups).
        contrasts: further entries beside the subsets: the first subset minus the second, on the
            same resamples.

    Returns:
        Subset, or contrast, to metric to estimate; `n` is the count of images with a value.
    """
    names = list(columns)
    table = np.stack([columns[name] for name in names], axis=1)
    known = np.isfinite(table)
    inside = {name: mask for name, mask in subsets.items() if mask.any()}
    divided = ratios or {}
    pairs = {
        name: (one, other)
        for name, (one, other) in (contrasts or {}).items()
        if one in inside and other in inside
    }

    def metrics(weights: Floats) -> dict[str, Floats]:
        return _means(columns, inside, divided, pairs, weights)

    with np.errstate(invalid="ignore", divide="ignore"):
        point = {name: float(value[0]) for name, value in metrics(np.ones((1, len(table)))).items()}
        resampled = bootstrap(metrics, groups, resamples, seed)
    counts = {subset: known[mask].sum(axis=0) for subset, mask in inside.items()}
    counts |= {name: counts[one] + counts[other] for name, (one, other) in pairs.items()}
    found: Estimates = {subset: {} for subset in counts}
    for key, value in point.items():
        subset, metric = key.split("/", 1)
        at = names.index(divided[metric][0] if metric in divided else metric)
        low, high = percentile_interval(resampled[key])
        if metric in proportions and subset in inside:
            asked = groups[inside[subset] & known[:, at]]
            low, high = proportion_interval(value, resampled[key], asked)
        found[subset][metric] = Estimate(value, low, high, int(counts[subset][at]))
    return found


def _means(
    columns: Mapping[str, Floats],
    subsets: Masks,
    ratios: Mapping[str, tuple[str, str]],
    contrasts: Mapping[str, tuple[str, str]],
    weights: Floats,
) -> dict[str, Floats]:
    """The metrics of `estimates` in (B, N) weighted resamples, (B,) each by "SUBSET/METRIC"."""
    table = np.stack(list(columns.values()), axis=1)
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    found: dict[str, Floats] = {}
    for subset, mask in subsets.items():
        sums = weights[:, mask] @ filled[mask]
        means = sums / (weights[:, mask] @ known[mask].astype(np.float64))
        found |= {f"{subset}/{name}": means[:, at] for at, name in enumerate(columns)}
        found |= {
            f"{subset}/{name}": found[f"{subset}/{above}"] / found[f"{subset}/{below}"]
            for name, (above, below) in ratios.items()
        }
    for name, (one, other) in contrasts.items():
        for metric in (*columns, *ratios):
            found[f"{name}/{metric}"] = found[f"{one}/{metric}"] - found[f"{other}/{metric}"]
    return found


def primitives(found: Estimates) -> dict[str, dict[str, dict[str, float | int]]]:
    """Estimates of subsets as JSON primitives."""
    return {
        subset: {name: value.to_dict() for name, value in metrics.items()}
        for subset, metrics in found.items()
    }


def paired_interval(b_only: int, a_only: int, n: int) -> tuple[float, float]:
    """Tango's 95% interval (1998) of b's proportion minus a's, of the same images.

    The score interval: all differences that the counts do not speak against at 95%. It has a width
    where the two never differ, which no resampling of the images would give.

    Args:
        b_only, a_only: how many of `n` are counted by the one alone.
        n: independent images, 1 or more.
    """
    value = (b_only - a_only) / n

    def against(difference: float) -> float:
        return tango_score(difference, b_only, a_only, n)

    low = -1.0 if value == -1 else brentq(lambda d: against(d) - _Z, -1 + 1e-9, value)
    high = 1.0 if value == 1 else brentq(lambda d: against(d) + _Z, value, 1 - 1e-9)
    return float(low), float(high)


def tango_score(difference: float, b_only: int, a_only: int, n: int) -> float:
    """Tango's statistic: how many standard errors the counts are above a true `difference`."""
    rate = restricted_rate(difference, b_only, a_only, n)
    variance = n * (2 * rate + difference * (1 - difference))
    gap = b_only - a_only - n * difference
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def restricted_rate(difference: float, b_only: int, a_only: int, n: int) -> float:
    """Likeliest share of images that a alone counts, where the true difference is `difference`."""
    linear = (2 * n - b_only + a_only) * difference - b_only - a_only
    constant = -a_only * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear**2 - 8 * n * constant))
    return (root - linear) / (4 * n)
