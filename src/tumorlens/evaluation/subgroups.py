"""Each class in subgroups of its images: what divides them, metrics, gaps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.dataset import Dataset
from tumorlens.data.patients import NOT_OF_THE_IMAGE
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import (
    Estimate,
    bootstrap,
    difference,
    ece_interval,
    percentile_interval,
    share_estimate,
)
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.significance import holm, permutation_test
from tumorlens.files import SCHEMA, csv_text
from tumorlens.image_tables import read_table, rows_for
from tumorlens.uncertainty.calibration import expected_calibration_error

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]

# Of a subgroup with fewer patients nothing is claimed.
LEAST = 5
# Permutations for each resample: Holm's smallest p of a hundred tests must fall below 0.05.
_PERMUTATIONS = 5
_METRICS = ("recall", "precision", "ece")
# A column with more values has them cut into thirds if they are numbers, else it is left out.
_MOST_VALUES = 12
_EDGES = ("box_x0", "box_y0", "box_x1", "box_y1")
_NOT_ASKED = (*NOT_OF_THE_IMAGE, "examination", *_EDGES)


@dataclass(frozen=True)
class SubgroupRecall:
    """Recall of one class in one subgroup."""

    label: str  # the class
    subgroup: str  # the column's value
    recall: Estimate  # with its 95% interval; `n` images
    patients: int  # how many are known among them
    groups: int  # groups of near-duplicates among the images whose patient is not known

    @property
    def enough(self) -> bool:
        """Whether something may be claimed of it."""
        return self.patients + self.groups >= LEAST

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return _primitives(self)


@dataclass(frozen=True)
class SubgroupScores(SubgroupRecall):
    """All metrics of one class in one subgroup."""

    column: str  # what divides the images, such as "site"
    precision: Estimate  # of the subgroup's images that are predicted to be of the class
    ece: Estimate  # expected calibration error of the class's images, 0..1
    # that its recall differs from that of the class's other subgroups by chance; None: not tested
    p: float | None = None
    p_holm: float | None = None  # the same after Holm's correction for all tests

    @property
    def significant(self) -> bool:
        """Whether its recall differs by more than chance."""
        return self.p_holm is not None and self.p_holm < 0.05


@dataclass(frozen=True)
class Gap:
    """How far the subgroups of one column lie apart within a class."""

    # column, label: which
    column: str
    label: str
    # best, worst: of those with enough patients, the subgroups of the largest and the smallest
    # recall
    best: str
    worst: str
    # recall of `best` minus that of `worst`, the equal opportunity difference (Hardt et al. 2016).
    difference: Estimate
    # share of the class's misses that would go if each subgroup had the recall of the best: (best -
    # recall) / (1 - recall), the population attributable fraction (Levin 1953). NaN: nothing is
    # missed.
    explained: Estimate
    explained_by_chance: float  # the mean where images have their subgroups at random

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return _primitives(self)


@dataclass(frozen=True)
class Subgroups:
    """Every class in every subgroup."""

    rows: tuple[SubgroupScores, ...] = ()  # by column, then class, then name
    # of each column and class with two subgroups that have enough patients
    gaps: tuple[Gap, ...] = ()
    tests: int = 0  # how many Holm's correction counts

    @property
    def worst(self) -> SubgroupScores | None:
        """The smallest recall that was tested; None: there is none."""
        tested = [one for one in self.rows if one.p is not None]
        return min(tested, key=lambda one: one.recall.value, default=None)

    @property
    def largest_gap(self) -> Gap | None:
        """The largest equal opportunity difference."""
        return max(self.gaps, key=lambda one: one.difference.value, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As subgroups.json has them."""
        worst, largest = self.worst, self.largest_gap
        return {
            "schema": SCHEMA,
            "least_patients": LEAST,
            "tests": self.tests,
            "worst": worst.to_dict() if worst else None,
            "largest_gap": largest.to_dict() if largest else None,
            "rows": [one.to_dict() for one in self.rows],
            "gaps": [one.to_dict() for one in self.gaps],
        }

    def table(self) -> str:
        """As CSV, a row for each class and subgroup."""
        ends = [f"{name}{end}" for name in _METRICS for end in ("", "_low", "_high")]
        header = ["column", "subgroup", "class", "images", "patients", "groups", *ends, "p_holm"]
        rows = []
        for one in self.rows:
            estimates = [getattr(one, name) for name in _METRICS]
            cells = [cell for each in estimates for cell in (each.value, each.low, each.high)]
            known = [
                "" if cell is None or np.isnan(cell) else cell for cell in (*cells, one.p_holm)
            ]
            counts = one.recall.n, one.patients, one.groups
            rows.append([one.column, one.subgroup, one.label, *counts, *known])
        return csv_text(header, rows)


