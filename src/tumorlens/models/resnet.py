"""ResNet18, with or without squeeze-and-excitation in every residual block.

One block class serves both networks, so that a comparison changes one thing. Parameters carry
torchvision's names: a torchvision resnet18 state dict loads, but for `fc` of another class count.
"""

from collections.abc import Sequence

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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2).

    With `se_reduction` the residual branch passes a squeeze-and-excitation gate after its second
    batch norm, before the addition (Hu et al. 2018, figure 3).
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, se_reduction: int | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcite(channels, se_reduction) if se_reduction else None
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        out = out + shortcut
        activated: Tensor = self.relu(out)
        return activated


class ResNet(nn.Module):
    """7x7/2 stem, max-pool, four stages of basic blocks, global average pool, linear.

    Args:
        num_classes: K, number of logits.
        blocks: basic blocks in each of the four stages (64, 128, 256, 512 channels).
        se_reduction: bottleneck factor of the squeeze-and-excitation gates; None: no gates.
        in_channels: channels of the input.
    """

    def __init__(
        self,
        num_classes: int,
        blocks: Sequence[int] = (2, 2, 2, 2),
        se_reduction: int | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(64, 64, blocks[0], 1, se_reduction)
        self.layer2 = self._stage(64, 128, blocks[1], 2, se_reduction)
        self.layer3 = self._stage(128, 256, blocks[2], 2, se_reduction)
        self.layer4 = self._stage(256, 512, blocks[3], 2, se_reduction)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)

    @staticmethod
    def _stage(
        in_channels: int, channels: int, blocks: int, stride: int, se_reduction: int | None
    ) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, channels, stride, se_reduction),
            *(BasicBlock(channels, channels, 1, se_reduction) for _ in range(1, blocks)),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, 512, ceil(H/32), ceil(W/32)): the last block's output."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        features: Tensor = self.layer4(x)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """(N, 512, h, w) features to (N, num_classes) logits."""
        logits: Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images, square or not, to (N, num_classes) logits."""
        return self.forward_head(self.forward_features(x))
