"""Where a study's networks look, class by class, over its runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from tumorlens.comparison.run_files import RunFiles
from tumorlens.comparison.text import title
from tumorlens.files import csv_text
from tumorlens.studies.views import LOOKS

CENTRE = "centre baseline"

# Fold and seed of a run to its figures.
_Values = Mapping[tuple[int | None, int], Mapping[str, float]]


@dataclass(frozen=True)
class Mean:
    """A figure over a study's runs.

    Attributes:
        value: mean over folds of the mean over each fold's seeds.
        low, high: 95% t interval of it over the folds; None with one fold, as the official
            protocol has.
        folds: the mean of each.
    """

    value: float
    low: float | None
    high: float | None
    folds: tuple[float, ...]


@dataclass(frozen=True)
class Look:
    """Where one network's maps, or the centre baseline, lie in the images of a class.

    Attributes:
        protocol: "official" or "patients".
        part: whose images, such as "test".
        label: class, or "all".
        who: a network's title, `CENTRE`, or "B minus A".
        difference: whether it is B minus A, of runs of one fold and seed.
        runs: how many.
        figures: those of `LOOKS` that every run has.
    """

    protocol: str
    part: str
    label: str
    who: str
    difference: bool
    runs: int
    figures: dict[str, Mean]


def looks(runs: Sequence[RunFiles]) -> tuple[Look, ...]:
    """Networks, their difference and the centre baseline, in every class; empty without boxes."""
    measured = [run for run in runs if run.record.get("localization")]
    found: list[Look] = []
    for protocol in ("official", "patients", "folds"):
        mine = [run for run in measured if run.protocol == protocol]
        for part in sorted({_where(run)["part"] for run in mine}):
            found += _of_part(protocol, part, [r for r in mine if _where(r)["part"] == part])
    return tuple(found)


def _where(run: RunFiles) -> dict[str, Any]:
    where: dict[str, Any] = run.record["localization"]
    return where


def _of_part(protocol: str, part: str, runs: Sequence[RunFiles]) -> list[Look]:
    classes = runs[0].record["classes"]
    labels = ["all", *(name for name in classes if all(name in _where(r)["network"] for r in runs))]
    models = sorted({run.model for run in runs})
    found = []
    for label in labels:
        of_model = [
            {(r.fold, r.seed): _figures(r, "network", label) for r in runs if r.model == model}
            for model in models
        ]
        centre = {(r.fold, r.seed): _figures(r, "centre", label) for r in runs}
        sides = [(title(model), values) for model, values in zip(models, of_model, strict=True)]
        sides += [(CENTRE, centre)]
        found += [
            Look(protocol, part, label, who, False, len(values), _means(values, False))
            for who, values in sides
        ]
        change = _differences(*of_model) if len(of_model) == 2 else {}
        if change:
            who = f"{title(models[1])} minus {title(models[0])}"
            found.append(Look(protocol, part, label, who, True, len(change), _means(change, True)))
    return found


def _differences(a: _Values, b: _Values) -> _Values:
    """The second minus the first, of the runs of one fold and seed."""
    return {
        run: {name: b[run][name] - value for name, value in a[run].items() if name in b[run]}
        for run in a
        if run in b
    }


def _figures(run: RunFiles, who: str, label: str) -> dict[str, float]:
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
        highest = math.inf if difference or name == "energy_over_chance" else 1.0
        found[name] = _mean([float(np.mean(one)) for one in folds.values()], lowest, highest)
    return found


def _mean(folds: Sequence[float], lowest: float, highest: float) -> Mean:
    value = float(np.mean(folds))
    if len(folds) < 2:
        return Mean(value, None, None, tuple(folds))
    reach = float(t.ppf(0.975, len(folds) - 1)) * float(np.std(folds, ddof=1)) / len(folds) ** 0.5
    return Mean(value, max(lowest, value - reach), min(highest, value + reach), tuple(folds))


def looks_csv(found: Sequence[Look]) -> str:
    """One row a protocol, part, class, network and figure."""
    header = ["protocol", "part", "class", "who", "runs", "figure", "mean", "low", "high", "folds"]
    rows = [
        [one.protocol, one.part, one.label, one.who, one.runs, name]
        + ["" if value is None else f"{value:.6f}" for value in (mean.value, mean.low, mean.high)]
        + [" ".join(f"{fold:.6f}" for fold in mean.folds)]
        for one in found
        for name, mean in one.figures.items()
    ]
    return csv_text(header, rows)
