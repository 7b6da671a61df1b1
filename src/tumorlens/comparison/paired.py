"""Two networks on the same images: the difference of every metric, and its significance.

Chance has two sources. The images: another sample of them would give other metrics; groups of
images (near-duplicates, or patients) are drawn with replacement, for both networks at once, so that
what is hard for both cancels. The runs: another seed would give another network; the mean
difference of S seeds moves by a t-distributed amount of scale s / sqrt(S), which with few seeds is
wide, as it must be. Both together make the interval: sums of a draw of images and a draw of seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from tumorlens.errors import TumorlensError
from tumorlens.evaluation import metrics
from tumorlens.evaluation.intervals import FEW, bootstrap, paired_interval, percentile_interval
from tumorlens.evaluation.metrics import Mask
from tumorlens.evaluation.predictions import Predictions, unit_words
from tumorlens.evaluation.significance import (
    error_of_runs,
    holm,
    run_draws,
    sign_test,
    two_sided,
    votes,
)

Floats = npt.NDArray[np.float64]
# From (B, N) weights of the images to (B,) values by metric.
Weighted = Callable[[Floats], dict[str, Floats]]


@dataclass(frozen=True)
class Pair:
    """Two networks' predictions of the same images, in the same order."""

    # a, b: the predictions; differences are b minus a
    a: Predictions
    b: Predictions
    # fold, seed: of the two runs; None where that is not known or has no meaning
    fold: int | None = None
    seed: int | None = None

    def only(self, keep: Mask) -> "Pair":
        """The images that `keep` marks."""
        return self.each(lambda one: one.only(keep))

    def each(self, changed: Callable[[Predictions], Predictions]) -> "Pair":
        """The same with what becomes of both networks' predictions."""
        return replace(self, a=changed(self.a), b=changed(self.b))


def order_of(names: Sequence[str], like: Sequence[str]) -> npt.NDArray[np.int64]:
    """(len(like),) where in `names` each of `like` is."""
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[name] for name in like], dtype=np.int64)


def pair_up(
    a: Predictions, b: Predictions, fold: int | None = None, seed: int | None = None
) -> Pair:
    """Put two networks' predictions side by side.

    Raises:
        TumorlensError: the images, their labels or the classes differ.
    """
    strangers = sorted(set(a.paths) ^ set(b.paths))
    if strangers:
        shared = len(set(a.paths) & set(b.paths))
        raise TumorlensError(
            f"{a.source} and {b.source}: differ in {len(strangers)} images ({strangers[0]} is in "
            f"one of them alone; {shared} are in both), and networks are compared on the same "
            "images; score both on the same split."
        )
    if set(a.classes) != set(b.classes):
        raise TumorlensError(
            f"{a.source} and {b.source}: have the classes {', '.join(a.classes)} and "
            f"{', '.join(b.classes)}; networks are compared on the same classes."
        )
    ordered = b.only(order_of(b.paths, like=a.paths))
    ordered = replace(
        ordered,
        classes=a.classes,
        labels=order_of(a.classes, like=b.classes)[ordered.labels],
        probabilities=ordered.probabilities[:, order_of(b.classes, like=a.classes)],
    )
    differing = np.flatnonzero(ordered.labels != a.labels)
    if len(differing):
        raise TumorlensError(
            f"{a.source} and {b.source}: give {a.paths[differing[0]]} different labels; networks "
            "are compared on the same labels."
        )
    return Pair(a, ordered, fold, seed)


@dataclass(frozen=True)
class Difference:
    """One metric of both networks, means over runs, and b minus a."""

    # a, b: the metric of each
    a: float
    b: float
    # value, low, high: the difference and its 95% interval over images and, with several runs,
    # seeds.
    value: float
    low: float
    high: float
    std: float | None  # of the runs' differences; None with one run
    # t_low, t_high: 95% t interval of the mean over runs alone; None with one run
    t_low: float | None
    t_high: float | None
    better: float  # probability that b is better, in the sense of the same draws
    # Of no difference, two-sided; exact McNemar for a proportion in one pair of runs, else from the
    # draws.
    p: float
    p_holm: float  # p after Holm's correction for all the metrics looked at
    test: str  # which of the two p is

    @property
    def has_value(self) -> bool:
        """False for, say, the precision of a class that a network never predicts."""
        return not math.isnan(self.value)

    @property
    def significant(self) -> bool:
        """Whether p after Holm's correction for all compared metrics is below 0.05."""
        return self.p_holm < 0.05


