"""A study's runs in numbers: each way of looking at them, means with intervals, comparisons."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tumorlens.comparison.compare import pairs_of_study
from tumorlens.comparison.paired import Comparison, Pair, Weighted, compare, weighted_metrics
from tumorlens.comparison.run_files import RunFiles
from tumorlens.comparison.text import sentence, significant_changes
from tumorlens.data.patients import PatientTable
from tumorlens.data.public_patients import is_testing
from tumorlens.errors import TumorlensError
from tumorlens.evaluation import metrics
from tumorlens.evaluation.intervals import (
    Estimate,
    bootstrap,
    percentile_interval,
    proportion_interval,
    with_width,
)
from tumorlens.evaluation.predictions import Predictions, near_duplicates_of_any, unit_words
from tumorlens.evaluation.significance import run_draws
from tumorlens.progress import Progress, silent

Floats = npt.NDArray[np.float64]
# Draws behind each interval; as `compare` for differences.
RESAMPLES = 2000
_OF_DIFFERENCES = 5000

# How the answer begins for each protocol.
_PROTOCOLS = {
    "official": "On the official split",
    "patients": "On unseen patients",
    "folds": "On the folds",
}

Keep = Callable[[Predictions], npt.NDArray[np.bool_] | None]

# The study that published its notebook with these metrics, on Testing, one run each.
HEADLINE = ("accuracy", "macro_f1", "recall_glioma", "recall_meningioma")
PUBLISHED = {
    "resnet18": dict(zip(HEADLINE, (0.8940, 0.8867, 0.7233, 0.8497), strict=True)),
    "se_resnet18": dict(zip(HEADLINE, (0.8955, 0.8941, 0.8400, 0.9118), strict=True)),
}


def metrics_of(classes: Iterable[str]) -> tuple[str, ...]:
    """The metrics of a study of these classes."""
    recalls = (f"recall_{name}" for name in sorted(classes))
    confused = ("tumor_accuracy", "glioma->meningioma", "meningioma->glioma")
    return ("accuracy", "macro_f1", "balanced_accuracy", *recalls, *confused)


@dataclass(frozen=True)
class View:
    """One way to look at one protocol's runs."""

    name: str  # for files
    protocol: str
    what: str  # in words
    keep: Keep

    def kept(self, predictions: Predictions) -> npt.NDArray[np.bool_] | None:
        """Which images count; None: the run cannot tell, or none does."""
        keep = self.keep(predictions)
        return keep if keep is not None and keep.any() else None


@dataclass(frozen=True)
class Seen:
    """What a view shows of one network."""

    view: View
    model: str
    runs: int
    seeds: int
    folds: int
    images: int  # scored, over all folds
    # Mean over runs with its 95% interval over patients or groups and seeds; `n` images.
    metrics: dict[str, Estimate]
    values: dict[str, tuple[float, ...]]  # of each metric, run by run

    def std(self, name: str) -> float | None:
        """Standard deviation of a metric over the runs; None with one run."""
        values = self.values[name]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _everything(predictions: Predictions) -> npt.NDArray[np.bool_]:
    return np.ones(len(predictions.paths), dtype=bool)


def _without(*duplicates: str) -> Keep:
    def keep(predictions: Predictions) -> npt.NDArray[np.bool_] | None:
        return (
            None if predictions.duplicates is None else ~np.isin(predictions.duplicates, duplicates)
        )

    return keep


def _one_of_each_group(predictions: Predictions) -> npt.NDArray[np.bool_] | None:
    if predictions.groups is None:
        return None
    groups = predictions.group_indices()
    order = np.argsort(np.array(predictions.paths))
    first = order[np.unique(groups[order], return_index=True)[1]]
    return np.isin(np.arange(len(groups)), first)


# Every way that the report looks at the runs.
VIEWS = (
    View("official", "official", "official, all test images", _everything),
    View(
        "official_without_same_bytes",
        "official",
        "official, without test images whose bytes are in the training images",
        _without("exact"),
    ),
    View(
        "official_without_near_duplicates",
        "official",
        "official, without test images that have a near-duplicate in training",
        _without("exact", "near"),
    ),
    View("patients", "patients", "unseen patients, all test images", _everything),
    View(
        "patients_one_a_group",
        "patients",
        "unseen patients, one image of each near-duplicate group",
        _one_of_each_group,
    ),
    View("folds", "folds", "folds of the splits file, all test images", _everything),
)


