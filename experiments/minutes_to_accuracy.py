"""How soon does a recipe reach an accuracy on patients it has not seen?

    python experiments/minutes_to_accuracy.py DATA_DIR public-patients --fold 3

Side by side, one core each: `paper` once, beside it the recipes of `--quick`, one seed after
another; `--lane` starts one side alone, the other beside it by a second command.
Each run trains as `train.py` does, is scored on the fold's validation images after every epoch, and
stops at the accuracy. Decoding is done before the clocks start. Every epoch is a row of `--rows` as
soon as it ends; the JSON beside it is made of the rows, and `--summarise` makes it of those of a
run that was cut off.
"""

import argparse
import csv
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tumorlens.data import splits
from tumorlens.data.dataset import load_for_training
from tumorlens.settings import TrainSettings
from tumorlens.studies.run import code, machine
from tumorlens.training.fit import train
from tumorlens.training.recipes import RECIPES

CLOCKS = ("minutes", "cpu_minutes")
LEVELS = (0.7, 0.8, 0.85, 0.88)
ROWS = Path(__file__).parent.parent / "results" / "recipe" / "minutes_to_accuracy.csv"
COLUMNS = ("recipe", "seed", "epoch", "minutes", "cpu_minutes", "valid_accuracy", "valid_macro_f1")


class Clock(Callback):
    """Writes a row each epoch; stops a run at an accuracy, or when its time is over."""

    def __init__(self, recipe: str, seed: int, args: argparse.Namespace) -> None:
        self.run = [recipe, seed]
        self.args = args
        self.started = (0.0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start both clocks: the wall's and the processor's."""
        self.started = (time.perf_counter(), time.process_time())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Look at the clocks."""
        wall, cpu = self.started
        minutes = (time.perf_counter() - wall) / 60
        metrics = [
            float(trainer.callback_metrics[f"valid_{name}"]) for name in ("accuracy", "macro_f1")
        ]
        clocks = [f"{minutes:.2f}", f"{(time.process_time() - cpu) / 60:.2f}"]
        row = [
            *self.run,
            trainer.current_epoch + 1,
            *clocks,
            *(f"{metric:.4f}" for metric in metrics),
        ]
        with self.args.rows.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        print(*row, flush=True)
        trainer.should_stop = metrics[0] >= self.args.accuracy or minutes >= self.args.minutes


def measure(args: argparse.Namespace, recipes: list[str], seeds: list[int]) -> None:
    """One recipe and seed after another, on one core."""
    for recipe, seed in itertools.product(recipes, seeds):
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainSettings(
                model=args.model,
                data_dir=args.data,
                splits=args.splits,
                fold=args.fold,
                recipe=recipe,  # type: ignore[arg-type]
                seed=seed,
                threads=1,
                out_dir=Path(folder),
            )
            train(settings, extra_callbacks=(Clock(recipe, seed, args),))


def lanes_of(args: argparse.Namespace) -> list[tuple[list[str], list[int]]]:
    """Recipes and seeds of each lane that is to run."""
    lanes = {"paper": (["paper"], [0]), "quick": (args.quick, list(range(args.seeds)))}
    return [lane for name, lane in lanes.items() if args.lane in (name, "both")]


def runs_in(table: Path) -> dict[tuple[str, int], list[dict[str, str]]]:
    """The epochs of each recipe and seed."""
    runs: dict[tuple[str, int], list[dict[str, str]]] = {}
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            runs.setdefault((row["recipe"], int(row["seed"])), []).append(row)
    return runs


def start_table(args: argparse.Namespace) -> None:
    """Make the table where it is missing; stop where it has one of the runs already."""
    if not args.rows.is_file():
        args.rows.parent.mkdir(parents=True, exist_ok=True)
        args.rows.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    there = runs_in(args.rows)
    for recipes, seeds in lanes_of(args):
        for run in itertools.product(recipes, seeds):
            if run in there:
                sys.exit(f"--rows {args.rows}: has {run[0]}, seed {run[1]} already; name another.")


def first(epochs: list[dict[str, str]], accuracy: float) -> dict[str, float] | None:
    """Minutes, by both clocks, until an accuracy is first reached; None: it is not."""
    for epoch in epochs:
        if float(epoch["valid_accuracy"]) >= accuracy:
            return {clock: float(epoch[clock]) for clock in CLOCKS}
    return None


def summarise(args: argparse.Namespace) -> None:
    """Make the JSON of the rows that are there; every level on the way, not the last alone."""
    runs = runs_in(args.rows)
    slow = runs.get(("paper", 0))
    if slow is None:
        sys.exit(f"{args.rows}: no run of paper yet; start it with --lane paper.")
    levels = []
    for accuracy in sorted({*LEVELS, args.accuracy}):
        paper = first(slow, accuracy)
        # Where paper has not reached it, the time it was given is a lower bound.
        given = paper or {clock: float(slow[-1][clock]) for clock in CLOCKS}
        quick: dict[str, dict[str, Any]] = {}
        for (recipe, seed), epochs in runs.items():
            if recipe != "paper":
                found = first(epochs, accuracy)
                ratio = found and {c: round(given[c] / found[c], 2) for c in CLOCKS}
                quick.setdefault(recipe, {})[str(seed)] = {
                    "reached_after": found,
                    "paper_over_it": ratio,
                }
        levels.append(
            {
                "validation_accuracy": accuracy,
                "paper": paper,
                "ratios_are_lower_bounds": paper is None,
                "quick": quick,
            }
        )
    record = {
        "command": "python experiments/minutes_to_accuracy.py DATA SPLITS "
        f"--fold {args.fold} --model {args.model} --accuracy {args.accuracy:g} "
        f"--minutes {args.minutes:g} --seeds {args.seeds} --quick {' '.join(args.quick)} "
        f"--rows {args.rows.name}",
        "model": args.model,
        "levels": levels,
        "runs": [
            {
                "recipe": recipe,
                "seed": seed,
                "epochs": len(epochs),
                "best_valid_accuracy": max(float(row["valid_accuracy"]) for row in epochs),
                **{clock: float(epochs[-1][clock]) for clock in CLOCKS},
            }
            for (recipe, seed), epochs in runs.items()
        ],
        "machine": machine(),
        **code(),
    }
    args.rows.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run both side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("--fold", type=int, default=3)
    parser.add_argument("--model", default="se_resnet18")
    parser.add_argument("--accuracy", type=float, default=0.90)
    parser.add_argument("--minutes", type=float, default=200.0, help="bound of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", nargs="+", default=["fast"], help="recipes beside paper")
    parser.add_argument("--rows", type=Path, default=ROWS, help="table of the epochs")
    parser.add_argument("--lane", choices=["both", "paper", "quick"], default="both")
    parser.add_argument("--summarise", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.summarise:
        start_table(args)
        for size in {RECIPES[name].image_size for name in ("paper", *args.quick)}:
            load_for_training(splits.resolve(args.data, args.splits, args.fold, size=size), size)
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as train.py
        spawn = multiprocessing.get_context("spawn")
        lanes = [spawn.Process(target=measure, args=(args, *lane)) for lane in lanes_of(args)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    summarise(args)


if __name__ == "__main__":
    main()
