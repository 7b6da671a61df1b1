"""Grad-CAM: which parts of a picture a network's answer rests on.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization". Works with any convolutional `nn.Module`; nothing of the model is changed for longer
than the call.
"""

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tumorlens.errors import TumorlensError

# The last stage of a ResNet: its output is the last block's, after the addition.
DEFAULT_LAYER = "layer4"


@dataclass(frozen=True)
class GradCam:
    """Maps and answers of one forward pass.

    Attributes:
        maps: (N, h, w) relevance >= 0, in units of the logit, not rescaled; h, w are the layer's.
        logits: (N, K) of the same pass.
    """

    maps: Tensor
    logits: Tensor


def grad_cam(
    model: nn.Module, images: Tensor, class_index: int | Tensor, layer: str | None = None
) -> Tensor:
    """Where did `model` look when it scored `class_index`? (Selvaraju et al. 2017, eq. 1-2)

    Args:
        model: (N, C, H, W) to (N, K) logits; evaluated in evaluation mode, left in its own.
        images: (N, C, H, W), normalised by the checkpoint's preprocessing; square or not.
        class_index: logit column, 0-based; one for all images, or (N,) one for each.
        layer: path of the module whose output is explained, as in `model.named_modules()`; of one
            that is called several times, the last call. Default: `layer4`.

    Returns:
        (N, h, w) relevance >= 0, not rescaled; h, w are the feature map's. For the last stage of a
        network with global average pooling and one linear layer, each cell is that cell's share in
        the logit, where positive.

    Raises:
        TumorlensError: no such layer, or one whose output is no feature map (N, C, h, w).
    """
    return explain(model, images, class_index, layer).maps


def explain(
    model: nn.Module, images: Tensor, class_index: int | Tensor, layer: str | None = None
) -> GradCam:
    """`grad_cam`, and the logits of the same forward pass."""
    name = layer or DEFAULT_LAYER
    module = find_layer(model, name)
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TumorlensError(
                f"--layer {name}: gives {shape}, expected a feature map (N, C, h, w); there are "
                f"{', '.join(layers(model))}."
            )
        # A leaf of its own: frozen parameters do not cut it off, and from here on, not before, the
        # graph is recorded. `_undisturbed` puts the switch back.
        torch.set_grad_enabled(True)
        captured.append(output.detach().clone().requires_grad_())
        # Handed on as a copy: an in-place ReLU that follows must not change what was captured.
        return captured[-1].clone()

    with _undisturbed(model):
        # An inference tensor may not enter a graph, its copy may.
        inputs = images.clone() if images.is_inference() else images.detach()
        with module.register_forward_hook(capture):
            logits: Tensor = model(inputs)
        if not captured or not logits.requires_grad:
            raise TumorlensError(
                f"--layer {name}: the logits do not depend on it; there are "
                f"{', '.join(layers(model))}."
            )
        features = captured[-1]
        score = logits.gather(1, _columns(class_index, logits)[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(features)
        weights = gradient.mean(dim=(2, 3), keepdim=True)  # eq. 1
        maps = torch.relu((weights * features).sum(dim=1))  # eq. 2
    return GradCam(maps.detach(), logits.detach())


def layers(model: nn.Module) -> tuple[str, ...]:
    """The layers one would ask for: stages and blocks, in the order of the network.

    Any other module's path is understood too, as long as its output is a feature map.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if name
        and name.count(".") < 2
        and any(isinstance(part, nn.Conv2d) for part in module.modules())
    )


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module at the path `name`.

    Raises:
        TumorlensError: there is none; lists those there are.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=1)
    hint = f"did you mean {near[0]}? T" if near else "t"
    raise TumorlensError(
        f"--layer {name}: the network has no such layer; {hint}here are {', '.join(layers(model))}."
    )


def _columns(class_index: int | Tensor, logits: Tensor) -> Tensor:
    count, classes = logits.shape
    columns = torch.as_tensor(class_index, device=logits.device).long()
    if columns.ndim == 0:
        columns = columns.expand(count)
    if columns.shape != (count,):
        raise ValueError(f"class_index has shape {tuple(columns.shape)}, expected ({count},).")
    if count and (int(columns.min()) < 0 or int(columns.max()) >= classes):
        raise ValueError(f"class_index {class_index}: expected 0 to {classes - 1}.")
    return columns


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no graph, no inference mode; afterwards everything is as it was.

    In training mode batch norm would mix the images of a batch and learn from them.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
