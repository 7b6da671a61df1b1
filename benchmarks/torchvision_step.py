"""The peer of training_step_rate.py: one training step of torchvision's ResNet18, a plain loop.

Needs torch and torchvision alone. The images are ready-made floats: nothing is augmented.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision

from worker import serve


def training_step(size: int, batch_size: int, precision: str) -> Callable[[], None]:
    """A call that does one step."""
    network = torchvision.models.resnet18(num_classes=4)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    images = torch.randn(batch_size, 3, size, size)
    labels = torch.randint(0, 4, (batch_size,))
    mixed = precision == "bf16-mixed"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Answer "PRECISION SIZE BATCH" with images a second of processor time of one step."""
    torch.set_num_threads(1)
    steps: dict[tuple[str, ...], Callable[[], None]] = {}

    def answer(precision: str, size: str, batch_size: str) -> dict[str, Any]:
        asked = (precision, size, batch_size)
        if asked not in steps:
            steps[asked] = training_step(int(size), int(batch_size), precision)
            steps[asked]()
        started = time.process_time()
        steps[asked]()
        return {"images_per_s": int(batch_size) / (time.process_time() - started)}

    serve({"torch": torch.__version__, "torchvision": torchvision.__version__}, answer)


if __name__ == "__main__":
    main()
