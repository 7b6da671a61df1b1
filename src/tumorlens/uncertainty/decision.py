"""From a network's numbers to what a person is told. No torch.

Three decisions: "confident"; "uncertain", where the top probability is below the threshold;
"out of distribution", where the features are farther from it than the threshold. Without
thresholds nothing is decided, and that is said.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tumorlens.uncertainty.calibration import NEVER, softmax
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

Decision = Literal["confident", "uncertain", "out of distribution", "not calibrated"]


@dataclass(frozen=True, eq=False)
class Decided:
    """What is said of one image.

    Attributes:
        prediction: class with the highest probability.
        decision: how to take it.
        probabilities: (K,), calibrated where there is a temperature.
        distance: from the training data, in units of its spread; None: not measured.
    """

    prediction: str
    decision: Decision
    probabilities: npt.NDArray[np.float64]
    distance: float | None


@dataclass(frozen=True)
class DecisionRule:
    """What a checkpoint or an exported file knows about taking its own numbers.

    Attributes:
        classes: K names.
        temperature: divides the logits; None: not fitted, 1 is used.
        threshold: top probability below which the answer is "uncertain"; None: not set.
        space: where the training images lie; None: not kept.

    Raises:
        ValueError: fewer than two classes, one of them twice, or a number that makes no sense.
    """

    classes: tuple[str, ...]
    temperature: float | None = None
    threshold: float | None = None
    space: FeatureSpace | None = None

    def __post_init__(self) -> None:
        texts = {name for name in self.classes if isinstance(name, str)}
        if len(self.classes) < 2 or len(texts) < len(self.classes):
            raise ValueError(f"classes {self.classes!r:.80}; expected two names or more")
        for name in ("temperature", "threshold"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value) and value > 0
            if value is not None and not number:
                raise ValueError(f"{name} {value!r:.80}; expected a number above 0")

    def decide(
        self, logits: npt.NDArray[np.float64], features: npt.NDArray[np.float64] | None
    ) -> list[Decided]:
        """(N, K) logits and (N, D) features of N images to N decisions."""
        probabilities = softmax(logits.astype(np.float64), self.temperature or 1.0)
        measured = self.space is not None and features is not None
        distances: list[float | None] = [None] * len(logits)
        if measured:
            assert self.space is not None
            assert features is not None
            distances = self.space.distances(features).tolist()
        return [
            Decided(
                prediction=self.classes[int(row.argmax())],
                decision=self._decision(float(row.max()), distance),
                probabilities=row,
                distance=distance,
            )
            for row, distance in zip(probabilities, distances, strict=True)
        ]

    def why(self, decided: Decided) -> str:
        """What made the decision "uncertain" or "out of distribution"; else nothing."""
        if decided.decision == "out of distribution" and self.space is not None:
            return (
                f"its features lie {decided.distance:.2f} from those of the training images, "
                f"beyond {self.space.threshold:.2f}"
            )
        if decided.decision == "uncertain" and self.threshold == NEVER:
            return (
                "nothing is confident: no threshold made 95% of the answers right on validation "
                "images under everyday changes of display"
            )
        if decided.decision == "uncertain":
            top = float(decided.probabilities.max())
            return (
                f"{decided.prediction} at {top:.2f} is below the threshold of {self.threshold:.2f}"
            )
        return ""

    def _decision(self, top: float, distance: float | None) -> Decision:
        if self.space is not None and distance is not None and not distance <= self.space.threshold:
            return "out of distribution"
        if self.threshold is None:
            return "not calibrated"
        return "confident" if top >= self.threshold else "uncertain"
