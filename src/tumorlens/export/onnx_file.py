"""A checkpoint as one ONNX file, which takes grey 8-bit squares, checked before it is kept."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tumorlens import __version__
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import ImageChoice
from tumorlens.data.dataset import Dataset
from tumorlens.device import cpu_threads
from tumorlens.errors import TumorlensError
from tumorlens.export import int8
from tumorlens.export.parity import (
    Exported,
    Parity,
    Squares,
    checkpoint_and_images,
    compared,
    spread_out,
)
from tumorlens.files import replacing
from tumorlens.inference.backends import OnnxBackend, onnx_session, outputs_of
from tumorlens.inference.onnx_metadata import FEATURES, LOGITS, SQUARES, ExportedFile
from tumorlens.labels import is_foreign
from tumorlens.models.build import logits_and_features
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress, silent
from tumorlens.settings import ExportSettings
from tumorlens.training.finished import images_of_training

# Largest difference of a logit or a feature from PyTorch's that is taken for rounding.
TOLERANCE = 1e-4


def write(settings: ExportSettings, out: Path, progress: Progress = silent) -> Exported:
    """Write `settings.checkpoint` to `out` as an ONNX file.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags; or the file would not answer
            as the checkpoint does, and was not kept.
    """
    data, trained = None, 0
    if settings.int8:
        loaded = checkpoints.load(settings.checkpoint)
        choice = ImageChoice(settings.data_dir, splits=settings.splits, fold=settings.fold)
        data, trained = images_of_training(loaded, choice, "; export without --int8", progress)
        squares, images = spread_out(data.images[data.indices("valid")]), "validation images"
    else:
        loaded, squares, images = checkpoint_and_images(settings, progress)
    progress("exporting", 0, 2 + settings.int8)
    model = graph_of(loaded)
    progress("exporting", 1, 2 + settings.int8)
    with (
        cpu_threads(settings.threads),
        replacing(out) as beside,
        tempfile.TemporaryDirectory(prefix="tumorlens-export-") as scratch,
    ):
        exact = Path(scratch) / "exact.onnx"
        onnx.save(model, exact)
        found = parity(exact, loaded, squares, images, settings.threads)
        progress("exporting", 2, 2 + settings.int8)
        cost = None
        if data is not None:
            small = Path(scratch) / "small.onnx"
            cost = replace(_small(exact, small, data, settings, progress), trained=trained)
            model = onnx.load(small)
            progress("exporting", 3, 3)
        _describe(model, loaded, found, cost)
        onnx.save(model, beside)
        OnnxBackend(beside, settings.threads)  # whole, and readable as its users will read it
    return Exported(
        path=out,
        size=out.stat().st_size,
        precision="int8" if cost else "fp32",
        parity=found,
        cost=cost,
        skipped=dict(data.skipped) if data else {},
    )


def _small(
    exact: Path, small: Path, data: Dataset, settings: ExportSettings, progress: Progress
) -> int8.Cost:
    """Quantise `exact` into `small`, and measure what that costs; too much is refused."""
    train, valid = data.indices("train"), data.indices("valid")
    rng = np.random.default_rng(0)
    each = -(-settings.calibration_images // len(data.classes))
    drawn = [
        rng.permutation(train[data.labels[train] == label])[:each]
        for label in range(len(data.classes))
    ]
    int8.quantise(exact, small, data.images[rng.permutation(np.concatenate(drawn))], progress)
    squares = data.images[valid]
    before, after = (
        int8.logits_of(path, squares, settings.threads, progress, stage)
        for path, stage in ((exact, "scoring fp32"), (small, "scoring int8"))
    )
    cost = int8.cost(data.labels[valid], before, after, data.classes)
    lost = cost.lost()
    if lost:
        metrics = ", ".join(
            f"{name} from {100 * cost.before[name]:.1f} to {100 * cost.after[name]:.1f}"
            for name in lost
        )
        raise TumorlensError(
            f"--int8: on {cost.images} validation images eight bits take {metrics} (percent), "
            f"more than the {100 * int8.MOST_LOST:g} points allowed; the file was not kept. "
            "Calibrate on more images with --calibration_images, or export without --int8."
        )
    return cost


def _describe(
    model: onnx.ModelProto, loaded: Checkpoint, found: Parity, cost: int8.Cost | None
) -> None:
    """Put into the file all that is needed to take its numbers."""
    assert loaded.path is not None
    preprocessing = loaded.preprocessing
    about = ExportedFile(
        name=loaded.model_name,
        image_size=preprocessing.image_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        rule=loaded.decision(),
        precision="int8" if cost else "fp32",
        facts={
            "selected": loaded.selected,
            "calibration": loaded.calibration,
            "checkpoint_sha256": checkpoints.sha256(loaded.path),
            "parity": asdict(found),
            "int8": asdict(cost) if cost else None,
        },
    )
    onnx.helper.set_model_props(model, about.to_metadata())
    model.producer_name = "tumorlens"
    model.producer_version = __version__


class Exportable(nn.Module):
    """Preprocessing and network as one: (N, S, S) uint8 to logits (N, K) and features (N, D).

    A network of ours sees the same grey image in each of its channels. Here it sees it once, and
    the first convolution's weights are summed over the channels: the same sums in another order.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.preprocessing = checkpoint.preprocessing
        self.network = checkpoint.network()
        if isinstance(self.network, ResNet):
            self.preprocessing = replace(checkpoint.preprocessing, channels=1)
            stem = self.network.conv1
            stem.weight = nn.Parameter(stem.weight.detach().sum(dim=1, keepdim=True))
            stem.in_channels = 1
        self.eval()

    def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
        """Logits, and features where there are any."""
        logits, features = logits_and_features(self.network, self.preprocessing(squares))
        return (logits, features) if features.shape[1] else (logits,)


