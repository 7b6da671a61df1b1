"""Who gains when the validation run trains too: those beside it in order of acquisition, or all?

    python benchmarks/gain_beside_neighbour.py

Of each fold run that results/study (the validation run chooses the epoch) and
results/study_train_on_valid (it trains) both have: tumor recall of every run of patients in both,
averaged over networks and seeds, and, for runs beside the one that was added, the gain by fifths of
their slices from that border. Writes results/patients/gain_beside_neighbour.json.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from neighbouring_slices import order
from tumorlens.data.public_folds import FOLDS
from tumorlens.comparison.run_files import RunFiles, read_study
from tumorlens.files import write_json

ROOT = Path(__file__).parents[1]
WITHOUT, WITH = ROOT / "results" / "study", ROOT / "results" / "study_train_on_valid"
TUMORS = ("glioma", "meningioma", "pituitary")
PARTS = 5


def right(run: RunFiles) -> dict[str, bool]:
    """Path of each image to whether its answer is right."""
    answers = run.predictions()
    hits = answers.probabilities.argmax(axis=1) == answers.labels
    return dict(zip(answers.paths, map(bool, hits), strict=True))


def mean(values: list[Any]) -> list[float]:
    """Of pairs (without, with)."""
    return [round(float(value), 4) for value in np.mean(values, axis=0)]


def main() -> None:
    """Measure, and write the file."""
    places = order()
    last: dict[str, int] = defaultdict(int)
    for name, place in places.values():
        last[name] = max(last[name], place)
    before = {run.name: run for run in read_study(WITHOUT)}
    pairs = [(before[run.name], run) for run in read_study(WITH) if run.name in before]
    answers: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    fifths: dict[str, list[list[int]]] = {label: [[] for _ in range(PARTS)] for label in TUMORS}
    beside: set[str] = set()
    for without, added in pairs:
        assert added.fold is not None
        chosen = (added.fold + 1) % FOLDS  # the run of patients that validates, or trains
        first, second = right(without), right(added)
        assert first.keys() == second.keys()
        for path in first.keys() & places.keys():
            name, place = places[path]
            answers[name].append((first[path], second[path]))
            label, run = name.split("-run")
            if int(run) + 1 == chosen:
                beside.add(name)
                away = PARTS * (last[name] - place) // (last[name] + 1)
                fifths[label][away].append(second[path] - first[path])
    recalls = {name: mean(values) for name, values in sorted(answers.items())}
    found = {
        label: {
            "beside": mean([recalls[name] for name in beside if name.startswith(label)]),
            "elsewhere": mean(
                [recalls[name] for name in recalls.keys() - beside if name.startswith(label)]
            ),
            "gain_by_fifths_from_the_border": [
                round(float(np.mean(values)), 4) for values in fifths[label]
            ],
            "answers_by_fifth": [len(values) for values in fifths[label]],
        }
        for label in TUMORS
    }
    print(json.dumps(found, indent=1))
    write_json(
        ROOT / "results" / "patients" / "gain_beside_neighbour.json",
        {
            "command": "python benchmarks/gain_beside_neighbour.py",
            "pairs_of_runs": [run.name for _, run in pairs],
            "without_and_with": found,
            "recall_by_run_without_and_with": recalls,
            "machine": facts(),
        },
    )


if __name__ == "__main__":
    main()
