"""Augmenting a batch: our plain torch against kornia's geometry and enhance functions, in one run.

pip install kornia && python benchmarks/augmentation_vs_kornia.py [--out results/augmentation.json]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import kornia
import torch

from machine import facts
from tumorlens.data.augment import Augmentation, augment
from tumorlens.files import environment


def with_kornia(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The same operations: flip, rotate, scale, shift, brightness, contrast."""
    count, height, width = images.shape
    drawn = torch.rand(count, 7, generator=generator) * 2 - 1
    batch = images[:, None]
    batch = torch.where((drawn[:, 0] < 0)[:, None, None, None], batch.flip(3), batch)
    matrix = kornia.geometry.get_affine_matrix2d(
        drawn[:, 3:5] * 0.05 * width,
        torch.tensor([[width / 2, height / 2]]).expand(count, 2),
        (1 + 0.1 * drawn[:, 2:3]).expand(count, 2),
        10 * drawn[:, 1],
    )[:, :2]
    batch = kornia.geometry.warp_affine(batch, matrix, (height, width))
    batch = kornia.enhance.adjust_contrast_with_mean_subtraction(batch, 1 + 0.15 * drawn[:, 5])
    return kornia.enhance.adjust_brightness(batch, 0.1 * drawn[:, 6])[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    images = torch.rand(32, 96, 96, generator=torch.Generator().manual_seed(0))
    indices = torch.arange(32)
    generator = torch.Generator().manual_seed(0)
    ours, theirs = [], []
    for round_ in range(45):  # interleaved, so that both meet the same machine
        started = time.perf_counter()
        augment(images, indices, Augmentation(), 0, round_)
        middle = time.perf_counter()
        with_kornia(images, generator)
        if round_ >= 5:
            ours.append(middle - started)
            theirs.append(time.perf_counter() - middle)
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    found = {
        "what": "seconds to augment 32 images of 96 x 96; ratio above 1: ours is faster",
        "pairs": len(ratios),
        "ours_median_ms": 1e3 * statistics.median(ours),
        "kornia_median_ms": 1e3 * statistics.median(theirs),
        "ratio_median": statistics.median(ratios),
        "ratio_5_to_95_percent": [ratios[2], ratios[-3]],
        "threads": torch.get_num_threads(),
        "command": "python benchmarks/augmentation_vs_kornia.py",
        "runs": 1,
        **facts(),
        **environment(),
    }
    print(json.dumps(found, indent=2))
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
