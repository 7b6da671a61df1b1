"""Do probabilities mean what they say? Reliability bins, calibration error, temperature."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

BINS = 15
# Beyond these a temperature says only that the images at hand were all right, or all chance.
_COLDEST, _HOTTEST = 0.05, 20.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBins:
    """How often the network was right, by how sure it said it was.

    Attributes:
        edges: (B + 1,) from 0 to 1, equally far apart; a bin holds what is above its lower edge up
            to and including its upper.
        count: (B,) images.
        confidence: (B,) mean probability of the predicted class; NaN in an empty bin.
        accuracy: (B,) share of right predictions; NaN in an empty bin.
    """

    edges: Floats
    count: Ints
    confidence: Floats
    accuracy: Floats

    def calibration_error(self) -> float:
        """Mean |accuracy - confidence| over images; 0 is perfect, NaN without images."""
        if not self.count.sum():
            return float("nan")
        gaps = np.abs(np.nan_to_num(self.accuracy - self.confidence))
        return float((gaps * self.count).sum() / self.count.sum())


def bin_of(confidence: Floats, bins: int = BINS) -> Ints:
    """(N,) in 0..1 to the 0-based number of the equal-width bin that holds it."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def reliability_bins(labels: npt.ArrayLike, probabilities: Floats, bins: int = BINS) -> ReliabilityBins:
    """Sort images into `bins` equal-width bins of the predicted class's probability.

    Args:
        labels: (N,) class numbers.
        probabilities: (N, K).
        bins: 15 as in Guo et al. 2017.
    """
    confidence = probabilities.max(axis=1, initial=0.0)
    right = probabilities.argmax(axis=1) == np.asarray(labels)
    bin_numbers = bin_of(confidence, bins)
    count = np.bincount(bin_numbers, minlength=bins)
    filled = np.where(count, count, np.nan)
    return ReliabilityBins(
        edges=np.linspace(0.0, 1.0, bins + 1),
        count=count,
        confidence=np.bincount(bin_numbers, confidence, bins) / filled,
        accuracy=np.bincount(bin_numbers, right, bins) / filled,
    )


def expected_calibration_error(
    labels: npt.ArrayLike, probabilities: Floats, bins: int = BINS
) -> float:
    """ECE of the predicted class's probability (Guo et al. 2017, eq. 3), 0..1, 0 is perfect."""
    return reliability_bins(labels, probabilities, bins).calibration_error()


def fit_temperature(labels: npt.ArrayLike, logits: Floats) -> float:
    """The temperature that makes the true classes most likely (Guo et al. 2017, section 4.2).

    Fit it on images that the score is not about, such as the validation part.

    Args:
        labels: (N,) class numbers.
        logits: (N, K), or log probabilities, which differ from logits by a constant an image.

    Returns:
        > 1 where the network is too sure of itself, < 1 where it is not sure enough; within
        0.05..20.

    Raises:
        ValueError: no images.
    """
    truth = np.asarray(labels)
    if not len(truth):
        raise ValueError("a temperature cannot be fitted to no images")
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        top = scaled.max(axis=1)
        log_sum = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        return float((log_sum - scaled[rows, truth]).mean())

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Softmax of the logits behind `probabilities`, divided by `temperature`; ranks stay.

    Args:
        probabilities: (N, K) float64, softmax of logits.
        temperature: > 0.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected above 0")
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    scaled: Floats = powers / powers.sum(axis=1, keepdims=True)
    return scaled
