"""From a network's numbers to what a person is told. No torch.

Three decisions: "confident"; "uncertain", where the top probability is below the threshold;
"out of distribution", where the features are farther from it than the threshold. Without
thresholds nothing is decided, and that is said.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from tumorlens.errors import TumorlensError
from tumorlens.uncertainty.calibration import NEVER, softmax
from tumorlens.uncertainty.conformal import Conformal, in_sets
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

Decision = Literal["confident", "uncertain", "out of distribution", "not calibrated"]


@dataclass(frozen=True, eq=False)
class Decided:
    """What is said of one image."""

    prediction: str  # class with the highest probability
    decision: Decision  # how to take it
    probabilities: npt.NDArray[np.float64]  # (K,), calibrated where there is a temperature
    distance: float | None  # from the training data, in units of its spread; None: not measured
    # the conformal set of classes, most probable first; None: not asked for
    set: tuple[str, ...] | None = None

    @property
    def set_words(self) -> str:
        """Such as "glioma or meningioma"; "" where there is no set."""
        return " or ".join(self.set or ())


@dataclass(frozen=True)
class DecisionRule:
    """What a checkpoint or an exported file knows about taking its own numbers.

    Attributes:
        classes: K names.
        temperature: divides the logits; None: not fitted, 1 is used.
        threshold: top probability below which the answer is "uncertain"; None: not set.
        space: where the training images lie; None: not kept.
        conformal: what calibration images tell of sets of classes; None: not kept.
        least: (K,) the probability from which on a class is in the set, see `at`; None: no sets.

    Raises:
        ValueError: fewer than two classes, one of them twice, or a number that makes no sense.
    """

    classes: tuple[str, ...]
    temperature: float | None = None
    threshold: float | None = None
    space: FeatureSpace | None = None
    conformal: Conformal | None = None
    least: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        texts = {name for name in self.classes if isinstance(name, str)}
        if len(self.classes) < 2 or len(texts) < len(self.classes):
            raise ValueError(f"classes {self.classes!r:.80}; expected two names or more")
        for name in ("temperature", "threshold"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value) and value > 0
            if value is not None and not number:
                raise ValueError(f"{name} {value!r:.80}; expected a number above 0")
        if self.conformal is not None and len(self.conformal.counts) != len(self.classes):
            raise ValueError(f"calibration scores of {len(self.conformal.counts)} classes")

    def at(self, coverage: float) -> "DecisionRule":
        """The same, with a set of classes for each image that has the true one so often.

        Raises:
            TumorlensError: no calibration scores are kept, or they are of too few patients.
        """
        if self.conformal is None:
            raise TumorlensError(
                f"--coverage {coverage:g}: this file keeps no calibration scores; make them by "
                "`tumorlens calibrate --checkpoint FILE`, which needs the data folder."
            )
        return replace(self, least=self.conformal.least(coverage, self.classes))

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
                set=self._set(row),
            )
            for row, distance in zip(probabilities, distances, strict=True)
        ]

    def _set(self, row: npt.NDArray[np.float64]) -> tuple[str, ...] | None:
        if self.least is None:
            return None
        inside = in_sets(row[None], self.least)[0]
        return tuple(self.classes[index] for index in np.argsort(-row) if inside[index])

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
