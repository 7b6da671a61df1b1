"""How soon does a recipe reach an accuracy on patients it has not seen?

    python benchmarks/minutes_to_accuracy.py DATA_DIR SPLITS_CSV --fold 1

One recipe after another on the same machine: `paper` once, `fast` for three seeds. Each run trains
as `train.py` does, is scored on the fold's validation images after every epoch, and stops at the
accuracy. Decoding is done before the clocks start. Writes results/recipe/minutes_to_accuracy.json
after each run.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from machine import facts
from tumorlens.config import TrainSettings
from tumorlens.data import splits
from tumorlens.data.dataset import load_for_training
from tumorlens.training.fit import train
from tumorlens.training.recipes import RECIPES

OUT = Path(__file__).parent.parent / "results" / "recipe" / "minutes_to_accuracy.json"


class Clock(Callback):
    """Stops a run at an accuracy, or when its time is over."""

    def __init__(self, accuracy: float, minutes: float) -> None:
        self.accuracy = accuracy
        self.minutes = minutes
        self.epochs: list[dict[str, float]] = []
        self.started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Look at the clock."""
        minutes = (time.perf_counter() - self.started) / 60
        reached = float(trainer.callback_metrics["valid_accuracy"])
        self.epochs.append({"minutes": round(minutes, 3), "valid_accuracy": round(reached, 4)})
        print(f"  {minutes:6.2f} min  {reached:.4f}", flush=True)
        trainer.should_stop = reached >= self.accuracy or minutes >= self.minutes


def measure(args: argparse.Namespace, recipe: str, seed: int) -> dict[str, Any]:
    """One run."""
    clock = Clock(args.accuracy, args.minutes)
    print(f"{recipe}, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(
            model=args.model,
            data_dir=args.data,
            splits=args.splits,
            fold=args.fold,
            recipe=recipe,  # type: ignore[arg-type]
            seed=seed,
            out_dir=Path(folder),
        )
        train(settings, extra_callbacks=(clock,))
    last = clock.epochs[-1]
    reached = last["valid_accuracy"] >= args.accuracy
    return {
        "recipe": recipe,
        "seed": seed,
        "reached": reached,
        "minutes": last["minutes"],
        "epochs": clock.epochs,
    }


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--model", default="se_resnet18")
    parser.add_argument("--accuracy", type=float, default=0.90)
    parser.add_argument("--minutes", type=float, default=100.0, help="bound of one run")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    assignment = splits.assignment(args.splits, args.fold)
    for size in {RECIPES[name].image_size for name in ("paper", "fast")}:
        load_for_training(args.data, size, assignment=assignment)
    runs = []
    for recipe, seed in [*(("fast", seed) for seed in range(args.seeds)), ("paper", 0)]:
        runs.append(measure(args, recipe, seed))
        fast = [run["minutes"] for run in runs if run["recipe"] == "fast" and run["reached"]]
        paper = [run["minutes"] for run in runs if run["recipe"] == "paper"]
        record = {
            "command": f"python benchmarks/minutes_to_accuracy.py DATA SPLITS --fold {args.fold}",
            "model": args.model,
            "validation_accuracy_to_reach": args.accuracy,
            "ratio": [round(paper[0] / minutes, 2) for minutes in fast] if paper else None,
            "ratio_is_a_lower_bound": bool(paper) and not runs[-1]["reached"],
            "runs": runs,
            "machine": facts(),
        }
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
