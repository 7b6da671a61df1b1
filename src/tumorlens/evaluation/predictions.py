"""What a network answered to each image, as a table that can be read back.

`evaluate` and `study` write it: path, label, prediction, prob_CLASS for each class, and where known
near_duplicate ("", "exact" or "near"), group (near-duplicates), patient and site.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.patients import Patients, PatientTable, units
from tumorlens.errors import TumorlensError
from tumorlens.files import csv_text
from tumorlens.image_tables import read_table

_PROBABILITY = "prob_"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of N images."""

    source: str  # where they come from, for errors and records
    classes: tuple[str, ...]  # K names
    paths: tuple[str, ...]  # (N,) relative to the data folder
    labels: npt.NDArray[np.int64]  # (N,) indices into `classes`
    probabilities: npt.NDArray[np.float64]  # (N, K)
    # (N,) "", "exact" or "near": does training have the image? None: not known
    duplicates: npt.NDArray[np.str_] | None = None
    # (N,) images of one group are near-duplicates; None: not known
    groups: tuple[str, ...] | None = None
    # (N,) whom each image shows, "" for not known; None: of none
    patients: tuple[str, ...] | None = None
    # (N,) where each image was made, "" for not known; None: of none
    sites: tuple[str, ...] | None = None

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(N,) indices into `classes`."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def only(self, keep: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Predictions":
        """The images that `keep` names, by mask or by index, in its order."""
        chosen = np.arange(len(self.paths))[keep]

        def some(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[index] for index in chosen)

        return Predictions(
            self.source,
            self.classes,
            tuple(self.paths[index] for index in chosen),
            self.labels[chosen],
            self.probabilities[chosen],
            None if self.duplicates is None else self.duplicates[chosen],
            some(self.groups),
            some(self.patients),
            some(self.sites),
        )

    def grouped(self, named: Mapping[str, str]) -> "Predictions":
        """The same with the groups of `named`, by path; who is not named there is alone."""
        return replace(self, groups=tuple(named.get(path, f"\0{path}") for path in self.paths))

    def of_patients(self, table: PatientTable) -> "Predictions":
        """The same with patients and sites of a table, which knows images by path."""
        shown = table.of(self.paths, None)
        sites = None if shown.sites is None else tuple(shown.sites.tolist())
        return replace(self, patients=tuple(shown.names.tolist()), sites=sites)

    def with_near_duplicates(self, named: Mapping[str, str]) -> "Predictions":
        """The same with the near-duplicates of `named`, which has every path."""
        return replace(self, duplicates=np.array([named[path] for path in self.paths]))

    def group_indices(self) -> npt.NDArray[np.int64]:
        """(N,) near-duplicate group of each image; each for itself where groups are not known."""
        if self.groups is None:
            return np.arange(len(self.paths))
        return np.unique(np.array(self.groups), return_inverse=True)[1].astype(np.int64)

    @cached_property
    def units(self) -> npt.NDArray[np.int64]:
        """(N,) what is resampled as a whole: patients where known, else groups, else images."""
        shown = Patients("", np.array(self.patients)) if self.patients is not None else None
        return units(self.group_indices(), shown)

    @property
    def unit_counts(self) -> tuple[int, int]:
        """How many of the units are patients, and how many are not."""
        known = np.array(self.patients or ("",) * len(self.paths)) != ""
        patients = len(np.unique(self.units[known]))
        return patients, len(np.unique(self.units)) - patients


def unit_words(every: Iterable[Predictions]) -> str:
    """What is resampled of all these: known patients, else near-duplicate groups, else images."""
    counts = [(*one.unit_counts, len(one.paths)) for one in every]
    patients, groups, images = map(sum, zip(*counts, strict=True))
    if patients and groups:
        return f"{patients} patients and {groups} groups of images whose patient is not known"
    if patients:
        return f"{patients} patients"
    return f"{images} images" if groups == images else f"{groups} groups of near-duplicates"


def near_duplicates_of_any(predictions: Iterable[Predictions]) -> dict[str, str] | None:
    """Path to the closest near-duplicate in any network's training images: "exact", "near" or "".

    Seeds may train on different images; networks are compared on the same ones, so an image that
    one of them has seen is left out for all. None: of one it is not known.
    """
    closeness = ("", "near", "exact")
    found: dict[str, str] = {}
    for one in predictions:
        if one.duplicates is None:
            return None
        for path, copy in zip(one.paths, one.duplicates.tolist(), strict=True):
            found[path] = max(found.get(path, ""), copy, key=closeness.index)
    return found


