"""What does it bring to ask a recipe's seeds together?

    python benchmarks/seed_ensembles.py [STUDY_DIR]

Of the fold runs of STUDY_DIR (default: results/study): the mean of the seeds' log-probabilities,
beside the mean of the seeds' own figures, both as means over folds. Each difference has two 95%
intervals: bootstrap over images (those of one group of results/patients/groups.csv together), which
takes these seeds and folds as given, and t over the folds' differences. Writes
results/patients/STUDY_seed_ensembles.json.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from machine import facts
from tumorlens.data.table import read_table
from tumorlens.comparison.run_files import read_study
from tumorlens.evaluation.intervals import percentile_interval, resampled_weights
from tumorlens.files import write_json

ROOT = Path(__file__).parents[1]
RESAMPLES = 5000
FIGURES = ("accuracy", "recall_glioma", "recall_meningioma", "recall_notumor", "recall_pituitary")


def one_fold(runs: list[Any], patients: dict[str, str]) -> dict[str, Any]:
    """Right answers of one fold's images: by the ensemble, and as the share of its seeds."""
    answers = [run.predictions().grouped(patients) for run in runs]
    first = answers[0]
    assert all(one.paths == first.paths and one.classes == first.classes for one in answers)
    logs = np.mean([np.log(one.probabilities.clip(1e-9)) for one in answers], axis=0)
    alone = np.mean([one.probabilities.argmax(1) == first.labels for one in answers], axis=0)
    rows = {"accuracy": np.ones(len(first.labels))} | {
        f"recall_{name}": (first.labels == index).astype(float)
        for index, name in enumerate(first.classes)
    }
    return {
        "together": (logs.argmax(1) == first.labels).astype(float),
        "alone": alone,
        "rows": rows,
        "groups": first.group_indices(),
    }


def measure(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Each figure alone and together, with the interval of the difference."""
    found = {}
    for name in FIGURES:
        points, moved = [], []
        for seed, fold in enumerate(folds):
            rows, gain = fold["rows"][name], fold["together"] - fold["alone"]
            share = rows / rows.sum()
            points.append([share @ fold["alone"], share @ fold["together"]])
            drawn = np.concatenate(list(resampled_weights(fold["groups"], RESAMPLES, seed)))
            moved.append((drawn @ (rows * gain)) / (drawn @ rows))
        alone, together = np.mean(points, axis=0)
        gains = np.diff(points, axis=1)[:, 0]
        around = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
        low, high = percentile_interval(np.mean(moved, axis=0))
        found[name] = {
            "one_seed": round(float(alone), 4),
            "seeds_together": round(float(together), 4),
            "difference": round(float(together - alone), 4),
            "interval_over_images": [round(float(low), 4), round(float(high), 4)],
            "interval_over_folds": np.round(
                [together - alone - around, together - alone + around], 4
            ).tolist(),
            "by_fold": np.round(points, 4).tolist(),
        }
    return found


def main() -> None:
    """Every network that the study has."""
    study = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "results" / "study").resolve()
    table, _ = read_table(ROOT / "results" / "patients" / "groups.csv", "", ("path", "group"))
    patients = {row["path"]: row["group"] for row in table}
    by_fold: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for run in read_study(study):
        if run.protocol == "folds":
            by_fold[run.model][run.fold].append(run)
    networks = {}
    for model, folds in by_fold.items():
        seeds = {tuple(sorted(run.seed for run in runs)) for runs in folds.values()}
        if len(seeds) != 1 or len(folds) < 2:
            sys.exit(f"{study}: {model} needs the same seeds in every fold, and two folds or more.")
        networks[model] = {
            "runs": sum(map(len, folds.values())),
            "folds": len(folds),
            "figures": measure([one_fold(folds[fold], patients) for fold in sorted(folds)]),
        }
        print(model, networks[model]["figures"])
    record = {
        "command": f"python benchmarks/seed_ensembles.py results/{study.name}",
        "networks": networks,
        "machine": facts(),
    }
    write_json(ROOT / "results" / "patients" / f"{study.name}_seed_ensembles.json", record)


if __name__ == "__main__":
    main()
