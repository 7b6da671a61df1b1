"""From a network's numbers to what a person is told. No torch.

Three verdicts: "confident"; "uncertain", where the top probability is below the threshold;
"unlike the training data", where the features are farther from it than the threshold. Without
thresholds nothing is judged, and that is said.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tumorlens.uncertainty.calibration import softmax
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

Verdict = Literal["confident", "uncertain", "unlike the training data", "not judged"]


@dataclass(frozen=True)
class Judged:
    """What is said of one picture.

    Attributes:
        prediction: class with the highest probability.
        verdict: how to take it.
        probabilities: (K,), calibrated where there is a temperature.
        distance: from the training data, in units of its spread; None: not measured.
    """

    prediction: str
    verdict: Verdict
    probabilities: npt.NDArray[np.float64]
    distance: float | None


@dataclass(frozen=True)
class Judge:
    """What a checkpoint or an exported file knows about taking its own numbers.

    Attributes:
        classes: K names.
        temperature: divides the logits; None: not fitted, 1 is used.
        threshold: top probability below which the answer is "uncertain"; None: not set.
        space: where the training images lie; None: not kept.
    """

    classes: tuple[str, ...]
    temperature: float | None = None
    threshold: float | None = None
    space: FeatureSpace | None = None

    def judge(
        self, logits: npt.NDArray[np.float64], features: npt.NDArray[np.float64] | None
    ) -> list[Judged]:
        """(N, K) logits and (N, D) features of N pictures to N verdicts."""
        probabilities = softmax(logits.astype(np.float64), self.temperature or 1.0)
        measured = self.space is not None and features is not None
        distances: list[float | None] = [None] * len(logits)
        if measured:
            assert self.space is not None
            assert features is not None
            distances = self.space.distances(features).tolist()
        return [
            Judged(
                prediction=self.classes[int(row.argmax())],
                verdict=self._verdict(float(row.max()), distance),
                probabilities=row,
                distance=distance,
            )
            for row, distance in zip(probabilities, distances, strict=True)
        ]

    def why(self, judged: Judged) -> str:
        """What made the verdict "uncertain" or "unlike the training data"; else nothing."""
        if judged.verdict == "unlike the training data" and self.space is not None:
            return (
                f"its features lie {judged.distance:.2f} from those of the training images, beyond "
                f"{self.space.threshold:.2f}"
            )
        if judged.verdict == "uncertain":
            top = float(judged.probabilities.max())
            return (
                f"{judged.prediction} at {top:.2f} is below the threshold of {self.threshold:.2f}"
            )
        return ""

    def _verdict(self, top: float, distance: float | None) -> Verdict:
        if self.space is not None and distance is not None and not distance <= self.space.threshold:
            return "unlike the training data"
        if self.threshold is None:
            return "not judged"
        return "confident" if top >= self.threshold else "uncertain"
