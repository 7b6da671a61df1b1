"""Grad-CAM and its kin: which parts of an image a network's answer rests on.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization". Works with any convolutional `nn.Module`; nothing of the model is changed for longer
than the call. The last stage of our own networks needs no backward pass: behind it come the mean
over places and one linear layer, so that the gradient is known.
"""

import contextlib
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session, input_batches
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import estimates, primitives
from tumorlens.models.build import map_layer, memory_format
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress, silent
from tumorlens.settings import MAP_METHOD, METHOD_NAMES, MapMethod

Maps = npt.NDArray[np.float32]


def grad_cam(
    model: nn.Module,
    images: Tensor,
    class_index: int | Tensor,
    layer: str | None = None,
    method: MapMethod = "gradcam",
) -> Tensor:
    """On which places does the logit of `class_index` rest? (Selvaraju et al. 2017, eq. 1-2)

    Args:
        model: (N, C, H, W) to (N, K) logits; evaluated in evaluation mode, left in its own.
        images: (N, C, H, W), normalised by the checkpoint's preprocessing; square or not.
        class_index: logit column, 0-based; one for all images, or (N,) one for each.
        layer: path of the module whose output is explained, as in `model.named_modules()`; of one
            that is called several times, the last call. Two joined by `*`, `layer3*layer4`: the
            geometric mean of their maps, in the finer one's cells. Default: `map_layer(model)`.
        method: how features and gradient become a map, see `relevance`.

    Returns:
        (N, h, w) relevance >= 0, not rescaled; h, w are the feature map's. For the last stage of a
        network with global average pooling and one linear layer, each cell is that cell's share in
        the logit, where positive.

    Raises:
        TumorlensError: no such layer, or one whose output is no feature map (N, C, h, w).
    """
    names = (layer or map_layer(model)).split("*")
    modules = {name: find_layer(model, name) for name in names}
    if isinstance(model, ResNet) and {*modules.values()} <= {model.layer4, model.layer4[-1]}:
        return _by_weights(model, images, class_index, method)
    return _by_autograd(model, images, class_index, modules, method)


def _by_weights(
    model: ResNet, images: Tensor, class_index: int | Tensor, method: MapMethod
) -> Tensor:
    """The last stage: d logit / d feature is the linear layer's weight over the count of places."""
    with _undisturbed(model):
        features = model.forward_features(images)
        logits = model.forward_head(features)
        weights = model.fc.weight[_columns(class_index, logits)]
        gradient = weights[:, :, None, None] / math.prod(features.shape[2:])
        return relevance(features, gradient, method)


