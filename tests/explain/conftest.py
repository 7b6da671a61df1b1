"""A network that sees brightness and nothing else, and heads with bright tumors."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data.dataset import Dataset
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.models.build import build_model
from tumorlens.models.resnet import ResNet

SIZE = 64
CLASSES = ("glioma", "notumor")


def brightness_network(sign: float = 1.0) -> ResNet:
    """Feature maps at every layer are the image, coarser; logit 0 is its mean brightness.

    With `sign` -1, how dark it is: brightness above a half weighs nothing.
    """
    network = build_model("resnet18", len(CLASSES), seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.zero_()
            if "bn" in name or "downsample.1" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        network.conv1.weight[:, :, 3, 3] = sign / 3
        network.bn1.bias.fill_(0.5 - 0.5 * sign)
        for stage in (network.layer2, network.layer3, network.layer4):
            weight = stage[0].downsample[0].weight
            weight.fill_(1 / weight.shape[1])
        network.fc.weight[0] = 1 / network.fc.in_features
        network.fc.bias[1] = 0.1
    return network.eval()


def as_checkpoint(network: ResNet, name: str = "resnet18") -> Checkpoint:
    return Checkpoint(
        model_name=name,
        classes=CLASSES,
        preprocessing=Preprocessing(SIZE, 0.0, 1.0),
        weights=network.state_dict(),
        data=None,
        settings={},
        selected={},
    )


@pytest.fixture
def bright() -> Checkpoint:
    return as_checkpoint(brightness_network())


@pytest.fixture
def dark(bright: Checkpoint) -> Checkpoint:
    """Looks at everything but the bright tumor."""
    return replace(bright, weights=brightness_network(-1.0).state_dict())


@pytest.fixture
def squares() -> np.ndarray:
    """Four images, grey with one bright square, each in another corner."""
    images = np.full((4, SIZE, SIZE), 30, dtype=np.uint8)
    for number, (top, left) in enumerate(((8, 8), (8, 40), (40, 8), (40, 40))):
        images[number, top : top + 16, left : left + 16] = 255
    return images


@pytest.fixture
def session_on(bright: Checkpoint) -> Callable[[nn.Module, np.ndarray], Session]:
    """Open a session of (N, S, S) uint8 images, all of class 0, without a data folder."""

    def make(network: nn.Module, images: np.ndarray) -> Session:
        count = len(images)
        data = Dataset(
            root=Path(),
            layout="test",
            protocol="",
            classes=CLASSES,
            paths=tuple(f"{number}.png" for number in range(count)),
            images=images,
            labels=np.zeros(count, dtype=np.int64),
            splits=np.full(count, "test"),
            fingerprints=np.zeros((count, 32), dtype=np.uint8),
            digests=np.zeros((count, 16), dtype=np.uint8),
            skipped={},
            note="",
        )
        return Session(bright, Path("x.pt"), network, data, "", torch.device("cpu"))

    return make


@pytest.fixture
def opened() -> Callable[..., Session]:
    """Open a session of a checkpoint with a data folder."""

    def make(checkpoint: Checkpoint, root: Path, split: str = "auto") -> Session:
        return open_session(checkpoint, ImageChoice(root, split), device=torch.device("cpu"))

    return make


@pytest.fixture
def heads(tmp_path: Path) -> Callable[..., Path]:
    """Write a data folder of dim heads, gliomas as bright squares, and boxes.csv beside it."""

    def make(counts: dict[str, int], *, boxed: tuple[str, ...] = ("valid", "test")) -> Path:
        root = tmp_path / "heads"
        rng = np.random.default_rng(0)
        rows = []
        disk = np.hypot(*(np.indices((SIZE, SIZE)) - 31.5)) < 26
        for split, count in counts.items():
            for label in CLASSES:
                (root / split / label).mkdir(parents=True)
                for number in range(count):
                    texture = rng.integers(0, 30, (8, 8)).repeat(8, 0).repeat(8, 1)
                    image = np.where(disk, 90 + texture, 0).astype(np.uint8)
                    path, box = f"{split}/{label}/{number:02d}.png", ["", "", "", ""]
                    if label == "glioma":
                        side = int(rng.integers(8, 16))
                        top, left = rng.integers(14, 50 - side, 2)
                        image[top : top + side, left : left + side] = 255
                        edges = (left, top, left + side, top + side)
                        if split in boxed:
                            box = [str(edge / SIZE) for edge in edges]
                    Image.fromarray(image).save(root / path)
                    rows.append([path, label, *box])
        with (root / "boxes.csv").open("w", newline="") as file:
            names = ["path", "label", "box_x0", "box_y0", "box_x1", "box_y1"]
            csv.writer(file).writerows([names, *rows])
        return root

    return make
