"""A study's runs class by class: recall at each site, and where their maps lie."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from tumorlens.comparison.run_files import RunFiles
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.subgroups import recall_by
from tumorlens.labels import title

# Where its maps lie, over all boxed images; docs/reference/metrics.md says what they mean.
LOOKS = ("energy_pointing_game", "energy_ratio", "pointing_game", "average_precision")
CENTRE = "centre prior"

# Fold and seed of a run to its metrics.
_Values = Mapping[tuple[int | None, int], Mapping[str, float]]


@dataclass(frozen=True)
class RecallBySite:
    """Recall of one class at one site."""

    protocol: str
    model: str
    label: str
    site: str
    # Mean over seeds of the share that is right of all folds' images, with its 95% interval over
    # patients; `n` images.
    recall: Estimate
    patients: int  # how many


def by_site(
    runs: Sequence[RunFiles],
    predictions: Mapping[str, Predictions],
    resamples: int,
) -> tuple[RecallBySite, ...]:
    """Each network's recall by site and class over all folds; empty where no run knows sites."""
    found = []
    for protocol, model in sorted({(run.protocol, run.model) for run in runs}):
        mine = [run for run in runs if (run.protocol, run.model) == (protocol, model)]
        of_runs = [predictions[run.name] for run in mine]
        if any(one.sites is None or one.patients is None for one in of_runs):
            continue
        pooled, hits = _pooled(mine, of_runs)
        found += [
            RecallBySite(protocol, model, one.label, one.subgroup, one.recall, one.patients)
            for one in recall_by(pooled, pooled.sites, hits=hits, resamples=resamples, seed=0)
        ]
    return tuple(found)


def _pooled(
    runs: Sequence[RunFiles], of_runs: Sequence[Predictions]
) -> tuple[Predictions, npt.NDArray[np.float64]]:
    """The images of all folds, by patient, and of each the share of its fold's runs that is right.

    Images of unknown patients count each for itself; the probabilities are left out.
    """
    hits: dict[tuple[int | None, str], list[bool]] = {}
    shown: dict[tuple[int | None, str], tuple[str, str, str]] = {}
    for run, one in zip(runs, of_runs, strict=True):
        right = (one.predicted == one.labels).tolist()
        labels = [one.classes[label] for label in one.labels]
        known = zip(one.patients or (), labels, one.sites or (), strict=True)
        for path, hit, facts in zip(one.paths, right, known, strict=True):
            hits.setdefault((run.fold, path), []).append(hit)
            shown[run.fold, path] = facts
    keys = sorted(hits, key=lambda key: shown[key][0] or f"\0{key[1]}")
    patients, names, sites = zip(*(shown[key] for key in keys), strict=True)
    classes = of_runs[0].classes
    pooled = Predictions(
        source=runs[0].model,
        classes=classes,
        paths=tuple(path for _, path in keys),
        labels=np.array([classes.index(name) for name in names]),
        probabilities=np.zeros((len(keys), len(classes))),
        patients=patients,
        sites=sites,
    )
    return pooled, np.array([np.mean(hits[key]) for key in keys])


@dataclass(frozen=True)
class Mean:
    """A metric over a study's runs."""

    value: float  # mean over folds of the mean over each fold's seeds
    low: float | None  # of the 95% t interval over folds; None with one fold, as the official has
    high: float | None
    folds: tuple[float, ...]  # the mean of each


@dataclass(frozen=True)
class Look:
    """Where one network's maps, or the centre prior, lie in the images of a class."""

    protocol: str
    split: str  # whose images, such as "test"
    label: str  # class, or "all"
    who: str  # a network's title, `CENTRE`, or "B minus A"
    difference: bool  # whether it is B minus A, of runs of one fold and seed
    runs: int  # how many
    metrics: dict[str, Mean]  # those of `LOOKS` that every run has


def looks(runs: Sequence[RunFiles]) -> tuple[Look, ...]:
    """Networks, their difference and the centre prior, in every class; empty without boxes."""
    measured = [run for run in runs if run.record.get("localization")]
    found: list[Look] = []
    for protocol in ("official", "patients", "folds"):
        mine = [run for run in measured if run.protocol == protocol]
        for split in sorted({_where(run)["split"] for run in mine}):
            found += _of_split(protocol, split, [r for r in mine if _where(r)["split"] == split])
    return tuple(found)


def _where(run: RunFiles) -> dict[str, Any]:
    where: dict[str, Any] = run.record["localization"]
    return where


def _of_split(protocol: str, split: str, runs: Sequence[RunFiles]) -> list[Look]:
    classes = runs[0].record["classes"]
    labels = ["all", *(name for name in classes if all(name in _where(r)["network"] for r in runs))]
    models = sorted({run.model for run in runs})
    found = []
    for label in labels:
        of_model = [
            {(r.fold, r.seed): _metrics(r, "network", label) for r in runs if r.model == model}
            for model in models
        ]
        centre = {(r.fold, r.seed): _metrics(r, "centre_prior", label) for r in runs}
        sides = [(title(model), values) for model, values in zip(models, of_model, strict=True)]
        sides += [(CENTRE, centre)]
        found += [
            Look(protocol, split, label, who, False, len(values), _means(values, False))
            for who, values in sides
        ]
        if len(of_model) != 2:
            continue
        a, b = of_model
        change = {  # of the runs of one fold and seed
            run: {name: b[run][name] - value for name, value in a[run].items() if name in b[run]}
            for run in a
            if run in b
        }
        if change:
            who = f"{title(models[1])} minus {title(models[0])}"
            found.append(Look(protocol, split, label, who, True, len(change), _means(change, True)))
    return found


def _metrics(run: RunFiles, who: str, label: str) -> dict[str, float]:
    there = _where(run)[who][label]
    return {name: float(there[name]["value"]) for name in LOOKS if name in there}


def _means(values: _Values, difference: bool) -> dict[str, Mean]:
    found = {}
    for name in LOOKS:
        if not all(name in one for one in values.values()):
            continue
        folds: dict[int | None, list[float]] = {}
        for (fold, _seed), one in values.items():
            folds.setdefault(fold, []).append(one[name])
        lowest = -math.inf if difference else 0.0
        highest = math.inf if difference or name == "energy_ratio" else 1.0
        found[name] = _mean([float(np.mean(one)) for one in folds.values()], lowest, highest)
    return found


def _mean(folds: Sequence[float], lowest: float, highest: float) -> Mean:
    value = float(np.mean(folds))
    if len(folds) < 2:
        return Mean(value, None, None, tuple(folds))
    reach = float(t.ppf(0.975, len(folds) - 1)) * float(np.std(folds, ddof=1)) / len(folds) ** 0.5
    return Mean(value, max(lowest, value - reach), min(highest, value + reach), tuple(folds))
