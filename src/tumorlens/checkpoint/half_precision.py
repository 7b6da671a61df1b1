"""A checkpoint's content as safetensors, its weights in half the bits: small enough to hand on.

Tensors lie under dotted names ("weights.conv1.weight", "data.fingerprints"), all else as JSON in
the header. Matrices and kernels of the weights are 16-bit floats in the file and 32-bit when read;
the rest, batch norm's figures among it, keeps its type.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tumorlens.errors import TumorlensError

SUFFIX = ".safetensors"
# Of these, tensors of two axes and more are stored in half precision.
HALVED = "weights."
_HEADER = "tumorlens"
# What a damaged file raises; the last three, its header.
_DAMAGE = (SafetensorError, OSError, ValueError, AttributeError, TypeError, RecursionError)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write nested dicts of tensors and primitives to `path`.

    Raises:
        TumorlensError: a weight is too large for 16 bits.
        SafetensorError: the file cannot be written.
    """
    tensors, rest = {}, {}
    for name, value in _flat(content):
        if isinstance(value, Tensor):
            tensors[name] = _stored(name, value)
        else:
            rest[name] = value
    save_file(tensors, path, metadata={_HEADER: json.dumps(rest)})


def rounded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it will be read from the file.

    Raises:
        TumorlensError: a weight is too large for 16 bits.
    """
    return {name: _read(_stored(HALVED + name, tensor)) for name, tensor in weights.items()}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dicts that hold tensors are opened; others are values."""
    for key, value in content.items():
        if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values()):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _stored(name: str, tensor: Tensor) -> Tensor:
    if not name.startswith(HALVED) or not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor.contiguous()
    half = tensor.half().contiguous()
    if tensor.isfinite().all() and not half.isfinite().all():
        raise TumorlensError(
            f"{name.removeprefix(HALVED)}: a weight of {float(tensor.abs().max()):.3g} is beyond "
            f"the {torch.finfo(torch.float16).max:.0f} that half precision holds; hand on the "
            "checkpoint as it is."
        )
    return half


def read(path: Path) -> dict[str, Any]:
    """What `write` was given; weights as float32.

    Raises:
        TumorlensError: no safetensors file, truncated, or not of tumorlens.
    """
    expected = "expected a file that `tumorlens export --format safetensors` wrote"
    content: dict[str, Any] = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            if header is None:
                raise TumorlensError(
                    f"--checkpoint {path}: a safetensors file, but not one of tumorlens; "
                    f"{expected}."
                )
            for name, value in json.loads(header).items():
                _put(content, name, value)
            for name in file.keys():  # noqa: SIM118  (it is no dict)
                _put(content, name, _read(file.get_tensor(name)))
    except _DAMAGE as error:
        raise TumorlensError(
            f"--checkpoint {path}: cannot be read as safetensors ({error}); {expected}."
        ) from error
    return content


def _read(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _put(content: dict[str, Any], name: str, value: Any) -> None:
    """`_flat` backwards; names of weights have dots of their own."""
    outer, _, inner = name.partition(".")
    if inner:
        content.setdefault(outer, {})[inner] = value
    else:
        content[outer] = value
