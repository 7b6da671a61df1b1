"""All metrics with intervals, with and without near-duplicates; bias and sets in short."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.errors import TumorlensError
from tumorlens.evaluation import metrics
from tumorlens.evaluation.intervals import (
    FEW,
    Estimate,
    bootstrap,
    difference,
    ece_interval,
    percentile_interval,
    proportion_interval,
    share_estimate,
    with_width,
)
from tumorlens.evaluation.predictions import Predictions, unit_words
from tumorlens.evaluation.subgroups import (
    LEAST,
    Gap,
    SubgroupRecall,
    Subgroups,
    SubgroupScores,
    recall_by,
)
from tumorlens.uncertainty.conformal import in_sets
from tumorlens.uncertainty.decision import DecisionRule

Floats = npt.NDArray[np.float64]

# The largest recall of a class minus the smallest; which classes they are is that of all images.
LARGEST_GAP = "largest_recall_gap"


@dataclass(frozen=True, eq=False)
class Subset:
    """Metrics of one set of images."""

    name: str  # "all", "without_exact_duplicates" or "without_near_duplicates"
    n: int  # images
    groups: int  # groups among them
    support: dict[str, int]  # images of each class
    confusion: npt.NDArray[np.int64]  # (K, K) counts, rows true
    metrics: dict[str, Estimate]  # by the names of `metrics.compute`

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return {
            "n": self.n,
            "groups": self.groups,
            "support": self.support,
            "confusion_matrix": self.confusion.tolist(),
            "metrics": {name: value.to_dict() for name, value in self.metrics.items()},
        }


@dataclass(frozen=True)
class Scores:
    """What `score` found."""

    classes: tuple[str, ...]  # K names
    all: Subset  # every image
    # without images whose bytes are in training; None: not known
    without_exact_duplicates: Subset | None
    # without images that show an image of training; None: not known, or none left
    without_near_duplicates: Subset | None
    # metric by metric, `all` minus `without_near_duplicates`, on the same resamples
    leakage_inflation: dict[str, Estimate]
    # how many images are "exact" and "near" near-duplicates, by class; None: not known
    duplicates: dict[str, dict[str, int]] | None
    bias_pair: tuple[str, str] | None  # the two classes whose mutual confusion is named
    # the classes of the smallest and the largest recall; `LARGEST_GAP` is between them. None: there
    # are images of fewer than two.
    extremes: tuple[str, str] | None
    resamples: int  # behind each interval
    unit: str  # what they resample, in words

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        exact, clean = self.without_exact_duplicates, self.without_near_duplicates
        return {
            "interval": f"95%, percentile bootstrap over {self.unit}, {self.resamples} resamples; "
            "exact (Clopper-Pearson over them) for proportions with fewer than "
            f"{FEW} right or wrong",
            "unit": self.unit,
            "bias_pair": list(self.bias_pair) if self.bias_pair else None,
            "duplicates_in_training": self.duplicates,
            "all": self.all.to_dict(),
            "without_exact_duplicates": exact.to_dict() if exact else None,
            "without_near_duplicates": clean.to_dict() if clean else None,
            "leakage_inflation": {
                name: value.to_dict() for name, value in self.leakage_inflation.items()
            },
        }


def score(predictions: Predictions, *, resamples: int = 2000, seed: int = 0) -> Scores:
    """Score predictions.

    What `Predictions.units` has is resampled together.
    """
    labels, classes = predictions.labels, predictions.classes
    units, duplicates = predictions.units, predictions.duplicates
    masks = {"all": np.ones(len(labels), dtype=bool)}
    counts = None
    if duplicates is not None:
        masks |= {
            "without_exact_duplicates": duplicates != "exact",
            "without_near_duplicates": duplicates == "",
        }
        counts = {
            kind: {
                name: int(((duplicates == kind) & (labels == index)).sum())
                for index, name in enumerate(classes)
            }
            for kind in ("exact", "near")
        }
    parts = {name: predictions.only(mask) for name, mask in masks.items() if mask.any()}

    def values_of(weights: Floats) -> dict[str, Floats]:
        return {
            f"{name}/{metric}": values
            for name, part in parts.items()
            for metric, values in metrics.compute(
                part.labels, part.probabilities, classes, weights[:, masks[name]]
            ).items()
        }

    with np.errstate(invalid="ignore", divide="ignore"):
        point = values_of(np.ones((1, len(labels))))
        resampled = bootstrap(values_of, units, resamples, seed)
    subsets = {
        name: _subset(name, part, units[masks[name]], point, resampled)
        for name, part in parts.items()
    }
    whole, clean = subsets["all"], subsets.get("without_near_duplicates")
    inflation = _leakage_inflation(whole, clean, resampled)
    extremes = _extremes(whole, classes)
    if extremes:
        for name, subset in subsets.items():
            subset.metrics[LARGEST_GAP] = _recall_gap(name, subset, extremes, resampled)
    return Scores(
        classes=classes,
        all=whole,
        without_exact_duplicates=subsets.get("without_exact_duplicates"),
        without_near_duplicates=clean,
        leakage_inflation=inflation,
        duplicates=counts,
        extremes=extremes,
        bias_pair=metrics.bias(whole.confusion.astype(np.float64), classes),
        resamples=resamples,
        unit=unit_words([predictions]),
    )


def tumor_accuracy(
    predictions: Predictions, *, resamples: int = 2000, seed: int = 0
) -> Estimate | None:
    """`metrics.correct_among_tumors` as a share, with its 95% interval; None where not asked."""
    share = metrics.share("tumor_accuracy", predictions)
    if share is None or not share[0].any():
        return None
    tumor, right = share
    hits, units = right[tumor].astype(np.float64), predictions.units[tumor]
    return share_estimate(hits, units, resamples=resamples, seed=seed)


def _subset(
    name: str,
    predictions: Predictions,
    units: npt.NDArray[np.int64],
    point: dict[str, Floats],
    resampled: dict[str, Floats],
) -> Subset:
    labels, classes = predictions.labels, predictions.classes
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (labels, predictions.predicted), 1)
    estimates = {}
    for key, values in point.items():
        subset, metric = key.split("/", 1)
        if subset != name:
            continue
        value = float(values[0])
        low, high = percentile_interval(resampled[key])
        share = metrics.share(metric, predictions)
        n = len(labels) if share is None else int(share[0].sum())
        if share is not None:
            low, high = proportion_interval(value, resampled[key], units[share[0]])
        elif value == 1.0 and metric != "balanced_accuracy":
            rarest = min(len(np.unique(units[labels == index])) for index in np.unique(labels))
            low, high = with_width(value, (low, high), rarest)
        if metric == "ece":
            low, high = ece_interval(value, resampled[key])
        estimates[metric] = Estimate(value, low, high, n)
    balanced = estimates["balanced_accuracy"]
    if balanced.low == balanced.high:  # one class predicted for all images, or every one right
        recalls = [one for one in (estimates[f"recall_{name}"] for name in classes) if one.n]
        estimates["balanced_accuracy"] = replace(
            balanced,
            low=float(np.mean([one.low for one in recalls])),
            high=float(np.mean([one.high for one in recalls])),
        )
    return Subset(
        name=name,
        n=len(labels),
        groups=len(np.unique(units)),
        support=dict(zip(classes, table.sum(axis=1).tolist(), strict=True)),
        confusion=table,
        metrics=estimates,
    )


def _extremes(whole: Subset, classes: Sequence[str]) -> tuple[str, str] | None:
    recalls = {name: whole.metrics[f"recall_{name}"] for name in classes}
    there = [name for name in classes if recalls[name].n]
    there.sort(key=lambda name: recalls[name].value)
    return (there[0], there[-1]) if len(there) > 1 else None


def _recall_gap(
    name: str, subset: Subset, extremes: tuple[str, str], resampled: dict[str, Floats]
) -> Estimate:
    worst, best = (f"recall_{label}" for label in extremes)
    draws = resampled[f"{name}/{best}"] - resampled[f"{name}/{worst}"]
    return difference(subset.metrics[best], subset.metrics[worst], draws, subset.n)


def _leakage_inflation(
    whole: Subset, clean: Subset | None, resampled: dict[str, Floats]
) -> dict[str, Estimate]:
    if clean is None or clean.n == whole.n:
        return {}
    return {
        metric: difference(
            value,
            clean.metrics[metric],
            resampled[f"all/{metric}"] - resampled[f"without_near_duplicates/{metric}"],
            clean.n,
        )
        for metric, value in whole.metrics.items()
    }


@dataclass(frozen=True)
class Bias:
    """What the network finds better than what."""

    sentence: str  # all of it in words, without intervals
    # worst_class, best_class: of the smallest and the largest recall; None: there are images of
    # fewer than two classes
    worst_class: str | None
    best_class: str | None
    # the largest share at which one class is taken for another, "a->b"; None: there is no error
    main_confusion: str | None
    # the smallest recall in a subgroup that was tested; None: none was
    worst_subgroup: SubgroupScores | None
    largest_gap: Gap | None  # of the subgroups of one class; None: none was tested
    # by name, what it is in words, and its value with interval
    metrics: dict[str, tuple[str, Estimate]]

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        found = {name: {"label": w, **one.to_dict()} for name, (w, one) in self.metrics.items()}
        whole = {name: getattr(self, name) for name in ("worst_subgroup", "largest_gap")}
        whole = {name: one.to_dict() if one else None for name, one in whole.items()}
        return {**vars(self), **whole, "metrics": found}


def bias(scores: Scores, subgroups: Subgroups) -> Bias:
    """Class-wise bias of all images."""
    found, worst, gap = scores.all.metrics, subgroups.worst, subgroups.largest_gap
    rates = [name for name, one in found.items() if "->" in name and one.value > 0]
    main = max(rates, key=lambda name: found[name].value, default=None)
    words = {f"recall_{name}": f"recall of {name}" for name in scores.classes}
    if scores.extremes:
        words[LARGEST_GAP] = "largest gap: {1} minus {0}".format(*scores.extremes)
    named = [main] if main else []
    if scores.bias_pair:
        one, other = scores.bias_pair
        words[f"recall_gap_{other}_minus_{one}"] = f"gap: {other} minus {one}"
        named += [f"{one}->{other}", f"{other}->{one}"]
    words |= {name: "share of {} taken for {}".format(*name.split("->")) for name in named}
    listed = {name: (text, found[name]) for name, text in words.items() if name in found}
    if worst:
        text = f"recall of {worst.label}, {worst.column} {worst.subgroup}"
        listed["worst_subgroup"] = text, worst.recall
    if gap:
        text = f"gap of {gap.label} by {gap.column}: {gap.best} minus {gap.worst}"
        listed["largest_subgroup_gap"] = text, gap.difference
    low, high = scores.extremes or (None, None)
    sentence = " ".join(_sentences(scores, main, subgroups))
    return Bias(sentence, low, high, main, worst, gap, listed)


def _sentences(scores: Scores, main: str | None, subgroups: Subgroups) -> Iterator[str]:
    found, worst, gap = scores.all.metrics, subgroups.worst, subgroups.largest_gap
    if scores.extremes:
        low, high = scores.extremes
        least, most = (found[f"recall_{name}"].value for name in scores.extremes)
        yield f"Recall is lowest for {low} ({least:.3f}) and highest for {high} ({most:.3f})."
        if found[LARGEST_GAP].low <= 0:
            yield "This gap is not statistically significant."
    if main:
        true, taken = main.split("->")
        yield f"The main confusion: {found[main].value:.1%} of {true} are taken for {taken}."
    if not worst or not gap:
        yield f"No subgroups are compared: that takes two of a class with {LEAST} patients each."
        return
    differs = "differs significantly" if worst.significant else "does not differ significantly"
    yield (
        f"The worst class in a subgroup is {worst.label} with {worst.column} {worst.subgroup}: "
        f"recall {worst.recall.value:.3f}."
    )
    yield (
        f"It {differs} from its other subgroups (p = {worst.p_holm:.2g}, Holm over "
        f"{subgroups.tests} tests)."
    )
    if gap.explained.value > 0:
        yield (
            f"The largest gap within a class is that of {gap.label} by {gap.column}: with the "
            f"recall of {gap.best} everywhere, {gap.explained.value:.0%} of its misses would go "
            f"(by chance {gap.explained_by_chance:.0%})."
        )


@dataclass(frozen=True)
class SetCoverage:
    """Sets of all images, for each class."""

    wanted: float  # share of the images of every class whose set shall have the true one
    # by_class, by_site: of a class's images, and of those of each site, where sites are known;
    # `recall` is the share whose set has the class
    by_class: tuple[SubgroupRecall, ...] = ()
    by_site: tuple[SubgroupRecall, ...] = ()
    # mean number of classes in a set, of the same images, by (class, site); the site is "" for all
    sizes: dict[tuple[str, str], float] = field(default_factory=dict)
    reason: str = ""  # why there are no sets; "" where there are

    @property
    def sentence(self) -> str:
        """In short."""
        if self.reason:
            return f"No sets of classes: {self.reason}"
        told = ", ".join(
            f"{one.label} {one.recall.value:.3f} ({self.sizes[one.label, '']:.2f} classes a set)"
            for one in self.by_class
        )
        return f"Sets of classes that shall have the true one in {self.wanted:.0%}: {told}."

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        rows = [("", one) for one in self.by_class] + [(one.subgroup, one) for one in self.by_site]
        return {
            "wanted": self.wanted,
            "reason": self.reason,
            "rows": [
                {
                    "class": one.label,
                    "site": site,
                    "coverage": one.recall.to_dict(),
                    "mean_size": self.sizes[one.label, site],
                    "patients": one.patients,
                }
                for site, one in rows
            ],
        }


def set_coverage(
    predictions: Predictions, rule: DecisionRule, wanted: float, *, resamples: int, seed: int
) -> SetCoverage:
    """Sets of `predictions` and how often they hold; or why there are none."""
    try:
        least = rule.at(wanted).least
    except TumorlensError as why:
        return SetCoverage(wanted, reason=str(why))
    assert least is not None
    sets = in_sets(predictions.probabilities, least)
    held = sets[np.arange(len(sets)), predictions.labels].astype(np.float64)
    names = np.array(predictions.classes)[predictions.labels]
    known = predictions.sites
    found, sizes = [], {}
    for sites in (("all",) * len(sets), known):
        rows = recall_by(predictions, sites, hits=held, resamples=resamples, seed=seed)
        for one in rows:
            inside = (names == one.label) & (np.array(sites) == one.subgroup)
            site = one.subgroup if sites is known else ""
            sizes[one.label, site] = float(sets[inside].sum(axis=1).mean())
        found.append(rows)
    return SetCoverage(wanted, found[0], found[1], sizes)