def predictions_by_run(
    runs: Sequence[RunFiles], named: Mapping[str, str] | None, table: PatientTable | None
) -> dict[str, Predictions]:
    """Each run's predictions by its name, in the groups of `named`, with the patients of `table`.

    A near-duplicate that one run of a test split has in training counts for all its runs, where
    that is known.

    Raises:
        TumorlensError: two runs of one fold have other images.
    """
    found = {run.name: run.predictions() for run in runs}
    for test in {(run.protocol, run.fold) for run in runs}:
        of_test = [run for run in runs if (run.protocol, run.fold) == test]
        _refuse_other_images(of_test, found)
        duplicates = near_duplicates_of_any(found[run.name] for run in of_test)
        if duplicates is not None:
            found |= {run.name: found[run.name].with_near_duplicates(duplicates) for run in of_test}
    if named is not None:
        found = {name: one.grouped(named) for name, one in found.items()}
    if table is not None:
        found = {name: one.of_patients(table) for name, one in found.items()}
    return found


def _refuse_other_images(runs: Sequence[RunFiles], found: Mapping[str, Predictions]) -> None:
    """Means and their intervals go image by image over the runs of a fold."""
    first = runs[0]
    for run in runs[1:]:
        one, other = found[first.name].paths, found[run.name].paths
        if one != other:
            strange = sorted(set(one) ^ set(other))
            what = f"{strange[0]} is in one of the two alone" if strange else "in another order"
            raise TumorlensError(
                f"{run.predictions_file.parent}: {first.name} and {run.name} were scored on "
                f"different images ({what}), expected the same ones within a fold; move the files "
                "of one of the two away, and run it again."
            )


def summarize(
    runs: Sequence[RunFiles],
    predictions: Mapping[str, Predictions],
    resamples: int | None = None,
    progress: Progress = silent,
) -> tuple[tuple[Seen, ...], dict[str, Comparison]]:
    """Every view of every network, and by view's name the two networks compared."""
    there = {
        run.protocol: [other for other in runs if other.protocol == run.protocol] for run in runs
    }
    pairs: dict[str, tuple[list[Pair], tuple[str, str]]] = {}
    for name, mine in there.items():
        with contextlib.suppress(TumorlensError):  # not two networks with a fold and seed in common
            pairs[name] = pairs_of_study(mine, predictions)
    asked = [view for view in VIEWS if view.protocol in there]
    seen: list[Seen] = []
    comparisons: dict[str, Comparison] = {}
    for done, view in enumerate(asked, start=1):
        of_view = there[view.protocol]
        for model in networks_of(run.model for run in of_view):
            mine = [run for run in of_view if run.model == model]
            found = _view_of_network(view, model, mine, predictions, resamples or RESAMPLES)
            if found is not None:
                seen.append(found)
        if view.protocol in pairs:
            both, names = pairs[view.protocol]
            kept = [pair.only(keep) for pair in both if (keep := view.kept(pair.a)) is not None]
            if len(kept) == len(both):
                compared = compare(kept, names, resamples=resamples or _OF_DIFFERENCES)
                comparisons[view.name] = compared
        progress("reporting", done, len(asked), view.what)
    return tuple(seen), comparisons


def _view_of_network(
    view: View,
    model: str,
    runs: Sequence[RunFiles],
    predictions: Mapping[str, Predictions],
    resamples: int,
) -> Seen | None:
    parts = []
    for run in runs:
        one = predictions[run.name]
        keep = view.kept(one)
        if keep is None:
            return None
        parts.append((run.fold, one.only(keep)))
    found, values = over_runs(parts, metrics_of(parts[0][1].classes), resamples=resamples)
    return Seen(
        view=view,
        model=model,
        runs=len(runs),
        seeds=len({run.seed for run in runs}),
        folds=len({run.fold for run in runs}),
        images=sum({fold: len(left.paths) for fold, left in parts}.values()),
        metrics=found,
        values=values,
    )


def networks_of(models: Iterable[str]) -> list[str]:
    """Each of the networks once, those of the published study first."""
    return sorted(set(models), key=lambda name: (name not in PUBLISHED, name))


