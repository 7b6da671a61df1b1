import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.subgroups import recall_by, score_subgroups


def _two_sites() -> Predictions:
    """Class a: 8 of 8 right at north, 2 of 8 at south, four images a patient; b: no site."""
    labels = np.array([0] * 16 + [1] * 4)
    predicted = np.array([0] * 8 + [0, 0, 1, 1, 1, 1, 1, 1] + [1] * 4)
    return Predictions(
        source="",
        classes=("a", "b"),
        paths=tuple(f"{index}.png" for index in range(20)),
        labels=labels,
        probabilities=np.eye(2)[predicted],
        patients=tuple(f"p{index // 4}" for index in range(16)) + ("",) * 4,
        sites=("north",) * 8 + ("south",) * 8 + ("",) * 4,
    )


def test_recall_of_each_class_and_site_with_its_images_and_patients() -> None:
    north, south = recall_by(_two_sites(), _two_sites().sites, resamples=200)
    assert (north.label, north.subgroup, north.recall.value) == ("a", "north", 1.0)
    assert (south.label, south.subgroup, south.recall.value) == ("a", "south", 0.25)
    assert (south.recall.n, south.patients, south.groups) == (8, 2, 0)
    # Two patients, both right: the exact interval of 2 of 2.
    assert north.recall.low == pytest.approx(0.025**0.5)


def test_unknown_sites_have_no_recall() -> None:
    assert recall_by(_two_sites(), None) == ()
    assert recall_by(_two_sites(), ("",) * 20) == ()


def test_scores_of_a_class_in_a_subgroup_by_hand() -> None:
    """20 patients; "b" is predicted with 0.8: right of 8 of 10 at x, and of 4 of 5 b's at y."""
    labels = np.repeat([0, 1], 10)
    predicted = np.r_[[1, 1, 0, 0, 0, 0, 0, 0, 0, 0], [1] * 9 + [0]]
    probabilities = np.where(np.eye(2)[predicted] == 1, 0.8, 0.2)
    shown = Predictions("", ("a", "b"), tuple(f"{i}" for i in range(20)), labels, probabilities)
    names = np.array(["x", "y"] * 10)
    found = score_subgroups(shown, {"side": names}, resamples=200)
    assert [(one.label, one.subgroup) for one in found.rows] == [
        *(("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"))
    ]
    a, b = found.rows[0], found.rows[3]
    assert (a.recall.value, a.precision.value) == (4 / 5, 1)
    assert (b.recall.value, b.precision.value, b.precision.n) == (4 / 5, 4 / 5, 5)
    assert a.ece.value == pytest.approx(abs(4 / 5 - 0.8))
    assert found.rows[2].ece.value == pytest.approx(1 - 0.8)
    # Each class has two sides, which are one test.
    assert found.tests == 2
    assert a.p == found.rows[1].p
    assert list(csv.DictReader(io.StringIO(found.table())))[3]["precision"] == "0.8"


def test_of_subgroups_with_fewer_than_5_patients_nothing_is_claimed() -> None:
    shown = replace(_two_sites(), sites=None)
    found = score_subgroups(shown, {"site": np.array(_two_sites().sites)}, resamples=100)
    assert [one.patients for one in found.rows] == [2, 2]
    assert not any(one.enough or one.significant for one in found.rows)
    assert (found.gaps, found.tests, found.worst, found.largest_gap) == ((), 0, None, None)
