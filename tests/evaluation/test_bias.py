"""A planted bias is found and said; none is claimed where there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.scores import LARGEST_GAP, Bias, bias, score
from tumorlens.evaluation.subgroups import Subgroups, score_subgroups

CLASSES = ("glioma", "meningioma", "pituitary")
SITES = ("north", "south", "west")


def sample(misses: dict[tuple[int, int], int]) -> tuple[Predictions, dict[str, np.ndarray]]:
    """12 patients of two images for each class and site, of whom the first `misses` are wrong."""
    cells = [(c, s, p) for c in range(3) for s in range(3) for p in range(12)]
    label, site, patient = np.repeat(np.array(cells), 2, axis=0).T
    count = np.array([misses.get((c, s), 1) for c, s in zip(label, site, strict=True)])
    predicted = np.where(patient < count, (label + 1) % 3, label)
    predictions = Predictions(
        source="",
        classes=CLASSES,
        paths=tuple(f"{index}.png" for index in range(len(label))),
        labels=label,
        probabilities=0.1 + 0.7 * np.eye(3)[predicted],
        patients=tuple(f"{c}-{s}-{p}" for c, s, p in zip(label, site, patient, strict=True)),
    )
    return predictions, {"site": np.array(SITES)[site]}


def found(misses: dict[tuple[int, int], int]) -> tuple[Bias, Subgroups]:
    predictions, columns = sample(misses)
    subgroups = score_subgroups(predictions, columns, resamples=400)
    return bias(score(predictions, resamples=400), subgroups), subgroups


def test_class_missed_at_one_site_is_the_worst_and_significant() -> None:
    short, subgroups = found({(1, 2): 9})
    assert (short.worst_class, short.main_confusion) == ("meningioma", "meningioma->pituitary")
    worst, gap = short.worst_subgroup, short.largest_gap
    assert worst is not None
    assert gap is not None
    assert (worst.label, worst.column, worst.subgroup) == ("meningioma", "site", "west")
    assert worst.recall.value == 3 / 12
    assert worst.significant
    assert [one for one in subgroups.rows if one.significant] == [worst]
    assert (gap.label, gap.worst, gap.difference.value) == ("meningioma", "west", 11 / 12 - 3 / 12)
    assert 0 < gap.difference.low < gap.difference.value < gap.difference.high < 1
    # 11 of 36 patients are missed; at 11/12 everywhere it would be 3.
    assert gap.explained.value == pytest.approx(8 / 11)
    assert 0 < gap.explained_by_chance < 0.5
    assert "meningioma with site west: recall 0.250." in short.sentence
    assert "It differs significantly from its other subgroups" in short.sentence
    assert "73% of its misses would go" in short.sentence


def test_no_difference_gives_no_significant_claim() -> None:
    short, subgroups = found({(0, 0): 2, (2, 1): 0})
    assert subgroups.tests == 9
    assert not any(one.significant for one in subgroups.rows)
    assert "This gap is not statistically significant." in short.sentence
    assert "It does not differ significantly" in short.sentence


def test_table_has_every_recall_the_gap_and_the_main_confusion_with_intervals() -> None:
    short, _ = found({(1, 2): 9})
    content = json.loads(json.dumps(short.to_dict()))["metrics"]
    assert content[LARGEST_GAP]["label"].startswith("largest gap: ")
    assert content[LARGEST_GAP]["label"].endswith("minus meningioma")
    for name in ("recall_glioma", "meningioma->pituitary", "worst_subgroup", LARGEST_GAP):
        assert content[name]["low"] < content[name]["value"] < content[name]["high"]
    assert content["meningioma->pituitary"]["value"] == pytest.approx(11 / 36)


def test_without_an_error_nothing_is_confused() -> None:
    predictions, columns = sample({})
    perfect = replace(predictions, probabilities=np.eye(3)[predictions.labels])
    short = bias(score(perfect, resamples=100), score_subgroups(perfect, columns, resamples=100))
    assert short.main_confusion is None
    gap = short.metrics[LARGEST_GAP][1]
    assert (gap.value, gap.high) == (0, -gap.low)
    assert gap.high > 0.05


def test_without_subgroups_the_sentence_says_what_they_need() -> None:
    short = bias(score(sample({})[0], resamples=100), Subgroups())
    assert short.worst_subgroup is None
    assert "No subgroups are compared: that takes two of a class with 5 patients each." in (
        short.sentence
    )
