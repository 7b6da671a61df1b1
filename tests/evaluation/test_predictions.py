from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions, read, table, unit_words


def _some() -> Predictions:
    return Predictions(
        source="net",
        classes=("a", "b"),
        paths=("x/1.png", "x/2.png", "y/3.png"),
        labels=np.array([0, 0, 1]),
        probabilities=np.array([[0.75, 0.25], [1 - 1.25e-8, 1.25e-8], [0.5, 0.5]]),
        duplicates=np.array(["", "exact", ""]),
        groups=("4", "4", "7"),
        patients=("anna", "", "bob"),
        sites=("north", "", ""),
    )


def test_table_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text(table(_some()))
    back = read(file)
    assert back.classes == ("a", "b")
    assert back.paths == _some().paths
    assert back.labels.tolist() == [0, 0, 1]
    assert back.probabilities[1, 1] == 1.25e-8
    assert back.duplicates is not None
    assert back.duplicates.tolist() == ["", "exact", ""]
    assert (back.groups, back.patients) == (_some().groups, _some().patients)
    assert back.sites == _some().sites
    assert (back.probabilities == _some().probabilities).all()  # bit for bit
    assert back.group_indices().tolist() == [0, 0, 1]


def test_table_without_what_is_not_known_says_so(tmp_path: Path) -> None:
    file = tmp_path / "plain.csv"
    file.write_text("path,label,prediction,prob_a,prob_b\n1.png,a,a,0.9,0.1\n2.png,b,a,0.6,0.4\n")
    back = read(file)
    assert (back.duplicates, back.groups, back.patients) == (None, None, None)
    assert back.group_indices().tolist() == [0, 1]


def test_some_of_it_by_mask_and_by_index() -> None:
    assert _some().only(np.array([True, False, True])).paths == ("x/1.png", "y/3.png")
    turned = _some().only(np.array([2, 0]))
    assert turned.paths == ("y/3.png", "x/1.png")
    assert turned.labels.tolist() == [1, 0]
    assert turned.groups == ("7", "4")


def test_units_are_counted_and_named_over_all_tables() -> None:
    known, grouped = _some(), replace(_some(), patients=None)
    apart = replace(_some(), groups=None, patients=("", "", ""))
    assert known.units.tolist() == [0, 0, 1]  # anna's near-duplicate is hers
    assert (known.unit_counts, grouped.unit_counts, apart.unit_counts) == ((2, 0), (0, 2), (0, 3))
    assert unit_words([known]) == "2 patients"
    assert unit_words([grouped]) == "2 groups of near-duplicates"
    assert unit_words(iter([apart, apart])) == "6 images"
    both = "2 patients and 3 groups of images whose patient is not known"
    assert unit_words([known, apart]) == both


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,label\na,b\n", "expected columns path, label, prob_CLASS"),
        ("path,label,prob_a,prob_b\n", "0 rows"),
        ("path,label,prob_a,prob_b\n1,c,0.5,0.5\n", "the label c has no column prob_c"),
        ("path,label,prob_a,prob_b\n1,a,0.5,x\n", "a probability is no number"),
        ("path,label,prob_a,prob_b\n1,a,1,0\n1,a,1,0\n", "lists 1 more than once"),
    ],
)
def test_table_that_is_none_is_refused(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text(text)
    with pytest.raises(TumorlensError, match=told):
        read(file)
    with pytest.raises(TumorlensError, match="there is no such file"):
        read(tmp_path / "none.csv")


def test_prediction_that_is_not_the_highest_probability_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("path,label,prediction,prob_a,prob_b\nx.png,a,b,0.6,0.4\n", encoding="utf-8")
    with pytest.raises(TumorlensError, match="the prediction of x.png is b, but not its highest"):
        read(path)
