"""How many images a second does one core train, and how much of its arithmetic is that?

    python benchmarks/training_step_rate.py [--peer_python PATH]

Steps of both networks by the recipe `fast` (augmentation, forward, backward, optimiser, schedule,
running mean) on one thread, by precision and image size. Seconds are of processor time: on one
thread they are the wall's where nothing else runs, and other programs disturb them less. Beside
them, in turns:

- torchvision's ResNet18 in a plain PyTorch loop, which augments nothing; --peer_python names the
  Python of an environment that has torchvision.
- ResNet18 of ours with memory left as it is, not kept and in huge pages as `tumorlens train` does.
- the product of two square matrices of the same precision by `torch.mm`, and for float32 by oneDNN
  too, which does the convolutions and on some processors is twice as fast.

A step counts as 3 times its forward pass, 2 FLOP for each multiply-add of convolutions and linear
layers. Takes five minutes where nothing else runs. Writes results/speed/training_step_rate.json.
"""

import argparse
import contextlib
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from machine import facts
from rounds import spread
from training_step import training_step
from tumorlens.device import kept_memory
from tumorlens.models.build import build_model
from worker import Worker, serve

OUT = Path(__file__).parent.parent / "results" / "speed" / "training_step_rate.json"
BATCH = {96: 64, 160: 32, 224: 16}
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
NETWORKS = ("resnet18", "se_resnet18")
SIDE = 2048
AS_IT_IS = ("resnet18", 96, "32-true")


def multiply_adds(network: nn.Module, size: int) -> int:
    """Of the convolutions and linear layers, for one image."""
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
    return total


def bf16_in_hardware() -> str:
    """What the processor has for products of bfloat16, as PyTorch sees it; empty: nothing."""
    asked = {
        "AVX512_BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    names = [name for name, told in asked.items() if getattr(torch.cpu, told, lambda: False)()]
    return ", ".join(names)


def work(memory: str) -> None:
    """Answer "step NETWORK SIZE PRECISION" and "product PRECISION WAY" with a rate."""
    torch.set_num_threads(1)
    steps: dict[tuple[str, ...], Callable[[], None]] = {}
    matrices = {name: torch.randn(SIDE, SIDE).to(dtype) for name, dtype in PRECISIONS.items()}
    blocked = matrices["32-true"].to_mkldnn()

    def answer(what: str, *asked: str) -> dict[str, Any]:
        if what == "product":
            precision, way = asked
            one = matrices[precision]
            with torch.no_grad():
                started = time.process_time()
                if way == "mm":
                    torch.mm(one, one)
                else:
                    F.linear(blocked, blocked)
            return {"gflop_per_s": 2 * SIDE**3 / 1e9 / (time.process_time() - started)}
        network, size, precision = asked
        batch_size = BATCH[int(size)]
        if asked not in steps:
            steps[asked] = training_step(network, int(size), batch_size, precision)
            steps[asked]()
        started = time.process_time()
        steps[asked]()
        return {"images_per_s": batch_size / (time.process_time() - started)}

    with kept_memory() if memory == "kept" else contextlib.nullcontext():
        serve({"torch": torch.__version__}, answer)


def worker(memory: str) -> Worker:
    """A process with memory "kept" or "left"."""
    environment = {
        "THP_MEM_ALLOC_ENABLE": str(int(memory == "kept")),
        "OMP_WAIT_POLICY": "passive",
    }
    return Worker([sys.executable, __file__, "--worker", memory], environment)


def measure(rounds: int, peer_python: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts, and the rate of everything in every round by what it is of."""
    with contextlib.ExitStack() as stack:
        ours, left = worker("kept"), worker("left")
        stack.callback(ours.end)
        stack.callback(left.end)
        about = dict(ours.facts)
        asks: dict[Any, Callable[[], float]] = {}
        for precision, size, network in itertools.product(PRECISIONS, BATCH, NETWORKS):
            words = ("step", network, size, precision)
            asks["ours", network, size, precision] = lambda words=words: ours.ask(*words)[
                "images_per_s"
            ]
        asks["left", *AS_IT_IS] = lambda: left.ask("step", *AS_IT_IS)["images_per_s"]
        for precision, way in (("32-true", "mm"), ("32-true", "onednn"), ("bf16-mixed", "mm")):
            asks["product", precision, way] = lambda words=("product", precision, way): ours.ask(
                *words
            )["gflop_per_s"]
        if peer_python is not None:
            peer = Worker(
                [str(peer_python), str(Path(__file__).parent / "torchvision_step.py")],
                {"PYTHONPATH": None, "THP_MEM_ALLOC_ENABLE": None, "OMP_WAIT_POLICY": None},
            )
            stack.callback(peer.end)
            about["peer"] = peer.facts
            for precision, size in itertools.product(PRECISIONS, BATCH):
                words = (precision, size, BATCH[size])
                asks["peer", size, precision] = lambda words=words: peer.ask(*words)["images_per_s"]
        found: dict[Any, list[float]] = {name: [] for name in asks}
        names = list(asks)
        for number in range(rounds + 1):  # the first is to warm up
            turn = 5 * number % len(names)
            for name in names[turn:] + names[:turn]:
                rate = asks[name]()
                if number:
                    found[name].append(rate)
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return about, found


def _ratios(a: list[float], b: list[float]) -> dict[str, float]:
    return spread([one / other for one, other in zip(a, b, strict=True)])


def rows(found: dict[Any, list[float]]) -> list[dict[str, Any]]:
    """A row a network, size and precision."""
    told = []
    for precision, size, network in itertools.product(PRECISIONS, BATCH, NETWORKS):
        mine = found["ours", network, size, precision]
        gflop = 6 * multiply_adds(build_model(network, 4), size) / 1e9
        row: dict[str, Any] = {
            "network": network,
            "precision": precision,
            "image_size": size,
            "batch_size": BATCH[size],
            "images_per_s": spread(mine, 1),
            "gflop_per_s": spread([gflop * rate for rate in mine], 1),
            "of_32_true": _ratios(mine, found["ours", network, size, "32-true"]),
        }
        for kind, of, way in (key for key in found if key[0] == "product"):
            if of == precision:
                row[f"of_{way}_{kind}"] = _ratios(
                    [gflop * rate for rate in mine], found[kind, of, way]
                )
        peer = found.get(("peer", size, precision))
        if peer is not None:
            row["torchvision_resnet18_images_per_s"] = spread(peer, 1)
            row["of_torchvision_resnet18"] = _ratios(mine, peer)
        if (network, size, precision) == AS_IT_IS:
            row["of_memory_left_as_it_is"] = _ratios(mine, found["left", *AS_IT_IS])
        told.append(row)
    return told


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer_python", type=Path, help="of an environment with torchvision")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", choices=("kept", "left"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    before = facts()
    hardware = bf16_in_hardware()
    if not hardware:
        print("This processor has no arithmetic of bfloat16: expect bf16-mixed to be slower.")
    about, found = measure(args.rounds, args.peer_python)
    peer = ["--peer_python", "PATH"] if args.peer_python else []
    command = ["python", "benchmarks/training_step_rate.py", "--rounds", str(args.rounds), *peer]
    record = {
        "command": shlex.join(command),
        "threads": 1,
        "seconds_are": "of processor time",
        **about,
        "bf16_in_hardware": hardware or "none",
        "rounds": args.rounds,
        "products_gflop_per_s": {
            f"{key[1]}, {key[2]}, {SIDE}^2": spread(rates, 1)
            for key, rates in found.items()
            if key[0] == "product"
        },
        "measurements": rows(found),
        "machine": before,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
