"""What mends class-wise bias after training, and at which price? All folds of a study.

    python experiments/bias_methods.py RUNS_DIR DATA OUT.json

RUNS_DIR has a folder a run with best_model.pt, as `study --protocol patients` leaves them. Offsets
and last layers are fitted on a run's own training and validation people; its test people are scored
once. Validation people of one fold are few. So offsets are also fitted on those of all folds, each
by the network that did not train on them, without the people whom the run is tested on. Differences
to the network as it is are paired over patients. Last layers see no validation person, so these
people may choose among them (`on_validation_people`). Sets of classes are calibrated on them, at
the highest of COVERAGES that their number allows in every fold.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.evaluation.evaluate import predictions_of
from tumorlens.evaluation.intervals import (
    percentile_interval,
    resampled_weights,
    share_estimate,
)
from tumorlens.evaluation.operating_point import fit_offsets
from tumorlens.files import write_json
from tumorlens.studies.run import code
from tumorlens.training.last_layer import LastLayer, retrain
from tumorlens.uncertainty.calibration import (
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from tumorlens.uncertainty.conformal import in_sets, scores_of

RESAMPLES = 2000
COVERAGES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5)
GOALS = ("accuracy", "balanced_accuracy", "worst_class")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for model in ("resnet18", "se_resnet18"):
        folders = sorted(path.parent for path in asked.runs.glob(f"{model}-*/best_model.pt"))
        folds = [of_run(folder, asked.data) for folder in folders]
        add_offsets_of_all_folds(folds)
        if folds:
            found[model] = {
                "runs": [one.name for one in folders],
                "offsets_by_all_folds": [one["offsets"] for one in folds],
                **of_network(folds),
                "on_validation_people": of_network([one["validation"] for one in folds])["methods"],
            }
            write_json(asked.out, {"what": __doc__.splitlines()[0], **code(), "networks": found})


def of_run(folder: Path, data: Path) -> dict[str, Any]:
    """Probabilities of a run's test images by each method, and whom they show."""
    choice = ImageChoice(data, "test", patients=Path("public"))
    test = open_session(folder / "best_model.pt", choice, device=torch.device("cpu"))
    valid, train = test.of_split("valid"), test.of_split("train")
    assert valid is not None
    assert train is not None
    known = predictions_of(test)
    kept = softmax(test.logits, test.checkpoint.temperature or 1.0)
    methods = {"as it is": kept}
    log_valid = log_of(softmax(valid.logits, test.checkpoint.temperature or 1.0))
    for goal in GOALS:
        point = fit_offsets(valid.data.labels, log_valid, valid.data.units, goal)
        moved = log_of(kept) + np.array(point.offsets)
        methods[f"offsets for {goal.replace('_', ' ')}"] = softmax(moved)
    layers = {
        "last layer, classes of equal size": classes_of(train),
        "last layer, class x site of equal size": sites_of(train),
    }
    on_validation = {"as it is": np.exp(log_valid)}
    for name, groups in layers.items():
        layer = retrain(train.outputs[1], train.data.labels, groups, train.data.units)
        temperature = fit_temperature(valid.data.labels, logits_by(layer, valid))
        methods[name] = softmax(logits_by(layer, test), temperature)
        on_validation[name] = softmax(logits_by(layer, valid), temperature)
    print(folder.name, {n: round(accuracy(p, test), 3) for n, p in methods.items()}, flush=True)
    conformal = scores_of(
        valid.data.labels,
        softmax(valid.logits, test.checkpoint.temperature or 1.0),
        valid.data.units,
        known=True,
    )
    sites = np.array(known.sites) if known.sites else np.full(len(kept), "")
    return {
        "methods": methods,
        "offsets": {},
        "paths": test.data.paths,
        "labels": test.data.labels,
        "units": known.units,
        "sites": sites,
        "validation": {
            "methods": on_validation,
            "paths": valid.data.paths,
            "labels": valid.data.labels,
            "units": valid.data.units,
            "sites": np.array([one.partition(", ")[2] for one in sites_of(valid)]),
        },
        "classes": test.checkpoint.classes,
        "sets": {
            coverage: in_sets(kept, conformal.least(coverage, test.checkpoint.classes))
            for coverage in COVERAGES
            if all(count >= coverage / (1 - coverage) - 1e-9 for count in conformal.counts)
        },
        "calibration_units": list(conformal.counts),
    }


def add_offsets_of_all_folds(folds: list[dict[str, Any]]) -> None:
    """Offsets for the worst class by validation people of all folds but the run's test people."""
    for run in folds:
        tested = set(run["paths"])
        parts = [one["validation"] for one in folds]
        keep = [np.array([path not in tested for path in part["paths"]]) for part in parts]
        labels = np.concatenate([part["labels"][k] for part, k in zip(parts, keep, strict=True)])
        named = [
            f"{at} {unit}"
            for at, (part, k) in enumerate(zip(parts, keep, strict=True))
            for unit in part["units"][k]
        ]
        units = np.unique(named, return_inverse=True)[1]
        for method in [name for name in run["methods"] if not name.startswith("offsets")]:
            scores = [
                log_of(part["methods"][method][k]) for part, k in zip(parts, keep, strict=True)
            ]
            point = fit_offsets(labels, np.concatenate(scores), units, "worst_class")
            moved = log_of(run["methods"][method]) + np.array(point.offsets)
            start = "" if method == "as it is" else f"{method}, "
            run["methods"][f"{start}offsets for worst class by all folds"] = softmax(moved)
            run["offsets"][method] = {"offsets": point.offsets, "patients": len(np.unique(units))}


