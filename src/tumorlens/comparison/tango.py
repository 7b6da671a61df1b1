"""Tango's interval for the difference of two proportions of the same images (1998).

The score interval: all differences that the counts do not speak against at 95%. It has a width
where the two never differ, which no resampling of the images would give.
"""

import math

from scipy.optimize import brentq

_Z = 1.959963984540054


def paired_interval(b_only: int, a_only: int, n: int) -> tuple[float, float]:
    """95% interval of b's proportion minus a's.

    Args:
        b_only, a_only: how many of `n` are counted by the one alone.
        n: independent images, 1 or more.
    """
    value = (b_only - a_only) / n

    def against(difference: float) -> float:
        return score(difference, b_only, a_only, n)

    low = -1.0 if value == -1 else brentq(lambda d: against(d) - _Z, -1 + 1e-9, value)
    high = 1.0 if value == 1 else brentq(lambda d: against(d) + _Z, value, 1 - 1e-9)
    return float(low), float(high)


def score(difference: float, b_only: int, a_only: int, n: int) -> float:
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
