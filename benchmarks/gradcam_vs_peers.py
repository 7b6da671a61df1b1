"""Grad-CAM: ours against pytorch-grad-cam and torchcam, in one run, as multiples of a forward pass.

python benchmarks/gradcam_vs_peers.py [--env FOLDER] [--out results/explain/speed.json]

Makes an environment of its own in FOLDER (the peers need torchvision, which this project does not)
and measures there. All three return the raw (N, h, w) map of the last stage of the same network;
enlarging it to the image is timed apart. Each round times the plain forward pass and each of the
three once, in an order that changes from round to round, so that all meet the same machine.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

from rounds import in_turns

ROOT = Path(__file__).parents[1]
SCRATCH = Path(tempfile.gettempdir()) / "tumorlens-gradcam-peers"
# torchvision 0.28 is the one of torch 2.13. From PyPI it is built for CUDA; see `_import_peers`.
PEERS = ("torch", "torchvision==0.28.0", "grad-cam==1.5.7", "torchcam==0.5.0")
LAYER, CLASSES, TARGET, SIDE = "layer4", 4, 2, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", type=Path, default=SCRATCH)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=40, help="rounds at batch 1")
    parser.add_argument("--pairs_large", type=int, default=30, help="rounds at batch 32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="resnet18", choices=("resnet18", "se_resnet18"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        _measure_inside(given.env)
        return
    found = measure(given.model, {1: given.pairs, 32: given.pairs_large}, given.threads)
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _measure_inside(folder: Path) -> None:
    """Make the environment once, and run this script in it, with our code from the source tree."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        pins = folder / "constraints.txt"
        ours = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        same = ("torch==", "numpy==", "scipy==", "scikit-learn==", "matplotlib==", "pillow==")
        pins.write_text("\n".join(line for line in ours if line.startswith(same)) + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(pins), *PEERS], check=True)
        (folder / "ready").touch()
    paths = os.pathsep.join((str(ROOT / "src"), str(Path(__file__).parent)))
    command = [str(python), __file__, "--inside", *sys.argv[1:]]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths})


def _import_peers() -> None:
    """Import torchvision beside a torch without CUDA.

    Its compiled operators cannot load then, and two registrations that name them fail. Declaring
    those operators lets it be imported; nothing that is timed calls them.
    """
    if "torchvision" in sys.modules:
        return
    import torch  # noqa: PLC0415

    for name in ("nms", "qnms"):
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", signature)
    import torchvision  # noqa: F401, PLC0415


def measure(name: str, pairs: dict[int, int], threads: int) -> dict[str, object]:
    """Time everything at each batch size; `pairs` is batch size to rounds."""
    import torch  # noqa: PLC0415

    from machine import facts  # noqa: PLC0415
    from tumorlens.files import environment  # noqa: PLC0415
    from tumorlens.models.build import build_model  # noqa: PLC0415

    torch.set_num_threads(threads)
    network = build_model(name, CLASSES, seed=0).eval()
    batches = {}
    for batch, rounds in pairs.items():
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
        batches[f"batch {batch}"] = _batch(network, images, rounds)
    return {
        "what": f"raw Grad-CAM of {LAYER} of {name} at {SIDE} px; `times_forward` is the time over "
        "that of the plain forward pass of the same round, median and 95% bootstrap interval of "
        "the median",
        "batches": batches,
        "threads": threads,
        "versions": _versions(),
        "command": f"python benchmarks/gradcam_vs_peers.py --model {name} --threads {threads} "
        f"--pairs {pairs[1]} --pairs_large {pairs[32]}",
        "runs": 1,
        **facts(),
        **environment(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version  # noqa: PLC0415

    return {name: version(name) for name in ("torch", "torchvision", "grad-cam", "torchcam")}


def _batch(network, images, rounds: int) -> dict[str, object]:  # type: ignore[no-untyped-def]
    import torch  # noqa: PLC0415

    ways, enlarge = _ways(network, images)
    maps = {name: way() for name, way in ways.items() if name != "forward"}
    agreement = {
        name: float((found - maps["tumorlens"]).abs().max()) for name, found in maps.items()
    }
    if max(agreement.values()) > 1e-4:
        raise SystemExit(f"the maps differ, so that times cannot be compared: {agreement}")
    seconds = in_turns(ways, rounds)
    upsampling = []
    for _ in range(max(5, rounds)):
        started = time.perf_counter()
        enlarge(maps["tumorlens"])
        upsampling.append(time.perf_counter() - started)
    forward = seconds["forward"]
    generator = torch.Generator().manual_seed(0)
    return {
        name: {
            "images_per_second": len(images) / statistics.median(taken),
            "milliseconds": 1e3 * statistics.median(taken),
            "times_forward": _median(
                [a / b for a, b in zip(taken, forward, strict=True)], generator
            ),
            "largest_difference_of_maps": agreement.get(name),
        }
        for name, taken in seconds.items()
    } | {
        "pairs": rounds,
        "enlarging_milliseconds": 1e3 * statistics.median(upsampling),
    }


def _median(ratios: list[float], generator) -> dict[str, float]:  # type: ignore[no-untyped-def]
    import torch  # noqa: PLC0415

    values = torch.tensor(ratios, dtype=torch.float64)
    drawn = torch.randint(len(values), (2000, len(values)), generator=generator)
    medians = values[drawn].quantile(0.5, dim=1)
    low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"median": statistics.median(ratios), "low": low, "high": high}


def _ways(network, images):  # type: ignore[no-untyped-def]
    """Name to a call that returns (N, h, w) maps, or logits for "forward"; and the enlargement."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    import torch.nn.functional as F  # noqa: PLC0415

    from tumorlens.explain.gradcam import grad_cam  # noqa: PLC0415

    _import_peers()
    from pytorch_grad_cam import GradCAM as JacobGil  # noqa: PLC0415
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415
    from torchcam.methods import GradCAM as TorchCam  # noqa: PLC0415

    targets = [ClassifierOutputTarget(TARGET)] * len(images)

    class Raw(JacobGil):
        """Stops at the map: `forward` itself goes on to rescale and enlarge it."""

        def compute_cam_per_layer(self, inputs, targets, eigen_smooth):  # type: ignore[no-untyped-def]
            activations = self.activations_and_grads.activations[0].cpu().data.numpy()
            gradients = self.activations_and_grads.gradients[0].cpu().data.numpy()
            return self.get_cam_image(
                inputs, self.target_layers[0], targets, activations, gradients, eigen_smooth
            )

        def aggregate_multi_layers(self, maps):  # type: ignore[no-untyped-def]
            return torch.from_numpy(np.maximum(maps, 0))

    # A copy of the network for each, and the extractors made once, as one uses them: no hook is in
    # another's time, and none pays for being made.
    plain, own, hooked, traced = (copy.deepcopy(network) for _ in range(4))
    jacobgil = Raw(model=hooked, target_layers=[getattr(hooked, LAYER)])
    torchcam = TorchCam(traced, LAYER)

    def forward():  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return plain(images)

    def enlarge(maps):  # type: ignore[no-untyped-def]
        return F.interpolate(maps[:, None], size=(SIDE, SIDE), mode="bilinear")

    ways: dict[str, Callable[[], object]] = {
        "forward": forward,
        "tumorlens": lambda: grad_cam(own, images, TARGET, LAYER),
        "pytorch-grad-cam": lambda: jacobgil(input_tensor=images, targets=targets),
        "torchcam": lambda: torchcam(TARGET, traced(images), normalized=False)[0],
    }
    return ways, enlarge


if __name__ == "__main__":
    main()
