"""A network's logits, and the features that they are made of."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorlens.checkpoint import Preprocessing
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress, silent


def described(network: ResNet, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) inputs to logits (N, K) and features (N, 512), the last layer's input.

    The features are the last block's output, averaged over all places.
    """
    features = torch.flatten(network.avgpool(network.forward_features(inputs)), 1)
    return network.fc(features), features


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
    chosen = np.arange(len(images)) if indices is None else indices
    logits, features = [], []
    with torch.inference_mode():
        for start in range(0, len(chosen), batch_size):
            some = images[chosen[start : start + batch_size]]
            batch = torch.from_numpy(np.array(some)).to(device)
            inputs = preprocessing(batch).contiguous(memory_format=torch.channels_last)
            answers, of_them = described(network, inputs)
            logits.append(answers.double().cpu().numpy())
            features.append(of_them.double().cpu().numpy())
            progress("describing", start + len(batch), len(chosen))
    return np.concatenate(logits), np.concatenate(features)
