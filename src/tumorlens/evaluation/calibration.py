"""Does a probability of 0.8 come true in 8 cases of 10?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Equal-width bins of the top probability, as in Guo et al. 2017, "On calibration of modern neural
# networks".
BINS = 15


@dataclass(frozen=True)
class Reliability:
    """What each bin holds; bin i spans i/15 to (i+1)/15.

    Attributes:
        count: (15,) images.
        confidence: (15,) mean top probability; NaN in an empty bin.
        accuracy: (15,) share predicted right; NaN in an empty bin.
    """

    count: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap of accuracy and confidence over images, 0..1."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gaps * self.count[filled]).sum() / max(1, self.count.sum()))


def bin_of(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(N,) top probabilities to (N,) bins; a bin holds its upper edge, not its lower."""
    bins: npt.NDArray[np.int64] = np.ceil(confidence * BINS).astype(np.int64) - 1
    return np.clip(bins, 0, BINS - 1)


def reliability(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> Reliability:
    """Bin (N, K) probabilities by their largest entry."""
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    which = bin_of(confidence)
    count = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count,
            np.bincount(which, confidence, BINS) / count,
            np.bincount(which, right, BINS) / count,
        )
