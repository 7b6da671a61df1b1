"""What runs a network: PyTorch from a checkpoint, or onnxruntime from an exported file.

Both are imported where they are used: none of the two need be installed for the other.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from tumorlens.device import cpu_threads, pick_device
from tumorlens.errors import TumorlensError
from tumorlens.inference.onnx_metadata import (
    FEATURES,
    LOGITS,
    SQUARES,
    ExportedFile,
    NotOursError,
)
from tumorlens.settings import MAP_METHOD, PredictSettings
from tumorlens.uncertainty.decision import DecisionRule

if TYPE_CHECKING:
    import onnxruntime as ort

Floats = npt.NDArray[np.float64]
_EXPECTED = "expected a file that `tumorlens export` wrote"


class Backend(Protocol):
    """A network with all that is needed to take its numbers."""

    name: str  # of the network, such as "se_resnet18"
    image_size: int  # side S of the square that it sees, pixels
    rule: DecisionRule  # classes, temperature, thresholds and feature space

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """(N, S, S) images of `readers.fit_square` to logits (N, K) and features (N, D)."""
        ...


def backend_of(settings: PredictSettings) -> Backend:
    """The network that `--checkpoint` and `--backend` name.

    Raises:
        TumorlensError: the file is missing, of another kind, or its backend is not installed.
    """
    if settings.runs_onnx:
        return OnnxBackend(settings.checkpoint, settings.threads)
    return TorchBackend(settings.checkpoint, settings.device, settings.threads)


class OnnxBackend:
    """A network in a file of `tumorlens export`; a `Backend`; no torch is loaded.

    Args:
        path: the file.
        threads: CPU threads; None: all cores.

    Attributes:
        about: what the file says of itself.
        name, image_size, rule: see `Backend`.

    Raises:
        TumorlensError: no onnxruntime, no such file, or another program's.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session = onnx_session(path, threads)
        try:
            self.about = ExportedFile.from_metadata(
                self._session.get_modelmeta().custom_metadata_map
            )
        except NotOursError as error:
            raise TumorlensError(f"{path}: {error}; {_EXPECTED}.") from error
        self.name = self.about.name
        self.image_size = self.about.image_size
        self.rule = self.about.rule
        inputs = {node.name: node.shape[1:] for node in self._session.get_inputs()}
        outputs = {node.name: node.shape[1:] for node in self._session.get_outputs()}
        side, classes = self.image_size, len(self.rule.classes)
        features = outputs.get(FEATURES)
        space = self.rule.space
        if (
            inputs != {SQUARES: [side, side]}
            or outputs.get(LOGITS) != [classes]
            or (features is not None and len(features) != 1)
            or (space is not None and features != [space.means.shape[1]])
        ):
            raise TumorlensError(
                f"{path}: the graph ({inputs} to {outputs}) is not the one that its metadata "
                f"tell of; {_EXPECTED}."
            )

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """(N, S, S) uint8 as `readers.fit_square` makes them; logits (N, K), features (N, D)."""
        return outputs_of(self._session, squares)


def outputs_of(
    session: "ort.InferenceSession", squares: npt.NDArray[np.uint8]
) -> tuple[Floats, Floats]:
    """Logits (N, K) and features (N, D) of an exported network; D is 0 where it has none."""
    names = [node.name for node in session.get_outputs()]
    found = dict(zip(names, session.run(names, {SQUARES: np.array(squares)}), strict=True))
    features = found.get(FEATURES, np.empty((len(squares), 0)))
    return found[LOGITS].astype(np.float64), features.astype(np.float64)


def onnx_session(path: Path, threads: int | None) -> "ort.InferenceSession":
    """Any ONNX file, ready to run on the CPU.

    Raises:
        TumorlensError: no onnxruntime, no such file, or no ONNX.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415 (an extra; only this backend needs it)
    except ImportError as error:
        raise TumorlensError(
            "running an exported network needs onnxruntime; `pip install 'tumorlens[export]'`, or "
            "`pip install onnxruntime`."
        ) from error
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise TumorlensError(f"{path}: found {found}; {_EXPECTED}.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone; they are raised as well
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no parent of their own
        words = str(error).split(" : ")[-1].removeprefix(f"Load model from {path} failed:")
        reason = words.strip().split("\n")[0].rstrip(".")
        raise TumorlensError(
            f"{path}: cannot be read as an ONNX file ({reason}); {_EXPECTED}."
        ) from error


class TorchBackend:
    """A network in a checkpoint; a `Backend` that can also say where it looked.

    Args:
        path: of the checkpoint.
        device: see `config.Device`.
        threads: CPU threads; None: all cores.

    Raises:
        TumorlensError: no such file, or no checkpoint; no such device.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        from tumorlens.checkpoint.file import load  # noqa: PLC0415 (torch takes seconds)

        self._threads = threads
        loaded = load(path)
        self.name = loaded.model_name
        self.image_size = loaded.preprocessing.image_size
        self.rule = loaded.decision()
        self._preprocessing = loaded.preprocessing
        self._device = pick_device(device)
        self._network = loaded.network().to(self._device)

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """(N, S, S) uint8 as `readers.fit_square` makes them; logits (N, K), features (N, D)."""
        from tumorlens.checkpoint.session import describe  # noqa: PLC0415 (torch)

        with cpu_threads(self._threads):
            return describe(
                self._network,
                self._preprocessing,
                squares,
                device=self._device,
                batch_size=len(squares),
            )

    def maps(
        self, squares: npt.NDArray[np.uint8], targets: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """(N, h, w) relevance >= 0 of each square for its own target, as `gradcam` makes them."""
        import torch  # noqa: PLC0415

        from tumorlens.explain import gradcam  # noqa: PLC0415 (torch)

        images = torch.from_numpy(squares).to(self._device)
        columns = torch.from_numpy(targets).to(self._device)
        with cpu_threads(self._threads):
            inputs = self._preprocessing(images)
            found = gradcam.grad_cam(self._network, inputs, columns, method=MAP_METHOD)
        found = self._preprocessing.unframed(found, images)
        maps: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return maps
