import json

import numpy as np
import pytest

from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.scores import set_coverage
from tumorlens.uncertainty.conformal import scores_of
from tumorlens.uncertainty.decision import DecisionRule

CLASSES = ("glioma", "meningioma")
LABELS = np.repeat([0, 1], 20)
# All gliomas have 0.6; of the meningiomas those at x have 0.45 of their class, the others 0.9.
OWN = np.array([0.6] * 20 + [0.45] * 10 + [0.9] * 10)
ROWS = np.where(LABELS[:, None] == [0, 1], OWN[:, None], 1 - OWN[:, None])
SITES = (*["y"] * 20, *["x"] * 10, *["y"] * 10)


def _predictions() -> Predictions:
    patients = tuple(f"p{number}" for number in range(40))
    paths = tuple(f"{number}.png" for number in range(40))
    return Predictions("", CLASSES, paths, LABELS, ROWS, patients=patients, sites=SITES)


def _rule() -> DecisionRule:
    return DecisionRule(CLASSES, conformal=scores_of(LABELS, ROWS, np.arange(40), known=True))


def test_coverage_and_size_are_told_by_class_and_by_site() -> None:
    # 0.9 of 21 needs 19 of the 20 patients: glioma from 0.6 on, meningioma from 0.45 on.
    found = set_coverage(_predictions(), _rule(), 0.9, resamples=200, seed=0)
    rows = {(one["class"], one["site"]): one for one in found.to_dict()["rows"]}
    assert list(rows) == [
        *(("glioma", ""), ("meningioma", "")),
        *(("glioma", "y"), ("meningioma", "x"), ("meningioma", "y")),
    ]
    # Of meningiomas at x glioma has 0.55, below 0.6: the set is glioma, as it is most probable,
    # and meningioma.
    assert rows["meningioma", "x"]["coverage"]["value"] == 1
    assert rows["meningioma", "x"]["mean_size"] == 2
    assert rows["meningioma", "y"]["mean_size"] == 1
    assert rows["meningioma", ""]["mean_size"] == 1.5
    assert rows["glioma", ""]["coverage"]["low"] < 1
    assert rows["glioma", "y"]["patients"] == 20
    assert "meningioma 1.000 (1.50 classes a set)" in found.sentence


def test_class_that_is_harder_than_in_calibration_is_seen_to_lack_coverage() -> None:
    rule = DecisionRule(CLASSES, conformal=scores_of(LABELS, ROWS, np.arange(40), known=True))
    found = set_coverage(_predictions(), rule, 0.5, resamples=200, seed=0)
    by = {(one.label, one.subgroup): one.recall.value for one in found.by_site}
    # Half of the calibration patients: meningioma counts from 0.45 on for 11 of 21.
    assert by["meningioma", "x"] == 1
    lower = set_coverage(_predictions(), rule, 0.4, resamples=200, seed=0)
    by = {(one.label, one.subgroup): one.recall.value for one in lower.by_site}
    assert (by["meningioma", "x"], by["meningioma", "y"]) == (0, 1)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (_rule(), "needs 99 calibration patients of each class, glioma has 20; ask for 0.95"),
        (DecisionRule(CLASSES), "keeps no calibration scores"),
    ],
)
def test_where_there_are_no_sets_the_reason_is_told(rule: DecisionRule, reason: str) -> None:
    found = set_coverage(_predictions(), rule, 0.99, resamples=200, seed=0)
    assert reason in found.sentence
    assert reason in found.to_dict()["reason"]
    assert json.dumps(found.to_dict()["rows"]) == "[]"