def over_runs(
    runs: Sequence[tuple[int | None, Predictions]],
    names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
) -> tuple[dict[str, Estimate], dict[str, tuple[float, ...]]]:
    """Mean over folds of the mean over each fold's runs, its 95% interval, and the runs' values.

    The interval is over draws of groups of images, the same for all runs of a fold, to which with
    several runs a t-distributed draw of the runs' own error is added.

    Args:
        runs: fold and predictions of each run; those of one fold answer the same images.
        names: of metrics; those that the classes do not have are left out.

    Returns:
        Estimates by metric, their `n` the images asked; the values of the runs, fold by fold.
    """
    folds: dict[int | None, list[Predictions]] = {}
    for fold, predictions in runs:
        folds.setdefault(fold, []).append(predictions)
    wanted = [name for name in names if _asked(name, runs[0][1].classes)]
    point: dict[str, list[list[float]]] = {name: [] for name in wanted}  # fold by fold
    drawn = {name: np.zeros(resamples) for name in wanted}
    counts = dict.fromkeys(wanted, 0)
    independent = dict.fromkeys(wanted, 0)  # groups, over all folds
    for index, answered in enumerate(folds.values()):
        members = answered[0].units
        ones = np.ones((1, len(members)))
        values_of = [weighted_metrics(one, wanted) for one in answered]
        values = [of(ones) for of in values_of]
        for name in wanted:
            point[name].append([float(value[name][0]) for value in values])
            share = metrics.share(name, answered[0])
            asked = ones[0] if share is None else share[0]
            counts[name] += int(asked.sum())
            independent[name] += len(np.unique(members[asked.ravel() > 0]))
        of_fold = partial(_mean, values_of)
        for name, mean in bootstrap(of_fold, members, resamples, 1000 * index).items():
            drawn[name] += mean / len(folds)
    rng = np.random.default_rng(0)
    found: dict[str, Estimate] = {}
    for name in wanted:
        every = [value for fold in point[name] for value in fold]
        value = float(np.mean([np.mean(fold) for fold in point[name]]))
        draws = drawn[name]
        if len(every) > 1:
            draws = draws + run_draws(point[name], resamples, rng)
        low, high = percentile_interval(draws)
        share = metrics.share(name, runs[0][1])
        if len(every) == 1 and share is not None:
            low, high = proportion_interval(value, draws, runs[0][1].units[share[0]])
        low, high = with_width(value, (low, high), independent[name])
        found[name] = Estimate(value, max(0.0, low), min(1.0, high), counts[name])
    return found, {name: tuple(v for fold in point[name] for v in fold) for name in wanted}


def _mean(networks: Sequence[Weighted], weights: Floats) -> dict[str, Floats]:
    found = [of(weights) for of in networks]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}


def _asked(name: str, classes: Sequence[str]) -> bool:
    if name == "tumor_accuracy":
        return metrics.tells_tumors(classes)
    if "->" in name:
        return set(name.split("->")) <= set(classes)
    return not name.startswith("recall_") or name.removeprefix("recall_") in classes


def unit_of(runs: Sequence[RunFiles], predictions: Mapping[str, Predictions], protocol: str) -> str:
    """What is resampled over all folds of a protocol, in words."""
    tests = {run.fold: predictions[run.name] for run in runs if run.protocol == protocol}
    return unit_words(tests.values())


def on_public_testing(runs: Sequence[RunFiles], predictions: Mapping[str, Predictions]) -> bool:
    """Whether the official runs are scored on the public set's `Testing`."""
    official = [predictions[run.name] for run in runs if run.protocol == "official"]
    named = [[one.classes[label] for label in one.labels] for one in official]
    return bool(named) and all(map(is_testing, named))


def answer(comparisons: Mapping[str, Comparison]) -> str:
    """Does squeeze-and-excitation help, and whom? A sentence or two for each protocol."""
    if not comparisons:
        return (
            "Does SE help, and whom? Not known yet: the two networks have no finished run of one "
            "protocol, fold and seed in common."
        )
    told = [
        f"{what}: {sentence(comparisons[name])} {significant_changes(comparisons[name])}"
        for name, what in _PROTOCOLS.items()
        if name in comparisons
    ]
    return "Does SE help, and whom? " + " ".join(told)
