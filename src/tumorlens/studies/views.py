"""The ways that a study's report looks at its runs, and what each shows of a network."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.predictions import Predictions

Keep = Callable[[Predictions], npt.NDArray[np.bool_] | None]

FIGURES = (
    "accuracy",
    "macro_f1",
    "balanced_accuracy",
    "recall_glioma",
    "recall_meningioma",
    "recall_notumor",
    "recall_pituitary",
    "tumor_accuracy",
    "glioma->meningioma",
    "meningioma->glioma",
)
# Where the network looks, over all boxed images; docs/method.md says what they mean.
LOOKS = ("energy_in_box", "energy_over_chance", "pointing_game", "average_precision")
# The study that published its notebook with these figures, on Testing, one run each.
PUBLISHED = {
    "resnet18": {
        "accuracy": 0.8940,
        "macro_f1": 0.8867,
        "recall_glioma": 0.7233,
        "recall_meningioma": 0.8497,
    },
    "se_resnet18": {
        "accuracy": 0.8955,
        "macro_f1": 0.8941,
        "recall_glioma": 0.8400,
        "recall_meningioma": 0.9118,
    },
}


@dataclass(frozen=True)
class View:
    """One way to look at one protocol's runs.

    Attributes:
        name: of the view, for files.
        protocol: whose runs.
        what: in words.
        keep: which of a run's images count; None from it: the run cannot tell.
    """

    name: str
    protocol: str
    what: str
    keep: Keep


@dataclass(frozen=True)
class Seen:
    """What a view shows of one network.

    Attributes:
        view, model: whose.
        runs, seeds, folds: how many.
        images: that are scored, over all folds.
        figures: mean over runs with its 95% interval over images and seeds; `n` images.
        values: of each figure, run by run.
    """

    view: View
    model: str
    runs: int
    seeds: int
    folds: int
    images: int
    figures: dict[str, Estimate]
    values: dict[str, tuple[float, ...]]

    def std(self, name: str) -> float | None:
        """Standard deviation of a figure over the runs; None with one run."""
        values = self.values[name]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def views() -> list[View]:
    """Every way that the report looks at the runs."""

    def everything(answers: Predictions) -> npt.NDArray[np.bool_]:
        return np.ones(len(answers.paths), dtype=bool)

    def no_same_bytes(answers: Predictions) -> npt.NDArray[np.bool_] | None:
        return None if answers.copies is None else answers.copies != "exact"

    def no_copies(answers: Predictions) -> npt.NDArray[np.bool_] | None:
        return None if answers.copies is None else answers.copies == ""

    def one_of_each_group(answers: Predictions) -> npt.NDArray[np.bool_] | None:
        if answers.groups is None:
            return None
        groups = answers.group_indices()
        order = np.argsort(np.array(answers.paths))
        first = order[np.unique(groups[order], return_index=True)[1]]
        return np.isin(np.arange(len(groups)), first)

    return [
        View("official", "official", "official, all test images", everything),
        View(
            "official_without_same_bytes",
            "official",
            "official, without test images whose bytes are in the training images",
            no_same_bytes,
        ),
        View(
            "official_without_copies",
            "official",
            "official, without test images that have a near-duplicate in training",
            no_copies,
        ),
        View("patients", "patients", "unseen patients (five folds), all test images", everything),
        View(
            "patients_one_a_group",
            "patients",
            "unseen patients, one image of each near-duplicate group",
            one_of_each_group,
        ),
        View("folds", "folds", "folds of the splits file, all test images", everything),
    ]
