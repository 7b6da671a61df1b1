import numpy as np
import pytest

from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

SPACE = FeatureSpace(np.zeros((2, 2)), np.eye(2), threshold=1.0)
NEAR, FAR = np.array([[0.5, 0.5]]), np.array([[9.0, 9.0]])
SURE, UNSURE = np.array([[5.0, 0.0]]), np.array([[0.1, 0.0]])


@pytest.mark.parametrize(
    ("logits", "features", "decision"),
    [
        (SURE, NEAR, "confident"),
        (UNSURE, NEAR, "uncertain"),
        (SURE, FAR, "out of distribution"),
        (UNSURE, FAR, "out of distribution"),
        (SURE, None, "confident"),
    ],
)
def test_verdict(logits: np.ndarray, features: np.ndarray | None, decision: str) -> None:
    rule = DecisionRule(("a", "b"), temperature=1.0, threshold=0.8, space=SPACE)
    assert rule.decide(logits, features)[0].decision == decision


def test_temperature_divides_the_logits() -> None:
    decided = DecisionRule(("a", "b"), temperature=5.0).decide(SURE, None)[0]
    assert decided.probabilities[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert decided.prediction == "a"


def test_top_probability_at_the_threshold_is_an_answer() -> None:
    rule = DecisionRule(("a", "b"), threshold=0.5)
    assert rule.decide(np.zeros((1, 2)), None)[0].decision == "confident"


def test_without_thresholds_nothing_is_judged() -> None:
    assert DecisionRule(("a", "b")).decide(SURE, NEAR)[0].decision == "not calibrated"


def test_each_picture_gets_its_own_verdict() -> None:
    rule = DecisionRule(("a", "b"), threshold=0.8, space=SPACE)
    found = rule.decide(np.concatenate([SURE, UNSURE, -SURE]), np.concatenate([NEAR, NEAR, FAR]))
    assert [one.decision for one in found] == ["confident", "uncertain", "out of distribution"]
    assert [one.prediction for one in found] == ["a", "a", "b"]


def test_doubt_comes_with_its_reason() -> None:
    rule = DecisionRule(("a", "b"), threshold=0.8, space=SPACE)
    sure, unsure, far = rule.decide(
        np.concatenate([SURE, UNSURE, SURE]), np.concatenate([NEAR, NEAR, FAR])
    )
    assert rule.why(sure) == ""
    assert rule.why(unsure) == "a at 0.52 is below the threshold of 0.80"
    assert rule.why(far).startswith("its features lie ")
    assert rule.why(far).endswith("from those of the training images, beyond 1.00")