def absent_caveats(every: Sequence[Predictions]) -> list[str]:
    """What it means for the metrics that there is no image of some classes; empty: there is."""
    classes = every[0].classes
    counts = np.bincount(np.concatenate([one.labels for one in every]), minlength=len(classes))
    absent = np.flatnonzero(counts == 0)
    if not len(absent):
        return []
    predicted = np.concatenate([one.predicted for one in every])
    return [
        f"No image of {' or '.join(classes[index] for index in absent)} is among these: metrics of "
        "such a class have no value, and means over classes are of the others. "
        f"{np.isin(predicted, absent).mean():.1%} of the predictions name such a class; they count "
        "as errors."
    ]


def columns(predictions: Predictions) -> dict[str, list[Any]]:
    """Column to its N values, in the order of the file: text, and float for prob_CLASS."""
    further = {
        "near_duplicate": predictions.duplicates,
        "group": predictions.groups,
        "patient": predictions.patients,
        "site": predictions.sites,
    }
    known = {name: values for name, values in further.items() if values is not None}
    classes = predictions.classes
    return {
        "path": list(predictions.paths),
        "label": [classes[index] for index in predictions.labels],
        "prediction": [classes[index] for index in predictions.predicted],
        **{
            f"{_PROBABILITY}{name}": values
            for name, values in zip(classes, predictions.probabilities.T.tolist(), strict=True)
        },
        **{name: list(map(str, values)) for name, values in known.items()},
    }


def table(predictions: Predictions) -> str:
    """As CSV; probabilities as exact as they are, so that all scores follow from the table."""
    found = columns(predictions)
    return csv_text(list(found), zip(*found.values(), strict=True))


def read(path: Path) -> Predictions:
    """Read such a table.

    Raises:
        TumorlensError: no such file, a column that is missing, a value that is not understood.
    """
    rows, columns = read_table(path, "", ("path", "label"))
    classes = tuple(
        name.removeprefix(_PROBABILITY) for name in columns if name.startswith(_PROBABILITY)
    )
    if len(classes) < 2 or not rows:
        raise TumorlensError(
            f"{path}: expected columns path, label, prob_CLASS for each class and a row for each "
            f"image; found {', '.join(columns) or 'nothing'} and {len(rows)} rows."
        )
    strange = sorted({row["label"] for row in rows} - set(classes))
    if strange:
        raise TumorlensError(f"{path}: the label {strange[0]} has no column prob_{strange[0]}.")
    try:
        probabilities = np.array(
            [[float(row[f"{_PROBABILITY}{name}"]) for name in classes] for row in rows]
        )
    except (TypeError, ValueError) as error:
        raise TumorlensError(f"{path}: a probability is no number ({error}).") from None
    with np.errstate(invalid="ignore"):
        # Earlier versions rounded each to six decimals.
        sound = (probabilities >= 0).all(axis=1) & (abs(probabilities.sum(axis=1) - 1) < 1e-3)
    if not sound.all():
        first = int(np.flatnonzero(~sound)[0])
        raise TumorlensError(
            f"{path}: the probabilities of {rows[first]['path']} are "
            f"{', '.join(map(str, probabilities[first].tolist()))}; expected numbers of 0 or more "
            "with the sum 1."
        )
    highest = probabilities.max(axis=1) - 1e-5
    for row, values, most in zip(rows, probabilities, highest, strict=True):
        named = row.get("prediction")
        if named and (named not in classes or values[classes.index(named)] < most):
            raise TumorlensError(
                f"{path}: the prediction of {row['path']} is {named}, but not its highest "
                "probability; expected the class of the highest."
            )

    def column(name: str) -> tuple[str, ...] | None:
        return tuple(row[name] or "" for row in rows) if name in columns else None

    duplicates = column("near_duplicate") or column("copy_in_training")  # the latter: schema 1
    return Predictions(
        source=path.as_posix(),
        classes=classes,
        paths=tuple(row["path"] for row in rows),
        labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
        probabilities=probabilities,
        duplicates=None if duplicates is None else np.array(duplicates),
        groups=column("group"),
        patients=column("patient"),
        sites=column("site"),
    )
