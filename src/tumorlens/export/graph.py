"""A checkpoint's network as an ONNX graph that takes grey 8-bit squares, and is it the same one?"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe, described
from tumorlens.errors import TumorlensError
from tumorlens.export.parity import Parity
from tumorlens.inference.onnx_backend import session
from tumorlens.inference.onnx_metadata import FEATURES, LOGITS, SQUARES

# Largest difference of a logit or a feature from PyTorch's that is taken for rounding.
TOLERANCE = 1e-4


class Exportable(nn.Module):
    """Preprocessing and network as one: (N, S, S) uint8 to logits (N, K) and features (N, 512).

    The network sees the same grey picture in each of its channels. Here it sees it once, and the
    first convolution's weights are summed over the channels: the same sums in another order.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.preprocessing = replace(checkpoint.preprocessing, channels=1)
        self.network = checkpoint.network()
        stem = self.network.conv1
        stem.weight = nn.Parameter(stem.weight.detach().sum(dim=1, keepdim=True))
        stem.in_channels = 1
        self.eval()

    def forward(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features."""
        return described(self.network, self.preprocessing(squares))


def graph_of(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The graph, its batch of any size; it names no file and no folder of this machine."""
    side = checkpoint.preprocessing.image_size
    # Two pictures: a size of 1 would be taken for a constant.
    example = torch.zeros(2, side, side, dtype=torch.uint8)
    with _quietly():
        program = torch.onnx.export(
            Exportable(checkpoint),
            (example,),
            input_names=[SQUARES],
            output_names=[LOGITS, FEATURES],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_traces(model)
    onnx.checker.check_model(model)
    return model


def _forget_traces(model: onnx.ModelProto) -> None:
    # The exporter notes at each node which line of which file it came from.
    graph = model.graph
    described_parts = (
        *(graph, *graph.node, *graph.input, *graph.output),
        *(*graph.initializer, *graph.value_info),
    )
    for part in described_parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.ClearField("metadata_props")
    model.ClearField("doc_string")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on torchvision and on its own use of torch."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def parity(
    path: Path,
    checkpoint: Checkpoint,
    squares: npt.NDArray[np.uint8],
    pictures: str,
    threads: int | None = None,
) -> Parity:
    """Compare an ONNX file with the checkpoint that it was made of, one by one and as a batch.

    Args:
        path: the file.
        checkpoint: its network is run by PyTorch, as `evaluate` would.
        squares: (N, S, S), N at least 2.
        pictures: what they are, in words.
        threads: of onnxruntime; None: all cores.

    Raises:
        TumorlensError: they differ by more than `TOLERANCE`.
    """
    running = session(path, threads)
    expected = describe(
        checkpoint.network(), checkpoint.preprocessing, squares, device=torch.device("cpu")
    )
    whole = running.run([LOGITS, FEATURES], {SQUARES: squares})
    alone = running.run([LOGITS, FEATURES], {SQUARES: squares[:1]})
    logits, features = (
        max(
            float(np.abs(together - wanted).max()),
            float(np.abs(single - wanted[:1]).max()),
        )
        for together, single, wanted in zip(whole, alone, expected, strict=True)
    )
    if not (logits <= TOLERANCE and features <= TOLERANCE):  # NaN is no agreement
        raise TumorlensError(
            f"--checkpoint {checkpoint.path}: the exported network differs from the checkpoint's "
            f"by {logits:.2g} in a logit and {features:.2g} in a feature on {len(squares)} "
            f"{pictures}, expected at most {TOLERANCE:g}; it was not kept. The checkpoint's "
            "weights may be out of range; train again, or report this with the versions of torch "
            "and onnxruntime."
        )
    return Parity(pictures, len(squares), logits, features)
