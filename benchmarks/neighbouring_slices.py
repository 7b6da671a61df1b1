"""Do neighbouring slices share their errors? And groups of them, for intervals that know it.

    python benchmarks/neighbouring_slices.py [STUDY_DIR]
    tumorlens study --report --out_dir STUDY_DIR --groups results/patients/groups.csv

The public set names no patients, but a patient's slices follow one another in the Cheng set, 13 on
average. Of the finished fold runs of STUDY_DIR (default: results/study) with seed 0: how much
likelier is an error where the slice before it is one, than on the whole? Writes
results/patients/groups.csv (path, group: each 13 slices that follow one another in a class and run;
else the copies' group) and results/patients/neighbouring_slices.json.
"""

import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from tumorlens.data.public_folds import public_map
from tumorlens.comparison.run_files import RunFiles, read_study
from tumorlens.files import csv_text, write_json, write_text

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "patients"
# Mean slices of a patient: 3,064 of 233 (Cheng 2017).
BLOCK = 13


def order() -> dict[str, tuple[str, int]]:
    """Path of each image of a known slice to its class and run, and its slice's place in them."""
    known = public_map()
    members = defaultdict(set)
    for slice_, run in zip(known.slices, known.runs, strict=True):
        if slice_ and run >= 0:
            label, index = slice_.split("-")
            members[f"{label}-run{run}"].add(int(index))
    places = {
        (name, index): place
        for name, indices in members.items()
        for place, index in enumerate(sorted(indices))
    }
    found = {}
    for path, slice_, run in zip(known.paths, known.slices, known.runs, strict=True):
        if slice_ and run >= 0:
            label, index = slice_.split("-")
            name = f"{label}-run{run}"
            found[path] = name, places[name, int(index)]
    return found


def write_groups(places: dict[str, tuple[str, int]]) -> None:
    """Blocks of neighbouring slices; where the slice is not known, copies."""
    known = public_map()
    rows = []
    for path, copies in zip(known.paths, known.groups, strict=True):
        name, place = places.get(path, (copies, 0))
        rows.append([path, f"{name}-{place // BLOCK}" if path in places else copies])
    write_text(OUT / "groups.csv", csv_text(["path", "group"], rows))


def errors(run: RunFiles, places: dict[str, tuple[str, int]]) -> dict[str, list[float]]:
    """Class and run of patients to the share of wrong answers to each slice, in their order."""
    found: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    answers = run.predictions()
    wrong = answers.probabilities.argmax(axis=1) != answers.labels
    for path, label, miss in zip(answers.paths, answers.labels, wrong, strict=True):
        if path in places:
            name, place = places[path]
            if name.startswith(answers.classes[label]):
                found[name][place].append(bool(miss))
    return {
        name: [float(np.mean(of_slice[place])) for place in sorted(of_slice)]
        for name, of_slice in found.items()
    }


def dependence(series: list[list[float]]) -> dict[str, Any]:
    """Errors behind errors, in slices that follow one another."""
    every = np.array([value > 0.5 for one in series for value in one])
    behind = np.array(
        [now > 0.5 for one in series for before, now in itertools.pairwise(one) if before > 0.5]
    )
    # The variance of the mean by blocks, over that by single slices (the design effect).
    blocks = [
        (sum(one[at : at + BLOCK]), len(one[at : at + BLOCK]))
        for one in series
        for at in range(0, len(one), BLOCK)
    ]
    share = float(every.mean())
    residuals = np.array([total - count * share for total, count in blocks])
    by_block = float((residuals**2).sum()) / len(every) ** 2
    by_slice = share * (1 - share) / len(every)
    return {
        "slices": len(every),
        "blocks": len(blocks),
        "wrong": round(share, 4),
        "wrong_behind_a_wrong_one": round(float(behind.mean()), 4) if len(behind) else None,
        "design_effect": round(by_block / by_slice, 2) if by_slice else None,
    }


def main(study: Path) -> None:
    """Measure, and write both files."""
    places = order()
    write_groups(places)
    runs = [run for run in read_study(study) if run.protocol == "folds" and run.seed == 0]
    found: dict[str, Any] = {}
    for model in sorted({run.model for run in runs}):
        mine = [errors(run, places) for run in runs if run.model == model]
        found[model] = {
            label: dependence(
                [values for one in mine for name, values in one.items() if name.startswith(label)]
            )
            for label in ("glioma", "meningioma", "pituitary")
        }
    write_json(
        OUT / "neighbouring_slices.json",
        {
            "command": "python benchmarks/neighbouring_slices.py",
            "runs": [run.name for run in runs],
            "block": BLOCK,
            "networks": found,
            "machine": facts(),
        },
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "study")
