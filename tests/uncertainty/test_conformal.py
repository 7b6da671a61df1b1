import numpy as np
import pytest

from tumorlens.errors import TumorlensError
from tumorlens.uncertainty.conformal import Conformal, in_sets, scores_of
from tumorlens.uncertainty.decision import DecisionRule


def _of_patients(count: int) -> Conformal:
    """Patient i of each of two classes has one image with probability i / count of its class."""
    own = np.arange(count) / count
    rows = np.stack([own, 1 - own], axis=1)
    labels = np.repeat([0, 1], count)
    return scores_of(
        labels, np.concatenate([rows, rows[:, ::-1]]), np.arange(2 * count), known=True
    )


def test_least_probability_is_the_one_that_enough_patients_reach() -> None:
    # 100 patients: 96 of 101 are at least 0.95, those from the fifth lowest on.
    assert _of_patients(100).least(0.95, ("a", "b")) == (0.04, 0.04)
    assert _of_patients(100).least(0.5, ("a", "b")) == (0.49, 0.49)


def test_nineteen_patients_are_enough_for_95_percent_and_eighteen_are_refused() -> None:
    assert _of_patients(19).least(0.95, ("a", "b")) == (0.0, 0.0)
    told = (
        "--coverage 0.95: needs 19 calibration patients of each class, a has 18; ask for 0.94 or "
        "less, or calibrate with more validation images"
    )
    with pytest.raises(TumorlensError, match=told):
        _of_patients(18).least(0.95, ("a", "b"))


def test_images_of_a_patient_weigh_as_one() -> None:
    labels, units = np.zeros(12, dtype=np.int64), np.array([0] * 10 + [1, 2])
    own = np.array([0.1] * 10 + [0.5, 0.6])
    found = scores_of(labels, np.stack([own, 1 - own], axis=1)[:, :1], units, known=False)
    assert found.counts == (3,)
    assert found.unit == "groups of near-duplicates"
    assert sum(found.weights[0]) == pytest.approx(3 / 4)
    assert found.least(0.5, ("a",)) == (0.5,)
    assert found.least(0.51, ("a",)) == (0.1,)


def _people(
    rng: np.random.Generator, patients: int, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes; most of a probability's variance is between patients, some have many images."""
    labels, rows, units = [], [], []
    for label, hard in ((0, 0.0), (1, -1.0)):
        for patient in range(patients):
            count = images if patient % 4 else 1
            own = rng.normal(1.5 + hard, 1.5) + rng.normal(0, 0.5, count)
            p = 1 / (1 + np.exp(-own))
            rows.append(np.stack([p, 1 - p][:: 1 if label == 0 else -1], axis=1))
            labels += [label] * count
            units += [label * patients + patient] * count
    return np.array(labels), np.concatenate(rows), np.array(units)


def test_sets_hold_for_new_patients_of_every_class_as_often_as_asked() -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(300):
        labels, rows, units = _people(rng, 24, 12)
        least = scores_of(labels, rows, units, known=True).least(0.8, ("a", "b"))
        labels, rows, units = _people(rng, 24, 12)
        inside = in_sets(rows, least)[np.arange(len(labels)), labels]
        # An image of a patient at random: each patient weighs alike.
        means = np.bincount(units, inside) / np.bincount(units)
        held.append((means[:24].mean(), means[24:].mean()))
    coverage = np.mean(held, axis=0)
    # At least 0.8; and no more than a patient's share of 1 / 25 above, 0.02 for chance.
    assert (coverage >= 0.8 - 0.02).all()
    assert (coverage <= 0.8 + 0.04 + 0.02).all()


def test_most_probable_class_is_always_in_the_set() -> None:
    found = in_sets(np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]]), (0.9, 0.9, 0.25))
    assert found.tolist() == [[True, False, False], [True, False, True]]


def test_rule_names_the_set_most_probable_first() -> None:
    rule = DecisionRule(("a", "b"), conformal=_of_patients(100)).at(0.7)
    sure, unsure = rule.decide(np.array([[5.0, 0.0], [0.0, 0.1]]), None)
    assert (sure.set, sure.set_words) == (("a",), "a")
    assert (unsure.set, unsure.set_words) == (("b", "a"), "b or a")
    plain = DecisionRule(("a", "b")).decide(np.array([[5.0, 0.0]]), None)[0]
    assert (plain.set, plain.set_words) == (None, "")


def test_file_without_calibration_scores_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        TumorlensError, match="keeps no calibration scores; make them by `tumorlens"
    ):
        DecisionRule(("a", "b")).at(0.9)


def test_scores_of_another_number_of_classes_are_damage() -> None:
    with pytest.raises(ValueError, match="calibration scores of 2 classes"):
        DecisionRule(("a", "b", "c"), conformal=_of_patients(20))
    with pytest.raises(ValueError, match="do not fit one another"):
        Conformal("patients", (1,), ((0.5, 0.6),), ((0.5,),))
    content = vars(_of_patients(20))
    assert Conformal.of(content) == _of_patients(20)
