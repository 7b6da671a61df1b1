"""Recall of each class at each site, over a study's runs: is a class missed, or a hospital's?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tumorlens.comparison.run_files import RunFiles
from tumorlens.evaluation.intervals import Estimate, bootstrap, proportion_interval
from tumorlens.evaluation.predictions import Predictions
from tumorlens.files import csv_text


@dataclass(frozen=True)
class RecallBySite:
    """Recall of one class at one site.

    Attributes:
        protocol, model: whose.
        label, site: of the images.
        recall: mean over seeds of the share that is right of all folds' images, with its 95%
            interval over patients; `n` images.
        patients: how many.
    """

    protocol: str
    model: str
    label: str
    site: str
    recall: Estimate
    patients: int


def by_site(
    runs: Sequence[RunFiles],
    answers: Mapping[str, Predictions],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[RecallBySite, ...]:
    """Each network's recall by site and class, all folds together; empty where no run knows sites.

    Args:
        runs: finished ones.
        answers: of each, by name.
        resamples, seed: of the intervals.
    """
    found = []
    for protocol, model in sorted({(run.protocol, run.model) for run in runs}):
        mine = [run for run in runs if (run.protocol, run.model) == (protocol, model)]
        parts = [answers[run.name] for run in mine]
        if any(one.sites is None or one.patients is None for one in parts):
            continue
        for label in parts[0].classes:
            sites = sorted({site for one in parts for site in _sites(one, label)} - {""})
            found += [
                _recall(mine, parts, label, site, resamples, seed, protocol) for site in sites
            ]
    return tuple(found)


def _sites(answers: Predictions, label: str) -> list[str]:
    names = np.array(answers.sites)[answers.labels == answers.classes.index(label)]
    return [str(name) for name in names]


def _recall(
    runs: Sequence[RunFiles],
    parts: Sequence[Predictions],
    label: str,
    site: str,
    resamples: int,
    seed: int,
    protocol: str,
) -> RecallBySite:
    hits: dict[tuple[int | None, str], list[bool]] = {}
    patient_of: dict[tuple[int | None, str], str] = {}
    for run, one in zip(runs, parts, strict=True):
        index = one.classes.index(label)
        inside = np.flatnonzero((one.labels == index) & (np.array(one.sites) == site))
        part = one.only(inside)
        right = part.probabilities.argmax(axis=1) == index
        for path, unit, hit in zip(part.paths, part.patients or (), right.tolist(), strict=True):
            hits.setdefault((run.fold, path), []).append(hit)
            patient_of[run.fold, path] = unit or f"\0{path}"
    shares = np.array([np.mean(values) for values in hits.values()])
    units = np.unique(list(patient_of.values()), return_inverse=True)[1].astype(np.int64)
    drawn = bootstrap(
        lambda weights: {"": weights @ shares / weights.sum(axis=1)}, units, resamples, seed
    )
    value = float(shares.mean())
    low, high = proportion_interval(value, drawn[""], units)
    recall = Estimate(value, low, high, len(shares))
    known = len({name for name in patient_of.values() if not name.startswith("\0")})
    return RecallBySite(protocol, runs[0].model, label, site, recall, known)


def by_site_csv(found: Sequence[RecallBySite]) -> str:
    """One row a protocol, network, class and site."""
    header = ["protocol", "model", "class", "site", "images", "patients", "recall", "low", "high"]
    rows = []
    for one in found:
        value = one.recall
        numbers = [f"{number:.6f}" for number in (value.value, value.low, value.high)]
        facts = [one.protocol, one.model, one.label, one.site, value.n, one.patients]
        rows.append([*facts, *numbers])
    return csv_text(header, rows)