def graph_of(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The graph, its batch of any size; it names no file and no folder of this machine.

    Raises:
        TumorlensError: a network of the user's own cannot be written as one.
    """
    side = checkpoint.preprocessing.image_size
    # Two images: a size of 1 would be taken for a constant.
    example = torch.zeros(2, side, side, dtype=torch.uint8)
    network = Exportable(checkpoint)
    why = "its code fixes the number of images, as `len(x)` does where `x.shape[0]` would not"
    try:
        with _quietly():
            program = torch.onnx.export(
                network,
                (example,),
                input_names=[SQUARES],
                output_names=[LOGITS, FEATURES][: len(network(example))],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        fixed = not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    except torch.onnx.OnnxExporterError as error:
        why, fixed = next(iter(str(error).split("\n")), type(error).__name__), True
        if not is_foreign(checkpoint.model_name):
            raise
    if fixed:
        raise TumorlensError(
            f"--checkpoint {checkpoint.path}: {checkpoint.model_name} cannot be written as ONNX: "
            f"{why}; change its code, or share the checkpoint by --format safetensors."
        )
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
    logs = [logging.getLogger(name) for name in ("torch.onnx", "torch._guards")]
    levels = [log.level for log in logs]
    for log in logs:  # older versions of torch tell of a first attempt that failed
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def parity(
    path: Path, checkpoint: Checkpoint, squares: Squares, images: str, threads: int | None = None
) -> Parity:
    """Compare an ONNX file with the checkpoint that it was made of, one by one and as a batch.

    `squares` are (N, S, S), N at least 2; `images` says in words what they are.

    Raises:
        TumorlensError: they differ by more than `TOLERANCE`.
    """
    running = onnx_session(path, threads)
    batches = [outputs_of(running, some) for some in (squares, squares[:1])]
    found = compared(checkpoint, squares, images, batches)
    if not (found.logits <= TOLERANCE and found.features <= TOLERANCE):  # NaN is no agreement
        raise TumorlensError(
            f"--checkpoint {checkpoint.path}: the exported network differs from the checkpoint's "
            f"by {found.logits:.2g} in a logit and {found.features:.2g} in a feature on "
            f"{found.count} {images}, expected at most {TOLERANCE:g}; it was not kept. The "
            "checkpoint's weights may be out of range; train again, or report this with the "
            "versions of torch and onnxruntime."
        )
    return found
