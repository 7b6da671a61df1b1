"""One slice, one or two networks: probabilities, decision, and a map for every class."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import described
from tumorlens.data.readers import fit_square
from tumorlens.device import pick_device
from tumorlens.errors import TumorlensError
from tumorlens.explain import gradcam
from tumorlens.models.resnet import ResNet
from tumorlens.settings import MAP_METHOD
from tumorlens.uncertainty.decision import Decided, DecisionRule


@dataclass(frozen=True)
class Answer:
    """What one network says of a slice.

    Attributes:
        name: of the network.
        rule: the classes, and how the network's numbers are taken.
        decided: class, decision, probabilities and distance.
        maps: (K, h, w) relevance for each class, over the network's square input.
        size: side of that input, pixels.
    """

    name: str
    rule: DecisionRule
    decided: Decided
    maps: npt.NDArray[np.float32]
    size: int

    @property
    def best(self) -> int:
        """Index of the class with the highest probability."""
        return int(self.decided.probabilities.argmax())


class Panel:
    """The networks that are asked, side by side.

    Args:
        files: one checkpoint, or two of the same classes.
        layer: whose output is explained.
        device: see `config.Device`.

    Raises:
        TumorlensError: faults of the checkpoints or the layer.
    """

    def __init__(self, files: Sequence[Path], layer: str, device: str = "auto") -> None:
        self.layer = layer
        self.device = pick_device(device)
        self.loaded = [checkpoints.load(file) for file in files]
        self.classes = self.loaded[0].classes
        for file, one in zip(files, self.loaded, strict=True):
            if one.classes != self.classes:
                raise TumorlensError(
                    f"--compare {file}: knows the classes {', '.join(one.classes)}, --checkpoint "
                    f"{', '.join(self.classes)}; show networks of the same classes."
                )
        self.models: list[ResNet] = [one.network().to(self.device) for one in self.loaded]
        for model in self.models:
            for part in layer.split("*"):
                gradcam.find_layer(model, part)
        self.names = _names(self.loaded)
        # Grad-CAM hangs a hook on the network: one question at a time.
        self._lock = threading.Lock()

    def ask(self, picture: npt.NDArray[np.uint8]) -> list[Answer]:
        """What every network says of a (H, W) uint8 slice."""
        with self._lock:
            return [
                self._ask(loaded, model, name, picture)
                for loaded, model, name in zip(self.loaded, self.models, self.names, strict=True)
            ]

    def _ask(
        self, loaded: Checkpoint, model: ResNet, name: str, picture: npt.NDArray[np.uint8]
    ) -> Answer:
        size = loaded.preprocessing.image_size
        square = torch.from_numpy(fit_square(picture, size))[None].to(self.device)
        inputs = loaded.preprocessing(square)
        with torch.inference_mode():
            logits, features = (found.double().cpu().numpy() for found in described(model, inputs))
        rule = loaded.decision()
        count = len(loaded.classes)
        maps = gradcam.grad_cam(
            model, inputs.expand(count, -1, -1, -1), torch.arange(count), self.layer, MAP_METHOD
        )
        return Answer(
            name=name,
            rule=rule,
            decided=rule.decide(logits, features)[0],
            maps=maps.float().cpu().numpy(),
            size=size,
        )


def _names(loaded: Sequence[Checkpoint]) -> list[str]:
    titles = {"resnet18": "ResNet18", "se_resnet18": "SE-ResNet18"}
    names = [titles.get(one.model_name, one.model_name) for one in loaded]
    if len(set(names)) == len(names):
        return names
    return [str(one.settings.get("run", one.path)) for one in loaded]
