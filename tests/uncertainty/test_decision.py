import numpy as np
import pytest

from tumorlens.uncertainty.decision import Judge
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

SPACE = FeatureSpace(np.zeros((2, 2)), np.eye(2), threshold=1.0)
NEAR, FAR = np.array([[0.5, 0.5]]), np.array([[9.0, 9.0]])
SURE, UNSURE = np.array([[5.0, 0.0]]), np.array([[0.1, 0.0]])


@pytest.mark.parametrize(
    ("logits", "features", "verdict"),
    [
        (SURE, NEAR, "confident"),
        (UNSURE, NEAR, "uncertain"),
        (SURE, FAR, "unlike the training data"),
        (UNSURE, FAR, "unlike the training data"),
        (SURE, None, "confident"),
    ],
)
def test_verdict(logits: np.ndarray, features: np.ndarray | None, verdict: str) -> None:
    judge = Judge(("a", "b"), temperature=1.0, threshold=0.8, space=SPACE)
    assert judge.judge(logits, features)[0].verdict == verdict


def test_temperature_divides_the_logits() -> None:
    judged = Judge(("a", "b"), temperature=5.0).judge(SURE, None)[0]
    assert judged.probabilities[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert judged.prediction == "a"


def test_top_probability_at_the_threshold_is_an_answer() -> None:
    judge = Judge(("a", "b"), threshold=0.5)
    assert judge.judge(np.zeros((1, 2)), None)[0].verdict == "confident"


def test_without_thresholds_nothing_is_judged() -> None:
    assert Judge(("a", "b")).judge(SURE, NEAR)[0].verdict == "not judged"


def test_each_picture_gets_its_own_verdict() -> None:
    judge = Judge(("a", "b"), threshold=0.8, space=SPACE)
    found = judge.judge(np.concatenate([SURE, UNSURE, -SURE]), np.concatenate([NEAR, NEAR, FAR]))
    assert [one.verdict for one in found] == ["confident", "uncertain", "unlike the training data"]
    assert [one.prediction for one in found] == ["a", "a", "b"]


def test_doubt_comes_with_its_reason() -> None:
    judge = Judge(("a", "b"), threshold=0.8, space=SPACE)
    sure, unsure, far = judge.judge(
        np.concatenate([SURE, UNSURE, SURE]), np.concatenate([NEAR, NEAR, FAR])
    )
    assert judge.why(sure) == ""
    assert judge.why(unsure) == "a at 0.52 is below the threshold of 0.80"
    assert judge.why(far).startswith("its features lie ")
    assert judge.why(far).endswith("from those of the training images, beyond 1.00")
