"""Eight-bit arithmetic: quantising an exported network, and refusing it where it forgets a class.

Static quantisation (Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference"): the range of every activation is measured on training
images. What it costs is measured on validation images, class by class: a mean hides a class
that is lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tumorlens.evaluation.metrics import confusion, from_confusion
from tumorlens.inference.backends import onnx_session
from tumorlens.inference.onnx_metadata import LOGITS, SQUARES
from tumorlens.progress import Progress, silent

Floats = npt.NDArray[np.float64]
Squares = npt.NDArray[np.uint8]

# Macro F1 and each class's recall may fall by this much, in parts of 1.
MOST_LOST = 0.005
_BATCH = 32
# What is computed in 8 bits: nearly all of the work. The gates, the head and what comes before the
# first convolution stay in 32: they are a thousandth of it.
_OPERATIONS = ["Conv", "Add", "MaxPool", "Relu"]


@dataclass(frozen=True)
class Cost:
    """What eight bits cost on validation images."""

    images: int  # how many
    rarest: int  # of them, those of the class that has fewest
    # before, after: "macro_f1" and "recall_CLASS" of the network in 32 bits and in 8
    before: dict[str, float]
    after: dict[str, float]
    changed: float  # share of the images with another prediction
    trained: int = 0  # validation images left out because they show training images

    def lost(self) -> dict[str, float]:
        """Metrics that fell by more than `MOST_LOST`, and by how much."""
        fallen = {name: self.before[name] - self.after[name] for name in self.before}
        # The last digits of a float must not decide.
        return {name: drop for name, drop in fallen.items() if not drop <= MOST_LOST + 1e-9}


def _batches(squares: Squares, progress: Progress, stage: str) -> Iterator[dict[str, Squares]]:
    for start in range(0, len(squares), _BATCH):
        yield {SQUARES: squares[start : start + _BATCH]}
        progress(stage, min(start + _BATCH, len(squares)), len(squares))


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The calibration images, a batch at a time."""

    def __init__(self, squares: Squares, progress: Progress) -> None:
        self._batches = _batches(squares, progress, "calibrating")

    def get_next(self) -> dict[str, Squares] | None:
        """What onnxruntime asks for until there is no more."""
        return next(self._batches, None)


def quantise(source: Path, target: Path, squares: Squares, progress: Progress = silent) -> None:
    """Write the network of `source` to `target`, its convolutions in 8 bits.

    Weights are symmetric around 0, one scale a channel, in 7 of the 8 bits: processors without
    VNNI add products in pairs into 16 bits, which would overflow with all 8.

    `squares` are (N, S, S) training images, of every class.
    """
    graph = onnx.load(source).graph
    first = next(place for place, node in enumerate(graph.node) if node.op_type == "Conv")
    # Shapes are noted alone: batch norms are folded already.
    quant_pre_process(source, target, skip_optimization=True, skip_symbolic_shape=True)
    quantize_static(
        target,
        target,
        _Calibration(squares, progress),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_OPERATIONS,
        nodes_to_exclude=[node.name for node in graph.node[:first]],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def logits_of(
    path: Path, squares: Squares, threads: int | None, progress: Progress, stage: str
) -> Floats:
    """(N, S, S) images to (N, K) logits of an ONNX file; `progress` gets `stage`."""
    running = onnx_session(path, threads)
    batches = _batches(np.asarray(squares), progress, stage)
    return np.concatenate([running.run([LOGITS], one)[0].astype(np.float64) for one in batches])


def cost(
    labels: npt.NDArray[np.int64], before: Floats, after: Floats, classes: Sequence[str]
) -> Cost:
    """Compare predictions in 32 bits and in 8.

    `labels` (N,) have each class at least once; logits are (N, K).
    """
    guesses = [logits.argmax(axis=1) for logits in (before, after)]
    metrics = []
    for predicted in guesses:
        table = confusion(labels, predicted, len(classes), np.ones((1, len(labels))))
        found = from_confusion(table, classes)
        wanted = ("macro_f1", *(f"recall_{name}" for name in classes))
        metrics.append({name: float(found[name][0]) for name in wanted})
    return Cost(
        images=len(labels),
        rarest=int(np.bincount(labels, minlength=len(classes)).min()),
        before=metrics[0],
        after=metrics[1],
        changed=float((guesses[0] != guesses[1]).mean()),
    )
