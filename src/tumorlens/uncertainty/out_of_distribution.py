"""Is this image like those that the network learned from? A distance says, in feature space.

A network names a class for a photograph too. What it computes of a photograph lies far from what
it computes of its training images; how far is measured in their own spread (Mahalanobis 1936), to
the nearest class (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution
samples", section 2.1). No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """What the features of the training images are like.

    Attributes:
        means: (K, D), one a class.
        covariance: (D, D) around the class means, the same for every class; invertible.
        threshold: a distance above it is out of distribution.

    Raises:
        ValueError: the two do not fit, or the covariance has no inverse.
    """

    means: Floats
    covariance: Floats
    threshold: float

    def __post_init__(self) -> None:
        size = self.means.shape[-1]
        if self.means.ndim != 2 or self.covariance.shape != (size, size):
            raise ValueError(
                f"class means {self.means.shape} and covariance {self.covariance.shape} do not fit"
            )
        if not (np.isfinite(self._whitening).all() and np.isfinite(self.means).all()):
            raise ValueError("the features' means or covariance are not finite")

    @cached_property
    def _whitening(self) -> Floats:
        # With covariance = L L^T, |L^-1 (x - m)| is the Mahalanobis distance of x and m.
        lower = np.linalg.cholesky(self.covariance)
        whitening: Floats = np.linalg.solve(lower, np.eye(len(lower)))
        return whitening

    @cached_property
    def _white_means(self) -> Floats:
        white: Floats = self.means @ self._whitening.T
        return white

    def distances(self, features: Floats) -> Floats:
        """(N, D) features to (N,) Mahalanobis distances to the nearest class, over root D.

        Training images lie at about 1, whatever D is.
        """
        white = features.astype(np.float64) @ self._whitening.T
        squares = [((white - mean) ** 2).sum(axis=1) for mean in self._white_means]
        nearest: Floats = np.sqrt(np.min(squares, axis=0) / features.shape[1])
        return nearest


def spread(
    features: Floats, labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> tuple[Floats, Floats, float]:
    """Class means and the covariance around them, shrunk so that it can be inverted.

    The sample covariance of fewer images than features has no inverse; it is mixed with a multiple
    of the identity, by the share that is best in expectation (Ledoit and Wolf 2004).

    Args:
        features: (N, D) of training images.
        labels: (N,) indices into `classes`; each at least once.
        classes: K names.

    Returns:
        Means (K, D), covariance (D, D), and the share of the identity, 0..1.
    """
    from sklearn.covariance import ledoit_wolf  # noqa: PLC0415 (using the space needs none)

    features = features.astype(np.float64)
    means = np.stack([features[labels == index].mean(axis=0) for index in range(len(classes))])
    covariance, share = ledoit_wolf(features - means[labels], assume_centered=True)
    # Features that never vary, such as a ReLU that is always shut, would leave a zero on the
    # diagonal where nothing is shrunk.
    floor = 1e-6 * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    return means, covariance + floor * np.eye(len(covariance)), float(share)


def threshold_for_false_alarms(distances: Floats, rate: float) -> tuple[float, float]:
    """The distance that at most `rate` of the images exceed.

    Args:
        distances: (N,) of images of the right kind that the network did not learn from.
        rate: share that may be called out_of_distribution, 0 to below 1.

    Returns:
        The threshold and the share that exceeds it, at most `rate`.
    """
    ordered = np.sort(distances)
    kept = len(ordered) - int(np.floor(rate * len(ordered)))
    threshold = float(ordered[max(kept, 1) - 1])
    return threshold, float((distances > threshold).mean())
