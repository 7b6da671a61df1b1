"""A network's logits, and the features that they are made of."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorlens.checkpoint.file import Preprocessing
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress, silent


def described(network: ResNet, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) inputs to logits (N, K) and features (N, 512), the last layer's input.

    The features are the last block's output, averaged over all places.
    """
    features = torch.flatten(network.avgpool(network.forward_features(inputs)), 1)
    return network.fc(features), features


def input_batches(
    preprocessing: Preprocessing,
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64] | None = None,
    *,
    device: torch.device,
    batch_size: int,
) -> Iterator[tuple[Tensor, int]]:
    """Pictures as a network's inputs, batch by batch.

    Args:
        preprocessing, images, indices, device, batch_size: see `describe`.

    Yields:
        (n, C, S, S) on `device`, channels last, and how many pictures came before it.
    """
    count = len(images) if indices is None else len(indices)
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        some = images[part] if indices is None else images[indices[part]]
        batch = torch.from_numpy(np.array(some)).to(device)
        yield preprocessing(batch).contiguous(memory_format=torch.channels_last), start


def describe(
    network: ResNet,
    preprocessing: Preprocessing,
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64] | None = None,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Progress = silent,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`described` of many pictures, by a network in evaluation mode.

    Args:
        network: moved to `device`.
        preprocessing: from picture to input.
        images: (M, S, S) uint8; may be a memory map.
        indices: (N,) which of them, in this order; None: all.
        device: where to compute.
        batch_size: images at once.
        progress: told of the stage "describing".

    Returns:
        Logits (N, K) and features (N, 512), float64.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    total = len(images) if indices is None else len(indices)
    logits, features = [], []
    with torch.inference_mode():
        for inputs, before in input_batches(
            preprocessing, images, indices, device=device, batch_size=batch_size
        ):
            answers, of_them = described(network, inputs)
            logits.append(answers.double().cpu().numpy())
            features.append(of_them.double().cpu().numpy())
            progress("describing", before + len(inputs), total)
    return np.concatenate(logits), np.concatenate(features)
