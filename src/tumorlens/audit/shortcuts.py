"""Does something that is no anatomy tell the classes apart?

A network takes whatever predicts the label: the scanner's picture size, the colour mode that one
website saves in. Each such property of the files is given to a decision stump (one question, two
answers); how well it predicts the class of images it was not fitted on says how much of a shortcut
there is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.partition import deal
from tumorlens.data.readers import ImageFacts, placement

_FOLDS = 5
# A stump this far above chance, by the lower end of its interval, is called a shortcut.
_MARGIN = 0.05

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One answer to the stump's question, and how many images of each class give it."""

    answer: str
    counts: dict[str, int]


@dataclass(frozen=True)
class Shortcut:
    """How well one property of the files predicts the class.

    Attributes:
        property: "format", "colour mode", "width", "height", "orientation" or "border".
        score: cross-validated balanced accuracy (mean recall over classes), copies kept together.
        low, high: its 95% interval (normal, groups counted as one).
        chance: 1 / number of classes. One question has two answers, so two classes at most can be
            told: the best score possible is twice this.
        told: whether the score is clearly above chance.
        sides: the stump fitted on all images; empty where the property is the same for all.
    """

    property: str
    score: float
    low: float
    high: float
    chance: float
    told: bool
    sides: tuple[Side, ...]

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        return asdict(self)


def shortcuts(
    images: npt.NDArray[np.uint8],
    facts: Sequence[ImageFacts],
    labels: Indices,
    classes: Sequence[str],
    groups: Indices,
) -> tuple[Shortcut, ...]:
    """Ask of each property of the files whether it predicts the class.

    Args:
        images: (N, S, S) uint8, `readers.fit_square`.
        facts: of N files.
        labels: (N,) indices into `classes`.
        classes: K names, K at least 2.
        groups: (N,) images that show one picture are in one group.

    Returns:
        One for each property, highest score first.
    """
    size = images.shape[-1]
    landscape = np.array([np.sign(fact.width - fact.height) for fact in facts])
    plain = images.view(np.ndarray)  # a memory map makes a costlier object of each picture
    columns: dict[str, npt.NDArray[Any]] = {
        "format": np.array([fact.format for fact in facts]),
        "colour mode": np.array([fact.mode for fact in facts]),
        "width": np.array([float(fact.width) for fact in facts]),
        "height": np.array([float(fact.height) for fact in facts]),
        "orientation": np.array(["portrait", "square", "landscape"])[landscape + 1],
        "border": np.array(
            [border(image, fact, size) for image, fact in zip(plain, facts, strict=True)]
        ),
    }
    fold = deal(labels, groups, [1 / _FOLDS] * _FOLDS, seed=0)
    found = [
        _judged(name, values, labels, classes, groups, fold) for name, values in columns.items()
    ]
    return tuple(sorted(found, key=lambda shortcut: -shortcut.score))


def border(image: npt.NDArray[np.uint8], facts: ImageFacts, size: int) -> float:
    """Mean grey, 0..255, of the picture's outermost pixels, the square's own padding left out.

    Args:
        image: (size, size) uint8, `readers.fit_square`.
        facts: width and height before EXIF orientation, so either may be the upright picture's.
        size: pixels.
    """
    place = placement(facts.height, facts.width, size)
    inner = image[place.top : place.top + place.height, place.left : place.left + place.width]
    padded = inner.size < image.size
    if padded and image.sum(dtype=np.int64) > inner.sum(dtype=np.int64):  # it was turned upright
        place = placement(facts.width, facts.height, size)
        inner = image[place.top : place.top + place.height, place.left : place.left + place.width]
    ring = np.concatenate([inner[0], inner[-1], inner[1:-1, 0], inner[1:-1, -1]])
    return float(ring.mean())


def _judged(
    name: str,
    values: npt.NDArray[Any],
    labels: Indices,
    classes: Sequence[str],
    groups: Indices,
    fold: Indices,
) -> Shortcut:
    chance = 1 / len(classes)
    questions, wording = _questions(name, values)
    if not wording:
        return Shortcut(name, chance, chance, chance, chance, told=False, sides=())
    predictions = np.zeros_like(labels)
    for number in range(_FOLDS):
        held = fold == number
        if held.any() and not held.all():
            stump = _fitted(questions[~held], labels[~held], len(classes))
            predictions[held] = stump.predict(questions[held])
    right = predictions == labels
    recalls, spread = [], 0.0
    for label in range(len(classes)):
        mine = labels == label
        recall = float(right[mine].mean())
        independent = len(np.unique(groups[mine]))
        recalls.append(recall)
        spread += recall * (1 - recall) / independent
    score = float(np.mean(recalls))
    half = 1.96 * spread**0.5 / len(classes)
    stump = _fitted(questions, labels, len(classes))
    low = questions[:, stump.column] <= stump.threshold
    sides = tuple(
        Side(
            answer,
            {label: int((inside & (labels == at)).sum()) for at, label in enumerate(classes)},
        )
        for answer, inside in zip(wording[stump.column](stump.threshold), (low, ~low), strict=True)
    )
    told = score - half > chance + _MARGIN
    return Shortcut(name, score, score - half, score + half, chance, told, sides)


def _questions(name: str, values: npt.NDArray[Any]) -> tuple[Floats, list[Any]]:
    """Columns that a stump may ask about, and for each the wording of its two answers."""
    found = np.unique(values)
    if len(found) < 2:
        return np.zeros((len(values), 0)), []
    if values.dtype.kind == "f":
        unit = "mean grey" if name == "border" else "pixels"
        return values[:, None], [
            lambda at: (f"{name} up to {at:.4g} {unit}", f"{name} above {at:.4g} {unit}")
        ]
    columns = (values[:, None] == found[None, :]).astype(np.float64)
    return columns, [
        lambda _, word=word: (f"{name} other than {word}", f"{name} {word}") for word in found
    ]


@dataclass(frozen=True)
class _Stump:
    """Values up to `threshold` in `column` are of class `low`, others of class `high`."""

    column: int
    threshold: float
    low: int
    high: int

    def predict(self, questions: Floats) -> Indices:
        below = questions[:, self.column] <= self.threshold
        return np.where(below, self.low, self.high)


def _fitted(questions: Floats, labels: Indices, classes: int) -> _Stump:
    """The stump of the highest balanced accuracy (scikit-learn's takes a second to import)."""
    best, found = -1.0, _Stump(0, 0.0, 0, 0)
    share = 1 / np.maximum(1, np.bincount(labels, minlength=classes))
    for column, values in enumerate(questions.T):
        levels, level = np.unique(values, return_inverse=True)
        weights = np.zeros((len(levels), classes))
        np.add.at(weights, (level, labels), share[labels])
        below = np.cumsum(weights, axis=0)  # recall of each class, were it said of all up to here
        above = below[-1] - below
        gain = below.max(axis=1) + above.max(axis=1)
        at = int(gain.argmax())
        if gain[at] > best and len(levels) > 1:
            at = min(at, len(levels) - 2)
            middle = float(levels[at] + levels[at + 1]) / 2
            best = float(gain[at])
            found = _Stump(column, middle, int(below[at].argmax()), int(above[at].argmax()))
    return found
