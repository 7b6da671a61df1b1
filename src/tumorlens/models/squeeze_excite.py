"""Squeeze-and-excitation: a gate that rescales each channel by what the whole image shows."""

import torch
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Channel gate of Hu et al. 2018, "Squeeze-and-Excitation Networks", eq. 2-4.

    Squeeze: mean over height and width. Excite: sigmoid(W2 relu(W1 z)), with W1: C -> C/reduction
    and W2: C/reduction -> C, both without bias. With both weights zero the gate is 0.5 everywhere.

    Args:
        channels: C, channels of the input and the output.
        reduction: width of the bottleneck is C // reduction, at least 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        bottleneck = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, bottleneck, bias=False)
        self.fc2 = nn.Linear(bottleneck, channels, bias=False)

    def gate(self, features: Tensor) -> Tensor:
        """(N, C, H, W) features to (N, C) channel weights in 0..1."""
        squeezed = features.mean(dim=(2, 3))
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) features, each channel multiplied by its gate."""
        return features * self.gate(features)[:, :, None, None]
