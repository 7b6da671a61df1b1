"""Recall of each class at each site, over a study's runs: is a class missed, or a hospital's?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.comparison.run_files import RunFiles
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.subgroups import recall_by
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
        pooled, hits = _pooled(mine, parts)
        found += [
            RecallBySite(protocol, model, one.label, one.subgroup, one.recall, one.patients)
            for one in recall_by(pooled, pooled.sites, hits=hits, resamples=resamples, seed=seed)
        ]
    return tuple(found)


def _pooled(
    runs: Sequence[RunFiles], parts: Sequence[Predictions]
) -> tuple[Predictions, npt.NDArray[np.float64]]:
    """The images of all folds, by patient, and of each the share of its fold's runs that is right.

    Images of unknown patients count each for itself; the probabilities are left out.
    """
    hits: dict[tuple[int | None, str], list[bool]] = {}
    shown: dict[tuple[int | None, str], tuple[str, str, str]] = {}
    for run, one in zip(runs, parts, strict=True):
        right = (one.probabilities.argmax(axis=1) == one.labels).tolist()
        labels = [one.classes[label] for label in one.labels]
        known = zip(one.patients or (), labels, one.sites or (), strict=True)
        for path, hit, facts in zip(one.paths, right, known, strict=True):
            hits.setdefault((run.fold, path), []).append(hit)
            shown[run.fold, path] = facts
    keys = sorted(hits, key=lambda key: shown[key][0] or f"\0{key[1]}")
    patients, names, sites = zip(*(shown[key] for key in keys), strict=True)
    classes = parts[0].classes
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