def log_of(probabilities: np.ndarray) -> np.ndarray:
    """Their logarithm, finite."""
    return np.log(np.clip(probabilities, 1e-12, 1))


def of_sets(folds: list[dict[str, Any]], groups: np.ndarray) -> dict[str, Any]:
    """Coverage and mean size of the sets, by class and by class and site, over all folds."""
    asked = max(set.intersection(*(set(one["sets"]) for one in folds)))
    sets = np.concatenate([one["sets"][asked] for one in folds])
    labels = np.concatenate([one["labels"] for one in folds])
    sites = np.concatenate([one["sites"] for one in folds])
    covered = sets[np.arange(len(labels)), labels].astype(float)
    found: dict[str, Any] = {}
    for label, name in enumerate(folds[0]["classes"]):
        for site in ("", *sorted(set(sites[labels == label]) - {""})):
            mine = (labels == label) & ((sites == site) if site else True)
            found[f"{name}, {site}" if site else name] = {
                "coverage": share_estimate(
                    covered[mine], np.unique(groups[mine], return_inverse=True)[1]
                ).to_dict(),
                "mean_size": float(sets[mine].sum(axis=1).mean()),
                "patients": len(np.unique(groups[mine])),
            }
    units = [one["calibration_units"] for one in folds]
    return {"asked": asked, "calibration_units_of_each_fold_and_class": units, "found": found}


def logits_by(layer: LastLayer, session: Session) -> np.ndarray:
    """(N, K) of a session's images by another last layer."""
    return session.outputs[1] @ layer.weight.T + layer.bias


def classes_of(session: Session) -> np.ndarray:
    """(N,) class of each image."""
    return np.array(session.data.classes)[session.data.labels]


def sites_of(session: Session) -> np.ndarray:
    """(N,) class and, where known, site of each image."""
    shown = session.data.patients
    sites = shown.sites if shown is not None and shown.sites is not None else None
    labels = classes_of(session)
    if sites is None:
        return labels
    return np.array(
        [f"{a}, {b}" if a == "glioma" and b else a for a, b in zip(labels, sites, strict=True)]
    )


def accuracy(probabilities: np.ndarray, session: Session) -> float:
    """Share that is right."""
    return float((probabilities.argmax(axis=1) == session.data.labels).mean())


def of_network(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Every method over all folds: metrics with intervals, and the differences to none."""
    labels = np.concatenate([one["labels"] for one in folds])
    sites = np.concatenate([one["sites"] for one in folds])
    shift, units = 0, []
    for one in folds:  # patients of other folds are others
        units.append(one["units"] + shift)
        shift += int(one["units"].max()) + 1
    groups = np.concatenate(units)
    by_method: dict[str, dict[str, np.ndarray]] = {}
    weights = np.concatenate(list(resampled_weights(groups, RESAMPLES, 0)))
    weights = np.concatenate([np.ones((1, len(labels))), weights])
    for method in folds[0]["methods"]:
        probabilities = np.concatenate([one["methods"][method] for one in folds])
        by_method[method] = metrics(labels, probabilities, sites, weights)
    plain = by_method["as it is"]
    sets = {"sets": of_sets(folds, groups)} if "sets" in folds[0] else {}
    return {
        "images": len(labels),
        **sets,
        "methods": {
            method: {
                name: {
                    **shown(values),
                    "minus_none": shown(values - plain[name]) if method != "as it is" else None,
                }
                for name, values in found.items()
            }
            for method, found in by_method.items()
        },
    }


def shown(values: np.ndarray) -> dict[str, float]:
    """Value and interval: the first is of the images themselves, the rest of the resamples."""
    low, high = percentile_interval(values[1:])
    return {"value": float(values[0]), "low": low, "high": high}


def metrics(
    labels: np.ndarray, probabilities: np.ndarray, sites: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """(B,) of each metric; classes in the order glioma, meningioma, notumor, pituitary."""
    answer = probabilities.argmax(axis=1)
    right = (answer == labels).astype(float)
    recall, f1 = [], []
    for label in range(probabilities.shape[1]):
        mine = labels == label
        hit = weights[:, mine] @ right[mine]
        recall.append(hit / weights[:, mine].sum(axis=1))
        f1.append(
            2 * hit / (weights[:, mine].sum(axis=1) + weights[:, answer == label].sum(axis=1))
        )
    rare = (labels == 0) & (sites == "digits")
    return {
        "accuracy": weights @ right / weights.sum(axis=1),
        "macro_f1": np.mean(f1, axis=0),
        "glioma_recall": recall[0],
        "meningioma_recall": recall[1],
        "notumor_recall": recall[2],
        "pituitary_recall": recall[3],
        "tumors_alone": weights[:, labels != 2]
        @ right[labels != 2]
        / weights[:, labels != 2].sum(axis=1),
        "gap_glioma_meningioma": np.abs(recall[0] - recall[1]),
        "worst_class_recall": np.min(recall, axis=0),
        "glioma_recall_of_the_rare_site": weights[:, rare]
        @ right[rare]
        / weights[:, rare].sum(axis=1),
        "ece": expected_calibration_error(labels, probabilities, weights),
    }


if __name__ == "__main__":
    main()
