"""What runs a network: PyTorch from a checkpoint, or onnxruntime from an exported file."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tumorlens.uncertainty.decision import Judge

Floats = npt.NDArray[np.float64]


class Backend(Protocol):
    """A network with all that is needed to take its numbers.

    Attributes:
        name: of the network, such as "se_resnet18".
        image_size: side S of the square that it sees, pixels.
        judge: classes, temperature, thresholds and feature space.
    """

    name: str
    image_size: int
    judge: Judge

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """(N, S, S) pictures of `readers.fit_square` to logits (N, K) and features (N, D)."""
        ...
