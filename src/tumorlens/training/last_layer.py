"""The last layer trained again on groups of equal size, the features left as they are.

(Kirichenko et al. 2023, "Last layer re-training is sufficient for robustness to spurious
correlations", DFR; here with a quadratic penalty.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Draws of equal groups whose layers are averaged; inverse penalties that are tried.
_DRAWS = 20
_STRENGTHS = (1.0, 0.1, 0.01, 0.001)


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A linear layer, and what it makes of patients that it did not learn from."""

    # weight, bias: (K, D) and (K,), means over the draws
    weight: Floats
    bias: Floats
    # (N, K) logits of each image by the draws without its patient; NaN: in every draw
    held_out: Floats
    strength: float  # the inverse penalty with the best worst group
    recall: dict[str, float]  # of each group, by `held_out`


def retrain(
    features: Floats,
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.str_],
    units: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> LastLayer:
    """Logistic regressions on equally many images of each group, averaged.

    Each draw takes half of each group's patients; the others tell which penalty leaves the worst
    group best off.

    Args:
        features: (N, D), what enters the last layer.
        labels: (N,) 0 to K - 1, each at least once.
        groups: (N,) name of each image's; each of two patients or more.
        units: (N,) images of one patient stay together.
        seed: of the draws.
    """
    tried = [_averaged(features, labels, groups, units, one, seed) for one in _STRENGTHS]
    return max(tried, key=lambda one: (min(one.recall.values()), sum(one.recall.values())))


def _averaged(
    features: Floats,
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.str_],
    units: npt.NDArray[np.int64],
    strength: float,
    seed: int,
) -> LastLayer:
    rng, names = np.random.default_rng(seed), np.unique(groups)
    layers, logits, times = [], np.zeros((len(labels), labels.max() + 1)), np.zeros(len(labels))
    for _ in range(_DRAWS):
        whom = [rng.permutation(np.unique(units[groups == name])) for name in names]
        inside = np.isin(units, np.concatenate([every[: len(every) // 2] for every in whom]))
        members = [rng.permutation(np.flatnonzero(inside & (groups == name))) for name in names]
        least = min(map(len, members))
        rows = np.concatenate([some[:least] for some in members])
        weight, bias = _fitted(features[rows], labels[rows], strength)
        layers.append((weight, bias))
        logits[~inside] += features[~inside] @ weight.T + bias
        times += ~inside
    with np.errstate(invalid="ignore"):
        held_out = logits / times[:, None]
    right = held_out.argmax(axis=1) == labels
    recall = {str(name): float(right[(groups == name) & (times > 0)].mean()) for name in names}
    weights, biases = zip(*layers, strict=True)
    return LastLayer(np.mean(weights, axis=0), np.mean(biases, axis=0), held_out, strength, recall)


def _fitted(
    features: Floats, labels: npt.NDArray[np.int64], strength: float
) -> tuple[Floats, Floats]:
    """Weight (K, D) and bias (K,) for features as they are; learnt of features of deviation 1.

    Classes weigh alike, however many groups each has.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 (takes seconds)

    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    model.fit((features - mean) / deviation, labels)
    weight, bias = model.coef_, model.intercept_
    if len(bias) == 1:  # two classes have one column there
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / deviation
    return weight, bias - weight @ mean
