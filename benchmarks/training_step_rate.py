"""How much of the machine's arithmetic does a training step use?

    python benchmarks/training_step_rate.py

Whole steps of a recipe: a shuffled batch from the data loader, augmentation, forward, backward,
optimiser, schedule, running mean. A step counts as 3 times its forward pass, 2 FLOP for each
multiply-add of convolutions and linear layers. Beside it, in turns, products of square matrices of
float32 by PyTorch's BLAS and by oneDNN, which does the convolutions and on some processors is twice
as fast: the best of all is the machine's peak. Each measurement is a process of its own. ResNet18
by `fast` is measured in turns with memory left as it is, kept, and kept in huge pages, which is how
`tumorlens train` runs and what the others have. Writes results/recipe/training_step_rate.json.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from machine import facts
from tumorlens.checkpoint.file import Preprocessing
from tumorlens.device import kept_memory
from tumorlens.models.build import build_model
from tumorlens.training.batches import training_batches
from tumorlens.training.module import Batch, Classifier
from tumorlens.training.recipes import RECIPES

OUT = Path(__file__).parent.parent / "results" / "recipe" / "training_step_rate.json"
IMAGES = 1024
MEMORY = ("as it is", "kept", "kept in huge pages")


def multiply_adds(network: nn.Module, size: int) -> int:
    """Of the convolutions and linear layers, for one picture."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            total += output[0].numel() * module.in_channels // module.groups * area
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    network.train()
    return total


def steps(classifier: Classifier, size: int, batch_size: int) -> Iterator[float]:
    """Seconds of one training step after another."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, size, size), dtype=np.uint8)
    labels = rng.integers(0, 4, IMAGES)
    loader = training_batches(images, labels, np.arange(IMAGES), batch_size, 0)
    configured = classifier.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    while True:
        waiting: Iterator[Batch] = iter(loader)
        while True:
            started = time.perf_counter()
            batch = next(waiting, None)
            if batch is None:
                break
            optimizer.zero_grad()
            classifier.training_step(batch, 0).backward()
            optimizer.step()
            scheduler.step()
            classifier.on_train_batch_end(None, batch, 0)
            yield time.perf_counter() - started


def products(side: int) -> tuple[float, float]:
    """GFLOP/s of one product of square matrices, by the BLAS and by oneDNN."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    blocked_a, blocked_b = a.to_mkldnn(), b.to_mkldnn()
    work = 2 * side**3 / 1e9
    with torch.no_grad():
        started = time.perf_counter()
        torch.mm(a, b)
        between = time.perf_counter()
        F.linear(blocked_a, blocked_b)
        ended = time.perf_counter()
    return work / (between - started), work / (ended - between)


def measure(name: str, recipe_name: str, batch: tuple[int, int], rounds: int, memory: str) -> Any:
    """One network at one size and batch, with one of MEMORY."""
    with kept_memory() if memory != "as it is" else contextlib.nullcontext():
        size, batch_size = batch
        recipe = replace(RECIPES[recipe_name], image_size=size, batch_size=batch_size)
        network = build_model(name, 4)
        work = 6 * multiply_adds(network, size) * batch_size / 1e9
        classifier = Classifier(network, Preprocessing(size, 0.2, 0.2), recipe, 10_000, 0)
        classifier.log = lambda *_, **__: None  # type: ignore[method-assign]
        stepping = steps(classifier, size, batch_size)
        for _ in range(3):
            next(stepping)
        rates, blas, onednn = [], [], []
        for _ in range(rounds):
            rates.append(work / next(stepping))
            turns = np.array([products(side) for side in (512, 1024, 2048)]).max(0)
            blas.append(turns[0])
            onednn.append(turns[1])
    low, median, high = np.percentile(rates, [25, 50, 75])
    found = {
        "network": name,
        "recipe": recipe_name,
        "image_size": size,
        "batch_size": batch_size,
        "memory": memory,
        "gflop_a_step": round(work, 2),
        "images_per_s": round(median * batch_size / work, 1),
        "gflop_per_s": {"median": round(median, 1), "quartiles": [round(low, 1), round(high, 1)]},
        "blas_peak_gflop_per_s": round(float(np.max(blas)), 1),
        "onednn_peak_gflop_per_s": round(float(np.max(onednn)), 1),
        "rounds": rounds,
        "largest_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(found), flush=True)
    return found


def alone(asked: tuple[Any, ...]) -> Any:
    """Measure in a process that has had no tensor before: its first one reads the environment."""
    os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(asked[-1] == MEMORY[-1]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, asked)


def main() -> None:
    """Measure the recipe's size and batch, both networks, and larger pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    fast, plain = (
        (RECIPES[name].image_size, RECIPES[name].batch_size) for name in ("fast", "plain")
    )
    asked = [("resnet18", "fast", fast, args.rounds, memory) for memory in (*MEMORY, *MEMORY)]
    asked += [
        ("se_resnet18", "fast", fast, args.rounds, MEMORY[-1]),
        ("resnet18", "plain", plain, args.rounds, MEMORY[-1]),
        ("se_resnet18", "plain", plain, args.rounds, MEMORY[-1]),
        ("resnet18", "fast", (224, 32), max(5, args.rounds // 3), MEMORY[-1]),
    ]
    found = [alone(one) for one in asked]
    peak = max(one[f"{by}_peak_gflop_per_s"] for one in found for by in ("blas", "onednn"))
    for one in found:
        rate = one["gflop_per_s"]
        one["share_of_peak"] = {
            "median": round(rate["median"] / peak, 3),
            "quartiles": [round(value / peak, 3) for value in rate["quartiles"]],
        }
    record = {
        "command": f"python benchmarks/training_step_rate.py --rounds {args.rounds}",
        "threads": torch.get_num_threads(),
        "peak_gflop_per_s": peak,
        "measurements": found,
        "machine": facts(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
