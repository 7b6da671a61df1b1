"""How far a number carries: one figure and its numbers from the result files.

    python experiments/ladder.py results OUT.json FIGURE.png

Steps: the official test split; the same without near-duplicates of training images; patients who
were not in training (five folds); of these the gliomas of the site that is rare among gliomas; the
same by a trial that saw no glioma of that site; the worst everyday change of display; gliomas of
other scanners. A step without a result file is left out and named. The official steps of `robust`
are those of the weights that come with tumorlens.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tumorlens.comparison.run_files import RunFiles, finished_runs
from tumorlens.evaluation.intervals import Estimate, share_estimate
from tumorlens.evaluation.plots import COLOURS, save
from tumorlens.evaluation.predictions import near_duplicates_of_any
from tumorlens.files import write_json
from tumorlens.labels import title

# Recipe to its result files: official split, patient folds, trial without a site, stress, external.
RECIPES = {
    "fast": ("official_fast", "patients", "fast", "stress_fast", "external_fast"),
    "robust": ("weights", "robust", "robust", "stress_robust", "external_robust"),
}
STEPS = {
    "official": "official\ntest split",
    "without_near_duplicates": "no near-\nduplicates",
    "patients": "unseen\npatients",
    "display": "other\ndisplay",
    "site": "rare\nsite",
    "site_out": "unseen\nsite",
    "external": "other\nscanners",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("results", "out", "figure"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for recipe, sources in RECIPES.items():
        for model in ("resnet18", "se_resnet18"):
            found = steps(asked.results, model, *sources)
            if "patients" in found:
                rows[f"{model}, {recipe}"] = found
    missing = {name: [step for step in STEPS if step not in found] for name, found in rows.items()}
    write_json(asked.out, {"what": __doc__.splitlines()[0], "missing": missing, "ladder": rows})
    save(figure(rows), asked.figure)


def steps(
    results: Path, model: str, official: str, patients: str, out: str, stress: str, external: str
) -> dict[str, Any]:
    """Step to metric to estimate as primitives, of one network and recipe."""
    found: dict[str, Any] = {}
    bundled, of_official = results / official / f"{model}.json", runs_of(results / official, model)
    if bundled.is_file():
        scores = json.loads(bundled.read_text(encoding="utf-8"))["scores"]
        for step, subset in (("official", "all"), ("without_near_duplicates",) * 2):
            metrics = scores[subset]["metrics"]
            found[step] = {
                "accuracy": metrics["accuracy"],
                "glioma_recall": metrics["recall_glioma"],
            }
    elif of_official:
        found["official"] = of_runs(of_official, "together")
        found["without_near_duplicates"] = of_runs(of_official, "together", clean=True)
    of_patients = runs_of(results / patients, model)
    if of_patients:
        found["folds"] = sorted(run.fold or 0 for run in of_patients)
        found["patients"] = of_runs(of_patients, "apart")
        found["site"] = of_runs(of_patients, "apart", site="digits")
    trial = results / "display_recipe_search" / f"{out}-{model}-fold0.json"
    if trial.is_file():
        of_site = json.loads(trial.read_text(encoding="utf-8"))["site_out"]
        found["site_out"] = {"glioma_recall": of_site["glioma_recall"]}
    stressed = of_model(results / "ladder" / f"{stress}.json", "runs", model)
    if stressed:
        found["display"] = of_stress(stressed)
    outside = of_model(results / "ladder" / f"{external}.json", "checkpoints", model)
    if outside:
        found["external"] = of_external([one["png_all"] for one in outside])
    return found


def runs_of(folder: Path, model: str) -> list[RunFiles]:
    """The finished runs of a network in a study folder."""
    return [run for run in finished_runs(folder) if run.model == model] if folder.is_dir() else []


def of_model(path: Path, key: str, model: str) -> list[dict[str, Any]]:
    """Entries of a result file whose run's name begins with the network's."""
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))[key]
    return [value for name, value in entries.items() if name.partition("-")[0] == model]


def of_runs(
    runs: list[RunFiles], how: str, *, clean: bool = False, site: str = ""
) -> dict[str, Any]:
    """Accuracy, tumors alone and glioma recall; runs of the same images ("together") or of others.

    `clean`: without near-duplicates of training images. `site`: gliomas of this site alone.
    """
    every = [run.predictions() for run in runs]
    paths = np.concatenate([one.paths for one in every])
    units = np.concatenate(
        [np.array([u or f"{at}:{g}" for u, g in pairs(one)]) for at, one in enumerate(every)]
    )
    labels = np.concatenate([np.array(one.classes)[one.labels] for one in every])
    right = np.concatenate([one.predicted == one.labels for one in every])
    keep = np.ones(len(paths), dtype=bool)
    if clean:
        # Seeds train on different images: what one of them has seen is left out for all.
        known = near_duplicates_of_any(every) or {}
        keep = np.array([not known.get(path) for path in paths])
    if site:
        keep &= np.concatenate([np.asarray(one.sites) == site for one in every])
    if how == "together":
        paths, first, at = np.unique(paths[keep], return_index=True, return_inverse=True)
        shares = np.bincount(at, right[keep]) / np.bincount(at)
        labels, units = labels[keep][first], units[keep][first]
    else:
        shares, labels, units = right[keep].astype(float), labels[keep], units[keep]
    _, units = np.unique(units, return_inverse=True)
    masks = {"accuracy": labels != "", "tumors_alone": labels != "notumor"}
    masks = {} if site else masks
    masks["glioma_recall"] = labels == "glioma"
    return {
        name: share_estimate(shares[mask], units[mask]).to_dict() for name, mask in masks.items()
    }


def pairs(predictions: Any) -> list[tuple[str, str]]:
    """Patient ("" where not known) and group of each image."""
    patients = predictions.patients or ("",) * len(predictions.paths)
    groups = predictions.groups or tuple(predictions.paths)
    return list(zip(patients, groups, strict=True))


def of_stress(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The everyday change with the lowest mean accuracy over the runs, which test other images."""
    changes: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row in run["changes"]:
            changes.setdefault(row["change"], []).append(row)
    worst = min(changes, key=lambda name: np.mean([r["accuracy"]["value"] for r in changes[name]]))
    rows = changes[worst]
    return {
        "change": worst,
        "unchanged": float(np.mean([run["unchanged"]["value"] for run in runs])),
        "accuracy": mean_of([row["accuracy"] for row in rows]).to_dict(),
        "glioma_recall": {"value": float(np.mean([row["recall"]["glioma"] for row in rows]))},
    }


