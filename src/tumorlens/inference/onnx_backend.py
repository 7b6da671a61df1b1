"""An exported network, run by onnxruntime: no torch is loaded, none need be installed."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tumorlens.errors import TumorlensError
from tumorlens.inference.backends import Floats
from tumorlens.inference.onnx_metadata import (
    FEATURES,
    LOGITS,
    SQUARES,
    ExportedFile,
    NotOursError,
)

if TYPE_CHECKING:
    import onnxruntime as ort

_EXPECTED = "expected a file that `tumorlens export` wrote"


class OnnxBackend:
    """A network in a file of `tumorlens export`; a `backends.Backend`.

    Args:
        path: the file.
        threads: CPU threads; None: all cores.

    Attributes:
        about: what the file says of itself.
        name, image_size, judge: see `backends.Backend`.

    Raises:
        TumorlensError: no onnxruntime, no such file, or another program's.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session = session(path, threads)
        try:
            self.about = ExportedFile.from_metadata(
                self._session.get_modelmeta().custom_metadata_map
            )
        except NotOursError as error:
            raise TumorlensError(f"{path}: {error}; {_EXPECTED}.") from error
        self.name = self.about.name
        self.image_size = self.about.image_size
        self.judge = self.about.judge
        inputs = {node.name: node.shape[1:] for node in self._session.get_inputs()}
        outputs = {node.name: node.shape[1:] for node in self._session.get_outputs()}
        side, classes = self.image_size, len(self.judge.classes)
        features = outputs.get(FEATURES, [])
        space = self.judge.space
        if (
            inputs != {SQUARES: [side, side]}
            or outputs.get(LOGITS) != [classes]
            or len(features) != 1
            or (space is not None and features != [space.means.shape[1]])
        ):
            raise TumorlensError(
                f"{path}: the graph ({inputs} to {outputs}) is not the one that its metadata "
                f"tell of; {_EXPECTED}."
            )

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """(N, S, S) uint8 as `readers.fit_square` makes them; logits (N, K), features (N, D)."""
        logits, features = self._session.run([LOGITS, FEATURES], {SQUARES: np.array(squares)})
        return logits.astype(np.float64), features.astype(np.float64)


def session(path: Path, threads: int | None) -> "ort.InferenceSession":
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