def _primitives(one: SubgroupRecall | Gap) -> dict[str, Any]:
    return {"class" if name == "label" else name: value for name, value in asdict(one).items()}


def recall_by(
    predictions: Predictions,
    subgroups: Sequence[str] | Names | None,
    *,
    hits: Floats | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[SubgroupRecall, ...]:
    """Recall of each class in each subgroup that has images of it, by class, then by name.

    Args:
        subgroups: (N,) name of each image's; "" belongs to none. None: not known.
        hits: (N,) share of several networks that are right of each image; None: whether the
            predictions are.
        resamples, seed: of the intervals, over patients where they are known.
    """
    if subgroups is None:
        return ()
    names = np.array(subgroups)
    if hits is None:
        hits = (predictions.predicted == predictions.labels).astype(np.float64)
    found = []
    for index, label in enumerate(predictions.classes):
        for name in sorted(set(names.tolist()) - {""}):
            inside = np.flatnonzero((predictions.labels == index) & (names == name))
            if not len(inside):
                continue
            part = predictions.only(inside)
            recall = share_estimate(hits[inside], part.units, resamples=resamples, seed=seed)
            found.append(SubgroupRecall(label, name, recall, *part.unit_counts))
    return tuple(found)


def score_subgroups(
    predictions: Predictions, columns: Mapping[str, Names], *, resamples: int = 2000, seed: int = 0
) -> Subgroups:
    """Each class in each subgroup, and whether its recall differs from that in the others.

    `columns` has the (N,) name of each image's subgroup by column, "" for none.
    """
    rows: list[SubgroupScores] = []
    gaps: list[Gap] = []
    tests: dict[tuple[str, str, str], float] = {}
    for column, names in columns.items():
        recalls = recall_by(predictions, names, resamples=resamples, seed=seed)
        rows += [_scored(one, column, names, predictions, resamples, seed) for one in recalls]
        for label in predictions.classes:
            asked = {
                one.subgroup: one.recall for one in recalls if one.label == label and one.enough
            }
            if len(asked) < 2:
                continue
            gap, p = _compared(predictions, (column, label), names, asked, resamples, seed)
            gaps.append(gap)
            # Of two subgroups each is the other's rest, and both are one test.
            of_each = dict(zip(asked, p, strict=True)) if len(p) > 2 else {"": p[0]}
            tests |= {(column, label, name): value for name, value in of_each.items()}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    for place, one in enumerate(rows):
        key = (one.column, one.label, one.subgroup)
        key = key if key in tests else (*key[:2], "")
        if one.enough and key in tests:
            rows[place] = replace(one, p=tests[key], p_holm=adjusted[key])
    return Subgroups(tuple(rows), tuple(gaps), len(tests))


def _scored(
    one: SubgroupRecall, column: str, names: Names, shown: Predictions, resamples: int, seed: int
) -> SubgroupScores:
    label, inside = shown.classes.index(one.label), names == one.subgroup
    own = shown.only(inside & (shown.labels == label))
    named = shown.only(inside & (shown.predicted == label))
    precision = Estimate(np.nan, np.nan, np.nan, 0)
    if len(named.labels):
        right = (named.labels == label).astype(np.float64)
        precision = share_estimate(right, named.units, resamples=resamples, seed=seed)
    of = own.labels, own.probabilities
    value = float(expected_calibration_error(*of)[0])
    drawn = bootstrap(
        lambda weights: {"": expected_calibration_error(*of, weights)}, own.units, resamples, seed
    )
    ece = Estimate(value, *ece_interval(value, drawn[""]), len(own.labels))
    return SubgroupScores(**vars(one), column=column, precision=precision, ece=ece)


def _compared(
    predictions: Predictions,
    of: tuple[str, str],
    names: Names,
    asked: Mapping[str, Estimate],
    resamples: int,
    seed: int,
) -> tuple[Gap, list[float]]:
    """A class in its subgroups with enough patients: how far apart, and p of each.

    `of`: column and class; `names`: (N,) subgroup of each image; `asked`: recall by subgroup.
    """
    mine = predictions.labels == predictions.classes.index(of[1])
    mine &= np.isin(names, list(asked))
    part = predictions.only(mine)
    units, hits = part.units, (part.predicted == part.labels) * 1.0
    inside = (names[mine, None] == np.array(list(asked))) * 1.0
    order = sorted(asked, key=lambda name: asked[name].value)
    worst, best = (list(asked).index(name) for name in (order[0], order[-1]))

    def of_resamples(weights: Floats) -> dict[str, Floats]:
        recalls = (weights * hits) @ inside / (weights @ inside)
        whole = weights @ hits / weights.sum(axis=1)
        return {
            "gap": recalls[:, best] - recalls[:, worst],
            "explained": (recalls[:, best] - whole) / (1 - whole),
        }

    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = bootstrap(of_resamples, units, resamples, seed)
        explained = float(of_resamples(np.ones((1, len(hits))))["explained"][0])
        member = inside.argmax(axis=1)
        p, shares = permutation_test(hits, member, units, _PERMUTATIONS * resamples, seed)
        by_chance = float((shares.max(axis=1).mean() - hits.mean()) / (1 - hits.mean()))
    gap = Gap(
        *of,
        best=order[-1],
        worst=order[0],
        difference=difference(asked[order[-1]], asked[order[0]], drawn["gap"], len(hits)),
        explained=Estimate(explained, *percentile_interval(drawn["explained"]), len(hits)),
        explained_by_chance=by_chance,
    )
    return gap, p.tolist()


def subgroup_columns(data: Dataset, file: Path | None) -> tuple[dict[str, Names], str]:
    """What divides the images: columns of `file` and of the patients table, and of the images.

    The images' own: "colour mode" of the file, and "brightness", thirds of the mean grey of the
    square that the network is shown. Boxes in `file` become "tumor size", thirds of their area.

    Returns:
        (N,) name of each image's subgroup by column, "" for none; a sentence of those left out.

    Raises:
        TumorlensError: no such file, nothing of it is of use, or faults of its boxes.
    """
    given = data.patients.properties() if data.patients else {}
    asked = _read(file, data.paths) if file else {}
    found: dict[str, Names] = {}
    if all(edge in asked for edge in _EDGES):
        found["tumor size"] = thirds(_areas(file, [asked[edge].tolist() for edge in _EDGES]))
    raw = {name: values for name, values in (given | asked).items() if name not in _NOT_ASKED}
    divided = {name: _divided(values) for name, values in raw.items() if (values != "").any()}
    found |= {name: values for name, values in divided.items() if values is not None}
    if file and not found.keys() & {"tumor size", *asked}:
        raise TumorlensError(
            f"--subgroups {file}: has no column that divides the images; found "
            f"{', '.join(asked)}; expected columns of at most "
            f"{_MOST_VALUES} values, such as site, columns of numbers, or boxes."
        )
    colours = np.array([_colour(one.mode) for one in data.facts], dtype=np.str_)
    if len(np.unique(colours)) > 1:
        found.setdefault("colour mode", colours)
    found.setdefault("brightness", thirds(data.images.mean(axis=(1, 2))))
    left = [name for name, values in divided.items() if values is None]
    words = f"No subgroups by {', '.join(left)}: more than {_MOST_VALUES} values, no numbers."
    return found, words if left else ""


def _read(file: Path, paths: Sequence[str]) -> dict[str, Names]:
    rows, columns = read_table(file, "--subgroups", ("path",))
    found = rows_for(paths, {row["path"]: row for row in rows}, f"--subgroups {file}")
    return {name: np.array([row.get(name, "") for row in found], dtype=np.str_) for name in columns}


def _colour(mode: str) -> str:
    return "grey" if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;") else "colour"


def _numbers(values: Sequence[str]) -> Floats:
    return np.array([float(one.replace(",", ".")) if one else np.nan for one in values])


def _areas(file: Path | None, edges: Sequence[list[str]]) -> Floats:
    """(N,) share of the image that each box covers; NaN without one."""
    try:
        x0, y0, x1, y1 = map(_numbers, edges)
    except ValueError as error:
        raise TumorlensError(f"--subgroups {file}: a box's edge is no number ({error}).") from None
    return (x1 - x0) * (y1 - y0)


def _divided(values: Names) -> Names | None:
    """Values as names of subgroups, or as thirds of numbers; None: they are neither."""
    if len(set(values) - {""}) <= _MOST_VALUES:
        return values
    try:
        return thirds(_numbers(values.tolist()))
    except ValueError:
        return None


def thirds(values: Floats) -> Names:
    """(N,) numbers to the names of their thirds; "" where it is no number."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(values), "")
    low, high = np.quantile(values[known], [1 / 3, 2 / 3])
    names = [f"third 1, to {low:.3g}", f"third 2, to {high:.3g}", f"third 3, above {high:.3g}", ""]
    which = np.where(known, np.digitize(values, [low, high], right=True), 3)
    return np.array(names)[which]