def mean_of(estimates: list[dict[str, float]]) -> Estimate:
    """Mean of estimates of other people each, with the interval of independent errors."""
    value = float(np.mean([one["value"] for one in estimates]))
    low = np.sqrt(sum((one["value"] - one["low"]) ** 2 for one in estimates)) / len(estimates)
    high = np.sqrt(sum((one["high"] - one["value"]) ** 2 for one in estimates)) / len(estimates)
    return Estimate(value, value - low, value + high, int(sum(one["n"] for one in estimates)))


def of_external(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean recall of the networks, the interval over people."""
    shares = np.mean([[int(c) for c in run["right"]] for run in runs], axis=0)
    _, units = np.unique(runs[0]["people"], return_inverse=True)
    return {
        "glioma_recall": share_estimate(shares, units).to_dict(),
        "confident_errors": float(np.mean([run["confident_errors"] for run in runs])),
    }


def figure(rows: dict[str, dict[str, Any]]) -> Figure:
    """Accuracy and glioma recall, step by step, a line a network and recipe."""
    drawn = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, (metric, words) in zip(
        drawn.subplots(1, 2, width_ratios=(4, 7)),
        (("accuracy", "Accuracy, all classes"), ("glioma_recall", "Gliomas found")),
        strict=True,
    ):
        there = [s for s in STEPS if any(metric in found.get(s, {}) for found in rows.values())]
        for at, (name, found) in enumerate(rows.items()):
            model, recipe = name.split(", ")
            folds = f", {len(found['folds'])} folds"
            points = [
                (there.index(s), found[s][metric]) for s in there if metric in found.get(s, {})
            ]
            x = np.array([p for p, _ in points]) + 0.08 * (at - len(rows) / 2)
            y = np.array([v["value"] for _, v in points])
            low = np.array([v.get("low", v["value"]) for _, v in points])
            high = np.array([v.get("high", v["value"]) for _, v in points])
            axes.errorbar(
                x,
                y,
                yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
                color=COLOURS[at],
                marker="os^D"[at % 4],
                linestyle="-" if recipe == "robust" else "--",
                capsize=3,
                label=f"{title(model)}, recipe {recipe}{folds}",
            )
        axes.set_xticks(range(len(there)), [STEPS[s] for s in there], fontsize=10)
        axes.set_ylim(0, 1)
        axes.grid(axis="y", alpha=0.3)
        axes.set_title(words, fontsize=12)
        axes.set_ylabel("share of the images, 95% interval", fontsize=10)
    axes.legend(fontsize=10, loc="lower left")
    return drawn


if __name__ == "__main__":
    main()