@dataclass(frozen=True)
class Comparison:
    """What `compare` found of two networks."""

    # a, b: what they are called
    a: str
    b: str
    classes: tuple[str, ...]  # K names
    images: int  # how many, over all folds
    unit: str  # what is resampled, in words, over all folds
    runs: int  # pairs of runs
    # seeds, folds: how many of each
    seeds: int
    folds: int
    differences: dict[str, Difference]  # by metric
    # Exact, for each pair of runs: "all" and each class to b_only (groups in which b is right more
    # often), a_only, p.
    mcnemar: tuple[dict[str, Any], ...]
    # The two classes whose confusion is among the metrics, by name
    bias_pair: tuple[str, str] | None
    resamples: int  # draws behind each interval

    @property
    def looked_at(self) -> int:
        """Metrics that have a value, for which p is corrected."""
        return sum(one.has_value for one in self.differences.values())


def compare(
    pairs: Sequence[Pair],
    names: tuple[str, str],
    *,
    resamples: int = 5000,
    seed: int = 0,
) -> Comparison:
    """Compare two networks, each by one run or several.

    Pairs are of the same classes; those of one fold have the same images.

    Raises:
        TumorlensError: pairs of one fold have different images.
    """
    folds = _by_fold(pairs)
    classes = pairs[0].a.classes
    total = np.zeros((len(classes),) * 2)
    for one in (predictions for pair in pairs for predictions in (pair.a, pair.b)):
        predicted, ones = one.predicted, np.ones((1, len(one.labels)))
        total += metrics.confusion(one.labels, predicted, len(classes), ones)[0]
    bias = metrics.bias(total, classes)
    rng = np.random.default_rng(seed)
    rates = [f"{one}->{other}" for one, other in (bias, bias[::-1])] if bias else []
    wanted = [
        *("accuracy", "balanced_accuracy", "macro_f1", "tumor_accuracy"),
        *(*map("recall_{}".format, classes), *rates),
        *(f"{metric}_{name}" for name in classes for metric in ("precision", "auroc")),
    ]
    point, drawn = _resampled(folds, wanted, resamples, seed)
    differences = {
        name: _difference(
            name,
            [[float(a[name][0]) for a, _ in fold] for fold in point],
            [[float(b[name][0]) for _, b in fold] for fold in point],
            values,
            rng,
            pairs[0] if len(pairs) == 1 else None,
        )
        for name, values in drawn.items()
    }
    tested = [name for name, one in differences.items() if one.has_value]
    adjusted = holm([differences[name].p for name in tested])
    for name, p in zip(tested, adjusted, strict=True):
        differences[name] = replace(differences[name], p_holm=p)
    return Comparison(
        a=names[0],
        b=names[1],
        classes=classes,
        images=sum(len(units[0].a.paths) for units in folds),
        unit=unit_words(units[0].a for units in folds),
        runs=len(pairs),
        seeds=len({one.seed for one in pairs}),
        folds=len(folds),
        differences=differences,
        mcnemar=tuple(_mcnemar(one) for units in folds for one in units),
        bias_pair=bias,
        resamples=resamples,
    )


def _resampled(
    folds: list[list[Pair]], wanted: Sequence[str], resamples: int, seed: int
) -> tuple[list[list[tuple[dict[str, Floats], dict[str, Floats]]]], dict[str, Floats]]:
    """Metrics of a and b, fold by fold and run by run; (resamples,) draws of each's difference."""
    point = []
    drawn: dict[str, Floats] = {}
    for index, units in enumerate(folds):
        members = units[0].a.units
        networks = [
            (weighted_metrics(two.a, wanted), weighted_metrics(two.b, wanted)) for two in units
        ]
        ones = np.ones((1, len(members)))
        point.append([(of_a(ones), of_b(ones)) for of_a, of_b in networks])
        of_fold = partial(_mean_gain, networks)
        for name, mean in bootstrap(of_fold, members, resamples, seed + 1000 * index).items():
            drawn[name] = drawn.get(name, np.zeros(resamples)) + mean / len(folds)
    return point, drawn


def _mean_gain(networks: Sequence[tuple[Weighted, Weighted]], weights: Floats) -> dict[str, Floats]:
    """Metrics of b minus those of a, means over the runs of a fold."""
    found = [(of_a(weights), of_b(weights)) for of_a, of_b in networks]
    return {name: np.mean([b[name] - a[name] for a, b in found], axis=0) for name in found[0][0]}


def higher_is_better(metric: str) -> bool:
    """False for the rate at which one class is taken for another."""
    return "->" not in metric


