"""Means of per-image figures with intervals, in subsets and between them. No torch."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tumorlens.evaluation.intervals import (
    Estimate,
    bootstrap,
    percentile_interval,
    proportion_interval,
)

Floats = npt.NDArray[np.float64]
Masks = Mapping[str, npt.NDArray[np.bool_]]
Estimates = dict[str, dict[str, Estimate]]


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
        columns: (N,) a figure of each image; NaN where it has none.
        subsets: (N,) who belongs to it; empty ones are left out.
        groups: (N,) images of one group are resampled together.
        ratios: further figures: mean of one column over mean of another.
        proportions: columns of zeros and ones; with few of either the interval is exact
            (Clopper-Pearson over groups).
        contrasts: further entries beside the subsets: the first subset minus the second, on the
            same resamples.
        resamples: behind each interval.
        seed: of the resamples.

    Returns:
        Subset, or contrast, to figure to estimate; `n` is the count of images with a value.
    """
    names = list(columns)
    table = np.stack([columns[name] for name in names], axis=1)
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    inside = {name: mask for name, mask in subsets.items() if mask.any()}
    divided = ratios or {}

    def figures(weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for subset, mask in inside.items():
            sums = weights[:, mask] @ filled[mask]
            means = sums / (weights[:, mask] @ known[mask].astype(np.float64))
            found |= {f"{subset}/{name}": means[:, at] for at, name in enumerate(names)}
            found |= {
                f"{subset}/{name}": found[f"{subset}/{above}"] / found[f"{subset}/{below}"]
                for name, (above, below) in divided.items()
            }
        for name, (one, other) in (contrasts or {}).items():
            if one in inside and other in inside:
                for figure in (*names, *divided):
                    gap = found[f"{one}/{figure}"] - found[f"{other}/{figure}"]
                    found[f"{name}/{figure}"] = gap
        return found

    with np.errstate(invalid="ignore", divide="ignore"):
        point = {name: float(value[0]) for name, value in figures(np.ones((1, len(table)))).items()}
        resampled = bootstrap(figures, groups, resamples, seed)
    counts = {subset: known[mask].sum(axis=0) for subset, mask in inside.items()}
    for name, (one, other) in (contrasts or {}).items():
        if one in inside and other in inside:
            counts[name] = counts[one] + counts[other]
    found: Estimates = {subset: {} for subset in counts}
    for key, value in point.items():
        subset, figure = key.split("/", 1)
        at = names.index(divided[figure][0] if figure in divided else figure)
        low, high = percentile_interval(resampled[key])
        if figure in proportions and subset in inside:
            asked = groups[inside[subset] & known[:, at]]
            low, high = proportion_interval(value, resampled[key], asked)
        found[subset][figure] = Estimate(value, low, high, int(counts[subset][at]))
    return found


def primitives(found: Estimates) -> dict[str, dict[str, dict[str, float | int]]]:
    """As JSON primitives."""
    return {
        subset: {name: value.to_dict() for name, value in figures.items()}
        for subset, figures in found.items()
    }
