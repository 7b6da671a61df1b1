"""Does a probability of 0.8 come true in 8 cases of 10? And what makes it so.

No torch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Equal-width bins of the top probability, as in Guo et al. 2017, "On calibration of modern neural
# networks".
BINS = 15

# A threshold that no probability reaches, and how many answers must be left to set a lower one.
NEVER, FEWEST = 2.0, 20

# Temperatures that are tried. At the ends the classes are told apart without a fault (nothing to
# learn from) or by nothing; neither end is a finding.
_COLDEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """What each bin holds; bin i spans i/15 to (i+1)/15."""

    count: npt.NDArray[np.int64]  # (15,) images
    confidence: npt.NDArray[np.float64]  # (15,) mean top probability; NaN in an empty bin
    accuracy: npt.NDArray[np.float64]  # (15,) share predicted right; NaN in an empty bin


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


def expected_calibration_error(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """ECE of the top probability over the bins (Guo et al. 2017, eq. 3), 0..1.

    Args:
        labels: (N,) indices of the true classes.
        probabilities: (N, K), rows sum to 1.
        weights: (B, N) how often each image counts in each resample; None: one row of ones.

    Returns:
        (B,).
    """
    if weights is None:
        weights = np.ones((1, len(labels)))
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    gap = weights @ ((right - confidence)[:, None] * np.eye(BINS)[bin_of(confidence)])
    error: npt.NDArray[np.float64] = np.abs(gap).sum(axis=1) / weights.sum(axis=1)
    return error


def softmax(logits: npt.NDArray[np.float64], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(N, K) logits, divided by `temperature`, to (N, K) probabilities."""
    divided = logits / temperature
    shifted = np.exp(divided - divided.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def negative_log_likelihood(
    labels: npt.NDArray[np.int64], logits: npt.NDArray[np.float64], temperature: float = 1.0
) -> float:
    """Mean of -log probability of the true class, nats; finite for finite logits."""
    divided = logits / temperature
    highest = divided.max(axis=1)
    log_sum = highest + np.log(np.exp(divided - highest[:, None]).sum(axis=1))
    return float((log_sum - divided[np.arange(len(labels)), labels]).mean())


def fit_temperature(labels: npt.NDArray[np.int64], logits: npt.NDArray[np.float64]) -> float:
    """The temperature with the lowest negative log-likelihood (Guo et al. 2017, section 4.2).

    It changes no prediction, only how sure they are. It is looked for between 0.05 and 20; where
    every image is right, colder is always better and the answer is 1: nothing is known of how sure
    to be.

    Args:
        labels: (N,) indices of the true classes, of images that the network did not learn from.
        logits: (N, K).

    Returns:
        More than 1 where the network is too sure, less where it is not sure enough.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 (using a temperature needs none)

    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    found = minimize_scalar(
        lambda log: negative_log_likelihood(labels, logits, float(np.exp(log))),
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def threshold_for_precision(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], precision: float
) -> float:
    """The lowest top probability from which on answers of every class are right often enough.

    Args:
        labels: (N,) of images that the network did not learn from.
        probabilities: (N, K) calibrated.
        precision: share of the answers that shall be right, for each class that is answered.

    Returns:
        The threshold (an answer at it is given), in hundredths; `NEVER` where none is high enough,
        or where fewer than `FEWEST` answers are left.
    """
    top, answer = probabilities.max(axis=1), probabilities.argmax(axis=1)
    right = answer == labels
    for threshold in np.arange(1, 100) / 100:
        given = top >= threshold
        if given.sum() < FEWEST:
            break
        counts = np.bincount(answer[given], minlength=probabilities.shape[1])
        correct = np.bincount(answer[given & right], minlength=probabilities.shape[1])
        if (correct >= precision * counts).all():
            return float(threshold)
    return NEVER


@dataclass(frozen=True)
class Calibrated:
    """What a temperature, fitted elsewhere, changes on these images."""

    temperature: float  # by which the logits are divided
    # ece_before, ece_after: expected calibration error without and with it, 0..1
    ece_before: float
    ece_after: float
    # nll_before, nll_after: negative log-likelihood (log loss), nats
    nll_before: float
    nll_after: float
    # brier_before, brier_after: Brier score, 0..2
    brier_before: float
    brier_after: float
    # calibrated top probability below which the answer is "uncertain"; None: not set
    threshold: float | None
    coverage: float | None  # share of the images at or above it; None: not set
    accuracy_covered: float | None  # accuracy among them; None: not set, or there are none


def calibrated(
    labels: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float64],
    temperature: float | None,
    threshold: float | None,
) -> Calibrated | None:
    """Metrics before and after `temperature`; None where there is none."""
    if temperature is None:
        return None
    plain, probabilities = softmax(logits), softmax(logits, temperature)
    truth = np.eye(logits.shape[1])[labels]
    covered = probabilities.max(axis=1) >= (0.0 if threshold is None else threshold)
    right = probabilities.argmax(axis=1) == labels
    decided = threshold is not None
    return Calibrated(
        temperature=temperature,
        ece_before=float(expected_calibration_error(labels, plain)[0]),
        ece_after=float(expected_calibration_error(labels, probabilities)[0]),
        nll_before=negative_log_likelihood(labels, logits),
        nll_after=negative_log_likelihood(labels, logits, temperature),
        brier_before=float(((plain - truth) ** 2).sum(axis=1).mean()),
        brier_after=float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        threshold=threshold,
        coverage=float(covered.mean()) if decided else None,
        accuracy_covered=float(right[covered].mean()) if decided and covered.any() else None,
    )
