"""A checkpoint, run by PyTorch."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.session import describe
from tumorlens.device import cpu_threads, pick_device
from tumorlens.explain import gradcam
from tumorlens.inference.backends import Floats
from tumorlens.settings import MAP_LAYER, MAP_METHOD


class TorchBackend:
    """A network in a checkpoint; a `backends.Backend` that can also say where it looked.

    Args:
        path: of the checkpoint.
        device: see `config.Device`.
        threads: CPU threads; None: all cores.

    Raises:
        TumorlensError: no such file, or no checkpoint; no such device.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self._threads = threads
        loaded = checkpoints.load(path)
        self.name = loaded.model_name
        self.image_size = loaded.preprocessing.image_size
        self.judge = loaded.decision()
        self._preprocessing = loaded.preprocessing
        self._device = pick_device(device)
        self._network = loaded.network().to(self._device)

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """(N, S, S) uint8 as `readers.fit_square` makes them; logits (N, K), features (N, D)."""
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
        inputs = self._preprocessing(torch.from_numpy(squares).to(self._device))
        columns = torch.from_numpy(targets).to(self._device)
        with cpu_threads(self._threads):
            found = gradcam.grad_cam(self._network, inputs, columns, MAP_LAYER, MAP_METHOD)
        return found.float().cpu().numpy()
