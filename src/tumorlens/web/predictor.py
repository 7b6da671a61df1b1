"""One slice, one or two networks: probabilities, decision, and a saliency map for every class."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.data.readers import fit_square
from tumorlens.device import pick_device
from tumorlens.errors import TumorlensError
from tumorlens.explain.gradcam import common_layer, grad_cam
from tumorlens.explain.panel import distinct_names
from tumorlens.labels import title
from tumorlens.models.build import logits_and_features
from tumorlens.settings import METHOD_NAMES, ServeSettings
from tumorlens.uncertainty.decision import Decided, DecisionRule


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """One network's output for a slice."""

    name: str  # of the network
    rule: DecisionRule  # the classes, and how probabilities become a decision
    decided: Decided  # class, decision, probabilities and distance
    # (K, h, w) relevance for each class, over the network's square input
    maps: npt.NDArray[np.float32]
    size: int  # side of that input, pixels
    no_set: str  # why there is no conformal set of classes; "" where there is one


class Predictor:
    """The networks of the page, side by side; one slice at a time, since maps hook the network.

    Args:
        settings: one checkpoint, or two of the same classes; layer, method and device.

    Raises:
        TumorlensError: faults of the checkpoints or the layer.
    """

    def __init__(self, settings: ServeSettings) -> None:
        files = [settings.checkpoint, *([settings.compare] if settings.compare else [])]
        self.method = settings.method
        self.method_name = METHOD_NAMES[settings.method]
        self.device = pick_device(settings.device)
        self.loaded = [checkpoints.load(file) for file in files]
        self.classes = self.loaded[0].classes
        if self.loaded[-1].classes != self.classes:
            raise TumorlensError(
                f"--compare {settings.compare}: knows the classes "
                f"{', '.join(self.loaded[-1].classes)}, --checkpoint {', '.join(self.classes)}; "
                "show networks of the same classes."
            )
        self.networks = [one.network().to(self.device) for one in self.loaded]
        self.layer = common_layer(self.networks, settings.layer)
        self.coverage = settings.coverage
        self.names = [title(name) for name in distinct_names(self.loaded)]

    def predict(self, image: npt.NDArray[np.uint8]) -> list[SlicePrediction]:
        """Every network's output for a (H, W) uint8 slice."""
        return [
            self._predict(loaded, network, name, image)
            for loaded, network, name in zip(self.loaded, self.networks, self.names, strict=True)
        ]

    def _predict(
        self, loaded: Checkpoint, network: nn.Module, name: str, image: npt.NDArray[np.uint8]
    ) -> SlicePrediction:
        size = loaded.preprocessing.image_size
        square = torch.from_numpy(fit_square(image, size))[None].to(self.device)
        inputs = loaded.preprocessing(square)
        with torch.inference_mode():
            outputs = logits_and_features(network, inputs)
        logits, features = (one.cpu().double().numpy() for one in outputs)
        rule, count, no_set = loaded.decision(), len(loaded.classes), ""
        try:
            rule = rule.at(self.coverage)
        except TumorlensError as why:
            no_set = str(why).removeprefix(f"--coverage {self.coverage:g}: ")
        maps = grad_cam(
            network, inputs.expand(count, -1, -1, -1), torch.arange(count), self.layer, self.method
        )
        maps = loaded.preprocessing.unframed(maps, square.expand(count, -1, -1)).float().cpu()
        decided = rule.decide(logits, features)[0]
        return SlicePrediction(name, rule, decided, maps.numpy(), size, no_set)
