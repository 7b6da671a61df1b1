"""Class-wise recall in each run of patients: is a class missed, or are some patients missed?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.run_files import RunFiles
from tumorlens.output_folder import csv_text


@dataclass(frozen=True)
class RecallByRun:
    """How many images of a class and a run of patients a network has right.

    Attributes:
        model: name of the network.
        run: of the splits file, not of training.
        label: class.
        images: scored, those of every seed counted.
        right: of them.
    """

    model: str
    run: str
    label: str
    images: int
    right: int

    @property
    def recall(self) -> float:
        """0..1."""
        return self.right / self.images


def by_run(runs: Sequence[RunFiles], answers: Mapping[str, Predictions]) -> tuple[RecallByRun, ...]:
    """Each network's recall by run of patients and class; empty where the runs are not known.

    Args:
        runs: finished ones; those of the official protocol have no runs of patients.
        answers: of each, by name.
    """
    counts: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for one in runs:
        found = answers[one.name]
        predicted = found.probabilities.argmax(axis=1)
        for run, label, said in zip(found.runs or (), found.labels, predicted, strict=False):
            if run:
                counts[one.model, run, found.classes[label]].append(bool(label == said))
    return tuple(
        RecallByRun(model, run, label, len(right), sum(right))
        for (model, run, label), right in sorted(counts.items())
    )


def by_run_csv(found: Sequence[RecallByRun]) -> str:
    """One row a network, run and class."""
    header = ["model", "run", "class", "images", "right", "recall"]
    rows = [
        [one.model, one.run, one.label, one.images, one.right, f"{one.recall:.6f}"] for one in found
    ]
    return csv_text(header, rows)
