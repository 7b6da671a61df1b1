import numpy as np
import pytest

from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.subgroups import recall_by


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
