"""What a run starts from: its network, weights of a file in it, and what of it stays as it is."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint import half_precision
from tumorlens.checkpoint.own_code import allow
from tumorlens.errors import TumorlensError
from tumorlens.labels import MODEL_NAMES
from tumorlens.models.build import build_and_tell, check_output, last_linear
from tumorlens.settings import TrainSettings
from tumorlens.training.calibrate import NO_OFFSETS

# Under which keys, and behind which prefixes, training scripts save a state dict.
_WRAPPINGS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


def starting_network(
    settings: TrainSettings, num_classes: int, size: int, last: Path | None = None
) -> tuple[nn.Module, list[str]]:
    """The network before its first step, and sentences on what is unusual about it.

    Args:
        settings: `model`, `seed`, `init` and `freeze` count.
        num_classes: K.
        size: side of its input, pixels.
        last: the state that follows, of a run that goes on; it has the weights of `init`.

    Raises:
        TumorlensError: its code or its weights are faulty, or nothing is left to train.
    """
    name = str(settings.model)
    allow(name)
    network, told = build_and_tell(name, num_classes, settings.seed)
    if name not in MODEL_NAMES:
        check_output(network, name, num_classes, size)
        if settings.operating_point != "none" and last_linear(network) is None:
            raise TumorlensError(NO_OFFSETS)
    sentences = [told] if told else []
    if settings.init is not None and last is None:
        sentences.append(load_weights(network, settings.init))
    if settings.freeze:
        sentences.append(freeze(network, settings.freeze))
    return network, sentences


def load_weights(network: nn.Module, source: Path) -> str:
    """Put the weights of a file into a network, those of the same names.

    The last linear layer stays as it is where its shape differs. A first convolution of one or
    three channels is made to fit the other: grey in three channels has the same output.

    Returns:
        A sentence: what was loaded, what of the network was not, what of the file was not.

    Raises:
        TumorlensError: no such file, no state dict, of pickled objects, or of another network.
    """
    weights, own = _weights_of(source), network.state_dict()
    head = last_linear(network)
    in_head = {id(one) for one in head.parameters()} if head else set()
    of_head = {name for name, one in network.named_parameters() if id(one) in in_head}
    stem = next((n for n, one in network.named_parameters() if one.ndim == 4), "")
    found: dict[str, Tensor] = {}
    for name in weights.keys() & own.keys():
        value, wanted = weights[name], own[name].shape
        if name == stem and {value.shape[1:2], wanted[1:2]} == {(1,), (3,)}:
            grey = weights[name].sum(1, keepdim=True)
            value = grey if wanted[1] == 1 else grey.expand(-1, 3, -1, -1) / 3
        if value.shape == wanted:
            found[name] = value
        elif name not in of_head:
            raise TumorlensError(
                f"--init {source}: {name} there is {tuple(value.shape)}, the network's is "
                f"{tuple(wanted)}; name the weights of the same network."
            )
    if of_head - found.keys():  # never one of the two, weights or biases
        found = {name: value for name, value in found.items() if name not in of_head}
    learned = [name for name, _ in network.named_parameters()]
    if not found.keys() & set(learned):
        raise TumorlensError(
            f"--init {source}: none of its {len(weights)} tensors ({next(iter(weights), 'none')}) "
            f"has a name of this network's ({learned[0]}); name the weights of the same network."
        )
    infinite = [name for name, value in found.items() if not value.isfinite().all()]
    if infinite:
        raise TumorlensError(
            f"--init {source}: {infinite[0]} has values that are not finite; name other weights."
        )
    network.load_state_dict(found, strict=False)
    fresh = [name for name in learned if name not in found]
    unused = [name for name in weights if name not in found]
    count = f"{len(learned) - len(fresh)} of the network's {len(learned)} parameter tensors"
    rest = f"afresh: {_listed(fresh)}; of the file unused: {_listed(unused)}"
    return f"{source.name}: {count} loaded; {rest}"


def freeze(network: nn.Module, prefixes: Sequence[str]) -> str:
    """Keep the parameters at or below some paths as they are.

    Args:
        network: changed.
        prefixes: paths such as "layer1" or "layer1.0.conv1.weight"; several with commas between.

    Returns:
        A sentence: how many numbers train.

    Raises:
        TumorlensError: a path has no parameter, or none is left to train.
    """
    parameters = dict(network.named_parameters())
    for prefix in ",".join(prefixes).replace(" ", "").split(","):
        mine = [one for name, one in parameters.items() if f"{name}.".startswith(f"{prefix}.")]
        if not mine:
            there = dict.fromkeys(name.partition(".")[0] for name in parameters)
            raise TumorlensError(
                f"--freeze {prefix}: no parameter of the network lies there; its parts are "
                f"{', '.join(there)}."
            )
        for one in mine:
            one.requires_grad = False
    every = sum(one.numel() for one in parameters.values())
    trains = sum(one.numel() for one in parameters.values() if one.requires_grad)
    if not trains:
        raise TumorlensError("--freeze: nothing is left to train; freeze less.")
    return f"{trains:,} of {every:,} parameters train; frozen: {', '.join(prefixes)}"


def _weights_of(source: Path) -> dict[str, Tensor]:
    """The state dict in a file, or of a network that comes with tumorlens."""
    if not source.is_file():
        if str(source) in checkpoints.bundled():
            return dict(checkpoints.load(source).weights)
        found = "a folder" if source.is_dir() else "nothing"
        raise TumorlensError(
            f"--init {source}: found {found}, expected a checkpoint, a state dict (.pt, .pth, "
            f".safetensors), or one of {', '.join(checkpoints.bundled())}; name another file."
        )
    try:
        content = _content(source)
    except pickle.UnpicklingError as error:
        damaged = "" if zipfile.is_zipfile(source) else "is no PyTorch file, or "
        raise TumorlensError(
            f"--init {source}: {damaged}holds pickled objects, which could run code and are not "
            "loaded; save the state dict alone, torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # a damaged file raises anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TumorlensError(
            f"--init {source}: cannot be read as PyTorch's or safetensors ({reason:.200}); name "
            "another file."
        ) from error
    if isinstance(content, Mapping) and content.get("format") == checkpoints.FORMAT:
        content = content.get("weights")
    for key in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise TumorlensError(
            f"--init {source}: holds no state dict, names to tensors, at its top or under "
            f"{', '.join(_WRAPPINGS)}; save one by torch.save(model.state_dict(), FILE)."
        )
    weights = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _content(source: Path) -> Any:
    if source.suffix != half_precision.SUFFIX:
        return torch.load(source, map_location="cpu", weights_only=True)
    try:
        with safe_open(source, framework="pt") as file:
            ours = "tumorlens" in (file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return half_precision.read(source) if ours else load_file(source)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) + more) or "none"