def _by_autograd(
    model: nn.Module,
    images: Tensor,
    class_index: int | Tensor,
    modules: Mapping[str, nn.Module],
    method: MapMethod,
) -> Tensor:
    """Any layers: one forward pass with a hook on each, one backward pass."""
    captured: dict[str, Tensor] = {}

    def capture(name: str, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TumorlensError(
                f"--layer {name}: gives {shape}, expected a feature map (N, C, h, w); there are "
                f"{', '.join(layers(model))}."
            )
        # From the first layer on, not before, the graph is recorded. `_undisturbed` puts the switch
        # back. The first is a leaf of its own: frozen parameters do not cut it off.
        torch.set_grad_enabled(True)
        leaf = not output.requires_grad
        captured[name] = output.detach().clone().requires_grad_() if leaf else output.clone()
        # Handed on as a copy: an in-place ReLU that follows must not change what was captured.
        return captured[name].clone()

    with _undisturbed(model):
        # An inference tensor may not enter a graph, its copy may.
        inputs = images.clone() if images.is_inference() else images.detach()
        with contextlib.ExitStack() as hooks:
            for name, module in modules.items():
                hooks.enter_context(module.register_forward_hook(partial(capture, name)))
            logits: Tensor = model(inputs)
        for name in modules:
            if name not in captured or not logits.requires_grad:
                raise TumorlensError(
                    f"--layer {name}: the logits do not depend on it; there are "
                    f"{', '.join(layers(model))}."
                )
        features = [captured[name] for name in modules]
        score = logits.gather(1, _columns(class_index, logits)[:, None]).sum()
        gradients = torch.autograd.grad(score, features, allow_unused=True)
        maps = [
            relevance(one.detach(), torch.zeros_like(one) if slope is None else slope, method)
            for one, slope in zip(features, gradients, strict=True)
        ]
    return maps[0] if len(maps) == 1 else _geometric_mean(maps)


def relevance(features: Tensor, gradient: Tensor, method: MapMethod) -> Tensor:
    """Features (N, C, h, w) and the logit's gradient for them, made a map (N, h, w) >= 0.

    - `gradcam`: a channel weighs its mean gradient (Selvaraju et al. 2017, eq. 1-2).
    - `gradcam++`: a channel weighs the sum of its positive gradients, each by how much its place
      adds (Chattopadhay et al. 2018, eq. 10 and 19, for the score's exponential; its value, one
      factor for the whole map, is left out).
    - `layercam`: each place of a channel weighs its own positive gradient (Jiang et al. 2021,
      eq. 6-8).
    - `hirescam`: each place of a channel weighs its own gradient (Draelos and Carin 2020, eq. 3).

    The gradient may be (N, C, 1, 1) where it is the same at all places.
    """
    places = math.prod(features.shape[2:])
    if method == "gradcam":
        weights = gradient.mean(dim=(2, 3), keepdim=True)
    elif method == "gradcam++":
        third = features.sum(dim=(2, 3), keepdim=True) * gradient.pow(3)
        below = 2 * gradient.square() + third
        shares = torch.where(below == 0, torch.zeros_like(below), gradient.square() / below)
        weights = places * (shares * gradient.relu()).mean(dim=(2, 3), keepdim=True)
    elif method == "layercam":
        weights = gradient.relu()
    elif method == "hirescam":
        weights = gradient
    else:
        raise ValueError(f"method {method}: expected one of {', '.join(METHOD_NAMES)}.")
    if weights.shape[2:] == (1, 1):  # a product of matrices, without the features' size in between
        return torch.einsum("nc,nchw->nhw", weights[:, :, 0, 0], features).relu()
    return (weights * features).sum(dim=1).relu()


def _geometric_mean(maps: list[Tensor]) -> Tensor:
    """Of (N, h, w) maps of several layers, in the cells of the finest."""
    finest = max(maps, key=lambda one: one.shape[1] * one.shape[2])
    height, width = finest.shape[1:]
    logarithm = torch.zeros_like(finest)
    for one in maps:
        # Cell i is centred on pixel stride x i (see `overlay.on_image`), so that a layer of twice
        # the stride has its cell i on the finer one's cell 2 i.
        rows = _between(height, one.shape[1]).to(one)
        columns = _between(width, one.shape[2]).to(one)
        logarithm += torch.einsum("yh,nhw,xw->nyx", rows, one, columns).log()
    return (logarithm / len(maps)).exp()


def _between(fine: int, coarse: int) -> Tensor:
    """(fine, coarse) bilinear weights, rows sum to 1; the strides differ by a power of two."""
    step = 2 ** round(math.log2(fine / coarse))
    at = (torch.arange(fine) / step).clamp(max=coarse - 1)
    return F.relu(1 - (at[:, None] - torch.arange(coarse)).abs())


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


def common_layer(networks: Sequence[nn.Module], layer: str | None) -> str | None:
    """The layer to explain in all of several networks; None: each its own, see `map_layer`.

    Raises:
        TumorlensError: one has no such layer.
    """
    chosen = [layer or map_layer(network) for network in networks]
    for network, names in zip(networks, chosen, strict=True):
        for name in names.split("*"):
            find_layer(network, name)
    return chosen[0] if len(set(chosen)) == 1 else None


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


@dataclass(frozen=True)
class Way:
    """How maps are made."""

    # module whose output is explained, see `gradcam.grad_cam`; None: its default
    layer: str | None = None
    method: MapMethod = MAP_METHOD  # see `gradcam.relevance`
    # side of the square that the network is shown for its map, pixels; None: the size it was
    # trained at. A larger one gives finer maps; predictions are always those at its own size.
    size: int | None = None

    @property
    def title(self) -> str:
        """The method's name and the layer."""
        return f"{METHOD_NAMES[self.method]} at {self.layer or 'each default layer'}"

    def size_for(self, checkpoint: Checkpoint) -> int:
        """Side of the network's input for its map, pixels."""
        return self.size or checkpoint.preprocessing.image_size


def maps_of(session: Session, way: Way, progress: Progress = silent) -> Maps:
    """(N, h, w) maps >= 0 of a session's images, each explained for its true class."""
    network = session.network
    network = network.to(session.device, memory_format=memory_format(network))  # type: ignore[call-overload]
    preprocessing = session.checkpoint.preprocessing
    images = session.images_at(way.size_for(session.checkpoint))
    found = []
    for inputs, before in input_batches(
        network, preprocessing, images, device=session.device, batch_size=session.batch_size
    ):
        these = slice(before, before + len(inputs))
        columns = torch.from_numpy(session.data.labels[these]).to(session.device)
        maps = grad_cam(network, inputs, columns, way.layer, way.method).float().cpu()
        found.append(preprocessing.unframed(maps, torch.from_numpy(images[these])).numpy())
        progress("explaining", before + len(inputs), len(images))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Sample:
    """Images that the checks of the maps are made on."""

    name: str  # of the network, beside another
    session: Session  # these images alone
    way: Way  # how their maps are made
    maps: Maps  # (N, h, w)
    how: str  # in words, which images they are
    # resamples, seed: of the intervals
    resamples: int
    seed: int

    @property
    def size(self) -> int:
        """Side of the squares that the maps lie over, pixels."""
        return self.way.size_for(self.session.checkpoint)

    def maps_by(self, network: nn.Module, checkpoint: Checkpoint | None = None) -> Maps:
        """Another network's maps of the images; of this checkpoint, unless another is named."""
        loaded = checkpoint or self.session.checkpoint
        return maps_of(replace(self.session, network=network, checkpoint=loaded), self.way)

    def means(self, columns: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
        """Mean of each column, (N,) values: name to value, low, high, n."""
        data = self.session.data
        whole = {"all": np.ones(len(data.paths), dtype=bool)}
        found = estimates(columns, whole, data.units, resamples=self.resamples, seed=self.seed)
        return primitives(found)["all"]
