"""How much of the public set's Testing is in Training, and what that does to published scores.

    python experiments/leak.py ../shared/data/brain-tumor-mri \
        ../shared/data/annotations_training.csv [results/official/*-predictions.csv.gz]

Writes results/audit/leak.json: shares by class and kind of copy; for each predictions file the
scores of all test images, of those without a byte-identical copy, and of those that show no image
of Training, by two counts: the audit's, and the data set's own description's (same slice of the
Cheng set, or byte-identical), which knows less of notumor.
"""

import csv
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from tumorlens.audit.audit import DUPLICATE_TYPES, Audit, audit
from tumorlens.evaluation.predictions import read
from tumorlens.evaluation.scores import score
from tumorlens.files import write_json
from tumorlens.studies.run import code, machine

RESULT = Path(__file__).parents[1] / "results" / "audit" / "leak.json"
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def described(found: Audit, slices: dict[str, str]) -> dict[str, str]:
    """Test images by the description: "same slice", or "other byte-identical"."""
    kinds: dict[str, str] = {}
    pairs = found.pairs
    exact = pairs.exact.tolist()
    for at in np.flatnonzero(found.across):
        one, other = int(pairs.first[at]), int(pairs.second[at])
        image, duplicate = (one, other) if found.splits[one] == "test" else (other, one)
        if slices.get(found.paths[duplicate]):
            kinds[found.paths[image]] = "same slice"
        elif exact[at]:
            kinds.setdefault(found.paths[image], "other byte-identical")
    return kinds


def scored(path: Path, near: set[str], exact: set[str], groups: dict[str, int]) -> dict:
    predictions = read(path)
    named = {path: str(group) for path, group in groups.items()}
    duplicates = ["exact" if p in exact else "near" if p in near else "" for p in predictions.paths]
    found = score(replace(predictions.grouped(named), duplicates=np.array(duplicates)))
    wanted = (*METRICS, *(f"recall_{name}" for name in predictions.classes))
    subsets = {
        "all": found.all,
        "without_byte_identical": found.without_exact_duplicates,
        "showing_no_picture_of_training": found.without_near_duplicates,
    }
    record = {}
    for name, subset in subsets.items():
        assert subset is not None
        record[name] = {
            "n": subset.n,
            "support": subset.support,
            # The interval first: where few images are left, it is all that can be said.
            "metrics": {
                key: {
                    "interval_95": [
                        round(subset.metrics[key].low, 4),
                        round(subset.metrics[key].high, 4),
                    ],
                    "value": round(subset.metrics[key].value, 4),
                    "n": subset.metrics[key].n,
                }
                for key in wanted
            },
        }
    record["copies_flatter_by"] = {
        key: {
            "interval_95": [
                round(found.leakage_inflation[key].low, 4),
                round(found.leakage_inflation[key].high, 4),
            ],
            "value": round(found.leakage_inflation[key].value, 4),
        }
        for key in wanted
    }
    return record


def main(root: Path, annotations: Path, predictions: list[Path]) -> None:
    began = time.perf_counter()
    with annotations.open(newline="") as file:
        slices = {row["path"]: row["slice"] for row in csv.DictReader(file)}
    found = audit(root)
    ((part, _, duplicates),) = found.leaks()
    by_description = described(found, slices)
    label_of = dict(zip(found.paths, found.labels.tolist(), strict=True))
    kinds = dict(
        zip(
            (found.paths[index] for index in duplicates.image),
            found.kinds[duplicates.pair].tolist(),
            strict=True,
        )
    )
    exact = {path for path, kind in kinds.items() if kind == "exact"}
    groups = dict(zip(found.paths, found.groups.tolist(), strict=True))
    models = {}
    for path in predictions:
        models[path.name.removesuffix("-predictions.csv.gz")] = {
            "by_the_audit": scored(path, set(kinds), exact, groups),
            "by_the_description": scored(path, set(by_description), exact, groups),
        }
    write_json(
        RESULT,
        {
            "command": "python experiments/leak.py ../shared/data/brain-tumor-mri "
            "../shared/data/annotations_training.csv results/official/*-predictions.csv.gz",
            "machine": machine(),
            **code(),
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "runs": 1,
            "kinds": list(DUPLICATE_TYPES),
            "all": found.leak_counts(found.splits == part, duplicates),
            "by_class": found.leak_table(part, duplicates),
            "by_the_description": {
                kind: dict(
                    Counter(label_of[path] for path, its in by_description.items() if its == kind)
                )
                for kind in ("same slice", "other byte-identical")
            },
            "conflicting_labels": found.to_dict()["conflicts"],
            "intervals": "95%, percentile bootstrap over groups of copies, 2,000 resamples, seed 0",
            "models": models,
        },
    )
    record = json.loads(RESULT.read_text())
    print(json.dumps({key: record[key] for key in ("all", "by_the_description")}, indent=1))
    for name, both in models.items():
        for count, subsets in both.items():
            for subset in ("all", "without_byte_identical", "showing_no_picture_of_training"):
                one = subsets[subset]
                print(name, count, subset, one["n"], one["metrics"]["accuracy"])


if __name__ == "__main__":
    if len(sys.argv) >= 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    else:  # `make bench` runs all benchmarks, and not everybody has the data
        print(__doc__)