def _by_fold(pairs: Sequence[Pair]) -> list[list[Pair]]:
    folds: dict[int | None, list[Pair]] = {}
    for one in pairs:
        first = folds.setdefault(one.fold, [one])[0]
        if one is not first:
            folds[one.fold].append(one)
        if one.a.paths != first.a.paths:
            raise TumorlensError(
                f"{first.a.source} and {one.a.source}: have different images, or in different "
                "order; runs of one fold are scored on the same images."
            )
    return [folds[key] for key in sorted(folds, key=lambda fold: -1 if fold is None else fold)]


def weighted_metrics(predictions: Predictions, wanted: Sequence[str]) -> Weighted:
    """From (B, N) weights of the images to (B,) values of those metrics wanted that there are."""
    classes, labels = predictions.classes, predictions.labels
    predicted = predictions.predicted
    tumors = metrics.share("tumor_accuracy", predictions)

    def values_of(weights: Floats) -> dict[str, Floats]:
        table = metrics.confusion(labels, predicted, len(classes), weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = dict(metrics.from_confusion(table, classes))
            if tumors is not None:
                found["tumor_accuracy"] = (weights @ tumors[1]) / (weights @ tumors[0])
            for index, name in enumerate(classes):
                if f"auroc_{name}" in wanted:
                    scores = predictions.probabilities[:, index]
                    found[f"auroc_{name}"] = metrics.ranking(labels == index, scores, weights)[0]
        return {name: found[name] for name in wanted if name in found}

    return values_of


def _difference(
    name: str,
    a: list[list[float]],
    b: list[list[float]],
    drawn: Floats,
    rng: np.random.Generator,
    single: Pair | None,
) -> Difference:
    """One metric, from its values fold by fold and run by run, and its draws over images."""
    runs = [
        [after - before for before, after in zip(*fold, strict=True)]
        for fold in zip(a, b, strict=True)
    ]
    value = float(np.mean([np.mean(fold) for fold in runs]))
    std = t_low = t_high = None
    draws, test = drawn, "draws of images"
    every = [one for fold in runs for one in fold]
    if len(every) > 1:
        std = float(np.std(every, ddof=1))
        error, freedom = error_of_runs(runs)
        reach = float(t.ppf(0.975, freedom)) * error
        t_low, t_high = value - reach, value + reach
        draws, test = drawn + run_draws(runs, len(drawn), rng), "draws of images and seeds"
    low, high = percentile_interval(draws)
    p = two_sided(draws)
    # A precision is of other images for each network.
    pair = () if single is None or name.startswith("precision_") else (single.a, single.b)
    shares = [one for one in (metrics.share(name, network) for network in pair) if one is not None]
    if single is not None and shares:
        (asked, before), (_, after) = shares
        members = single.a.units[asked]
        ahead, behind = votes(members, after[asked].astype(int) - before[asked])
        p, test = sign_test(ahead, behind), "exact McNemar"
        if ahead + behind < FEW and asked.any():
            low, high = paired_interval(ahead, behind, len(np.unique(members)))
            low, high = min(low, value), max(high, value)
    if math.isnan(value):
        low = high = p = math.nan
    finite = draws[np.isfinite(draws)]
    higher = float((finite > 0).mean() + (finite == 0).mean() / 2) if len(finite) else math.nan
    return Difference(
        a=float(np.mean([np.mean(fold) for fold in a])),
        b=float(np.mean([np.mean(fold) for fold in b])),
        value=value,
        low=float(np.clip(low, -1, 1)),  # every metric is between 0 and 1
        high=float(np.clip(high, -1, 1)),
        std=std,
        t_low=None if t_low is None else max(-1.0, t_low),
        t_high=None if t_high is None else min(1.0, t_high),
        better=higher if higher_is_better(name) else 1 - higher,
        p=p,
        p_holm=p,
        test=test,
    )


def _mcnemar(one: Pair) -> dict[str, Any]:
    found: dict[str, Any] = {"fold": one.fold, "seed": one.seed}
    before, after = (each.predicted == each.labels for each in (one.a, one.b))
    gain = after.astype(int) - before
    members = one.a.units
    masks = {"all": np.ones(len(gain), dtype=bool)}
    masks |= {name: one.a.labels == index for index, name in enumerate(one.a.classes)}
    for name, mask in masks.items():
        ahead, behind = votes(members[mask], gain[mask])
        found[name] = {"b_only": ahead, "a_only": behind, "p": sign_test(ahead, behind)}
    return found
