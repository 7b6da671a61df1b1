"""One network's figures over its runs: the mean, its interval over images and seeds, each run's."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorlens.comparison.tests import run_draws
from tumorlens.evaluation import metrics
from tumorlens.evaluation.intervals import (
    Estimate,
    percentile_interval,
    proportion_interval,
    resampled_weights,
    with_width,
)
from tumorlens.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]


def over_runs(
    runs: Sequence[tuple[int | None, Predictions]],
    figures: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[dict[str, Estimate], dict[str, tuple[float, ...]]]:
    """Mean over folds of the mean over each fold's runs, its 95% interval, and the runs' values.

    The interval is over draws of groups of images, the same for all runs of a fold, to which with
    several runs a t-distributed draw of the runs' own error is added (docs/method.md).

    Args:
        runs: fold and answers of each run; those of one fold answer the same images.
        figures: names; those that the classes do not have are left out.
        resamples, seed: of the draws.

    Returns:
        Estimates by figure, their `n` the images asked; the values of the runs, fold by fold.
    """
    folds: dict[int | None, list[Predictions]] = {}
    for fold, answers in runs:
        folds.setdefault(fold, []).append(answers)
    classes = runs[0][1].classes
    wanted = [name for name in figures if _asked(name, classes)]
    point: dict[str, list[list[float]]] = {name: [] for name in wanted}
    drawn = {name: np.zeros(resamples) for name in wanted}
    counts = dict.fromkeys(wanted, 0)
    independent = dict.fromkeys(wanted, 0)  # groups, over all folds
    for index, answered in enumerate(folds.values()):
        members = answered[0].units()
        ones = np.ones((1, len(members)))
        values = [_figures(one, ones, wanted) for one in answered]
        shares = _proportions(answered[0], wanted)
        for name in wanted:
            point[name].append([float(value[name][0]) for value in values])
            asked = shares[name][0] if name in shares else ones[0]
            counts[name] += int(asked.sum())
            independent[name] += len(np.unique(members[asked.ravel() > 0]))
        start = 0
        for weights in resampled_weights(members, resamples, seed + 1000 * index):
            block = [_figures(one, weights, wanted) for one in answered]
            for name in wanted:
                part = np.mean([one[name] for one in block], axis=0) / len(folds)
                drawn[name][start : start + len(weights)] += part
            start += len(weights)
    rng = np.random.default_rng(seed)
    found: dict[str, Estimate] = {}
    values_of_runs: dict[str, tuple[float, ...]] = {}
    for name in wanted:
        every = [value for fold in point[name] for value in fold]
        value = float(np.mean([np.mean(fold) for fold in point[name]]))
        draws = drawn[name]
        values_of_runs[name] = tuple(every)
        if len(every) > 1:
            draws = draws + run_draws(point[name], resamples, rng)
        low, high = percentile_interval(draws)
        if len(every) == 1 and name in shares:
            asked = shares[name][0]
            low, high = proportion_interval(value, draws, runs[0][1].units()[asked])
        low, high = with_width(value, (low, high), independent[name])
        found[name] = Estimate(value, max(0.0, low), min(1.0, high), counts[name])
    return found, values_of_runs


def _asked(name: str, classes: Sequence[str]) -> bool:
    if name == "tumor_accuracy":
        return metrics.tells_tumors(classes)
    if "->" in name:
        return set(name.split("->")) <= set(classes)
    return not name.startswith("recall_") or name.removeprefix("recall_") in classes


def _proportions(
    answers: Predictions, wanted: Sequence[str]
) -> dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    confusions = [(name.split("->")[0], name.split("->")[1]) for name in wanted if "->" in name]
    return metrics.proportions(answers, confusions)


def _figures(answers: Predictions, weights: Floats, wanted: Sequence[str]) -> dict[str, Floats]:
    predicted = answers.probabilities.argmax(axis=1)
    counted = metrics.from_confusion(
        metrics.confusion(answers.labels, predicted, len(answers.classes), weights),
        answers.classes,
    )
    found = {name: counted[name] for name in wanted if name != "tumor_accuracy"}
    if "tumor_accuracy" in wanted:
        tumor, right = metrics.proportions(answers)["tumor_accuracy"]
        with np.errstate(invalid="ignore", divide="ignore"):
            found["tumor_accuracy"] = (weights @ right) / (weights @ tumor)
    return found
