import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tumorlens.training.last_layer import retrain


def _planted(seed: int, rare: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Feature 0 is the class with noise; feature 1 the site, without, which mostly is the class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 0, 1], [400, rare, rare, 400])
    sites = np.repeat([0, 0, 1, 1], [400, rare, rare, 400])
    features = np.stack(
        [labels + rng.normal(0, 0.45, len(labels)), sites + rng.normal(0, 0.1, len(labels))], axis=1
    )
    groups = np.array([f"{label}, {site}" for label, site in zip(labels, sites, strict=True)])
    return features, labels, groups, np.arange(len(labels)) // 4


def _worst(right: np.ndarray, groups: np.ndarray) -> float:
    return min(right[groups == name].mean() for name in np.unique(groups))


def test_layer_leaves_a_planted_spurious_feature_for_the_one_that_holds() -> None:
    features, labels, groups, units = _planted(0, rare=20)
    new, truth, of_new, _ = _planted(1, rare=400)
    plain = LogisticRegression().fit(features, labels)
    assert _worst(plain.predict(new) == truth, of_new) < 0.6
    found = retrain(features, labels, groups, units)
    predicted = (new @ found.weight.T + found.bias).argmax(axis=1)
    # Feature 0 alone is right in 87%: half a unit is 1.1 deviations.
    assert _worst(predicted == truth, of_new) > 0.8
    plain_lean = abs(plain.coef_[0, 1] / plain.coef_[0, 0])
    lean = abs(np.diff(found.weight[:, 1]) / np.diff(found.weight[:, 0]))
    assert lean < plain_lean / 3


def test_held_out_logits_are_of_draws_without_the_patient() -> None:
    rng = np.random.default_rng(2)
    labels, units = np.repeat([0, 1], 20), np.arange(40) // 2
    groups = np.array(["a", "b"])[labels]
    # Many features that mean nothing: a patient who is learned from is always right.
    features = rng.normal(0, 1, (40, 200))
    found = retrain(features, labels, groups, units)
    assert not np.isnan(found.held_out).any()
    assert ((features @ found.weight.T + found.bias).argmax(axis=1) == labels).mean() > 0.95
    assert np.mean(list(found.recall.values())) < 0.75
    assert set(found.recall) == {"a", "b"}


def test_same_seed_makes_the_same_layer() -> None:
    data = _planted(0, rare=20)
    one, same, other = (retrain(*data, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.weight, same.weight)
    assert not np.array_equal(one.weight, other.weight)
    assert one.weight.shape == (2, 2)
    assert one.bias.tolist() == pytest.approx((-one.bias[::-1]).tolist())
