"""An exported network against its checkpoint: PyTorch eager, compiled, ONNX in 32 and in 8 bits.

    python benchmarks/onnx_vs_torch.py [--checkpoint model/best_model.pt] [--model se_resnet18]

From 8-bit squares to logits and features, preprocessing included, at the network's own size and at
224 pixels: the time of one image, and images a second in batches of 32. Each round times all
four once, in an order that changes from round to round, so that all meet the same machine; ratios
are of the same round. Without a checkpoint the weights are random, which changes no time; the 8-bit
file is then made of random images. Cold start: the command `tumorlens predict` on one image,
from start to exit, by PyTorch and by the exported file. Writes results/export/speed.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from machine import facts
from rounds import in_turns
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import COMMANDS
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.export.int8 import quantise
from tumorlens.export.onnx_file import graph_of
from tumorlens.files import environment
from tumorlens.inference.backends import onnx_session
from tumorlens.inference.onnx_metadata import FEATURES, LOGITS, SQUARES, ExportedFile
from tumorlens.models.build import build_model, logits_and_features
from tumorlens.uncertainty.decision import judge_of

OUT = Path(__file__).parent.parent / "results" / "export" / "speed.json"
Way = Callable[[np.ndarray], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", default="se_resnet18", choices=("resnet18", "se_resnet18"))
    parser.add_argument("--sizes", type=int, nargs="+", help="pixels; default: its own, 224")
    parser.add_argument("--rounds", type=int, default=60, help="at batch 1")
    parser.add_argument("--rounds_large", type=int, default=20, help="at batch 32")
    parser.add_argument("--cold", type=int, default=7, help="starts of the command, each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    loaded = _loaded(given.checkpoint, given.model)
    own = loaded.preprocessing.image_size
    sizes, cold = {}, None
    with tempfile.TemporaryDirectory() as scratch:
        for size in dict.fromkeys(given.sizes or (own, 224)):
            resized = replace(loaded, preprocessing=replace(loaded.preprocessing, image_size=size))
            folder = Path(scratch) / str(size)
            folder.mkdir()
            files = _files(resized, folder)
            sizes[f"{size} px"] = _at_size(
                resized, files, {1: given.rounds, 32: given.rounds_large}, given.threads
            )
            if size == own and given.cold and "predict" in COMMANDS:
                cold = _cold_start(resized, files, given.cold, folder)
    found = {
        "what": f"{loaded.model_name}: 8-bit squares to logits and features on the CPU; "
        "`times_eager` is the time over that of PyTorch eager in the same round, median and 95% "
        "bootstrap interval of the median; below 1: faster than eager",
        "sizes": sizes,
        "cold_start": cold,
        "threads": given.threads,
        "versions": {name: _version(name) for name in ("torch", "onnx", "onnxruntime")},
        "command": "python benchmarks/onnx_vs_torch.py "
        f"{'--checkpoint ... ' if given.checkpoint else ''}--model {loaded.model_name} "
        f"--threads {given.threads} --rounds {given.rounds} --rounds_large {given.rounds_large} "
        f"--cold {given.cold}",
        "runs": 1,
        **facts(),
        **environment(),
    }
    print(json.dumps(found, indent=2))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _version(name: str) -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return version(name)


def _loaded(path: Path | None, name: str) -> Checkpoint:
    if path is not None:
        return checkpoints.load(path)
    classes = ("glioma", "meningioma", "notumor", "pituitary")
    template = Checkpoint(name, classes, Preprocessing(96, 0.2, 0.2), {}, None, {}, {})
    return checkpoints.with_weights(template, build_model(name, len(classes), seed=0), {})


def _files(loaded: Checkpoint, folder: Path) -> dict[str, Path]:
    """The checkpoint at this size, and the two exported files."""
    files = {
        "checkpoint": folder / "network.pt",
        "onnx fp32": folder / "network.onnx",
        "onnx int8": folder / "network.int8.onnx",
    }
    checkpoints.save(loaded, files["checkpoint"])
    side, preprocessing = loaded.preprocessing.image_size, loaded.preprocessing
    model = graph_of(loaded)
    about = ExportedFile(
        loaded.model_name, side, preprocessing.mean, preprocessing.std, judge_of(loaded)
    )
    onnx.helper.set_model_props(model, about.to_metadata())
    onnx.save(model, files["onnx fp32"])
    quantise(files["onnx fp32"], files["onnx int8"], _images(32, side))
    return files


def _images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)


def _at_size(
    loaded: Checkpoint, files: dict[str, Path], rounds: dict[int, int], threads: int
) -> dict[str, Any]:
    ways = _ways(loaded, files, threads)
    return {
        "megabytes": {name: path.stat().st_size / 1e6 for name, path in files.items()},
        **{
            f"batch {batch}": _batch(ways, _images(batch, loaded.preprocessing.image_size), count)
            for batch, count in rounds.items()
        },
    }


def _ways(loaded: Checkpoint, files: dict[str, Path], threads: int) -> dict[str, Way]:
    """Name to a call that takes (N, S, S) squares and returns logits and features."""
    network = loaded.network().to(memory_format=torch.channels_last)
    preprocessing = loaded.preprocessing

    def whole(squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = preprocessing(squares).contiguous(memory_format=torch.channels_last)
        return logits_and_features(network, inputs)

    compiled = torch.compile(whole, dynamic=False)  # for each size anew, as it is fastest

    def by_torch(function: Callable[..., Any]) -> Way:
        def run(squares: np.ndarray) -> Any:
            with torch.inference_mode():
                return [values.numpy() for values in function(torch.from_numpy(squares))]

        return run

    def by_onnx(path: Path) -> Way:
        running = onnx_session(path, threads)
        return lambda squares: running.run([LOGITS, FEATURES], {SQUARES: squares})

    return {
        "torch eager": by_torch(whole),
        "torch compiled": by_torch(compiled),
        "onnx fp32": by_onnx(files["onnx fp32"]),
        "onnx int8": by_onnx(files["onnx int8"]),
    }


def _batch(ways: dict[str, Way], squares: np.ndarray, rounds: int) -> dict[str, Any]:
    expected = ways["torch eager"](squares)
    differences = {
        name: float(np.abs(way(squares)[0] - expected[0]).max()) for name, way in ways.items()
    }
    apart = [name for name in ("torch compiled", "onnx fp32") if not differences[name] <= 1e-4]
    if apart:
        raise SystemExit(f"the logits differ, so that times cannot be compared: {differences}")
    seconds = in_turns({name: partial(way, squares) for name, way in ways.items()}, rounds)
    eager = seconds["torch eager"]
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(taken),
            "images_per_second": len(squares) / statistics.median(taken),
            "times_eager": _median([a / b for a, b in zip(taken, eager, strict=True)]),
            "largest_difference_of_logits": differences[name],
            "rounds": rounds,
        }
        for name, taken in seconds.items()
    }


def _median(values: list[float]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (2000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def _cold_start(
    loaded: Checkpoint, files: dict[str, Path], starts: int, folder: Path
) -> dict[str, Any]:
    """Seconds of the whole command on one image, in turns."""
    image = folder / "image.png"
    Image.fromarray(_images(1, loaded.preprocessing.image_size)[0]).save(image)
    command = [sys.executable, "-m", "tumorlens", "predict", str(image)]
    ways = {
        "torch": [*command, "--checkpoint", str(files["checkpoint"])],
        "onnx": [*command, "--checkpoint", str(files["onnx fp32"]), "--backend", "onnx"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + starts):  # the first of each fills the machine's file cache
        for name, words in ways.items():
            started = time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "times_torch": _median(
            [a / b for a, b in zip(seconds["onnx"], seconds["torch"], strict=True)]
        ),
        "starts": starts,
    }


if __name__ == "__main__":
    main()
