"""Does something that is no anatomy tell the classes apart?

A network takes whatever predicts the label: the scanner's image size, the colour mode that one
website saves in. Each such property of the files is given to a decision stump (one question, two
answers), and what the display decides, brightness, extent and sharpness together, to a small tree;
how well it predicts the class of images it was not fitted on says how much of a shortcut there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import ImageFacts, placement

_FOLDS = 5
_DISPLAY = ("brightness", "extent", "sharpness")
_UNITS = {
    "border": "mean grey",
    "brightness": "mean grey",
    "extent": "of the square",
    "sharpness": "of the mean grey",
}
_DEEPEST = 4  # questions that the tree asks of an image
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
    """How well one property of the files predicts the class."""

    # "format", "colour mode", "width", "height", "orientation", "border", "brightness", "extent",
    # "sharpness" (see `display_of`), or "display", these three
    property: str
    # cross-validated balanced accuracy (mean recall over classes), near-duplicates kept together
    score: float
    # low, high: its 95% interval (normal, groups counted as one)
    low: float
    high: float
    # 1 / number of classes. One question has two answers, so two classes at most can be separated:
    # the best score possible, but of "display", is twice this.
    chance: float
    above_chance: bool  # whether the score is clearly above chance
    # the stump fitted on all images; empty where the property is the same for all, and for
    # "display"
    sides: tuple[Side, ...]


def shortcuts(
    images: npt.NDArray[np.uint8],
    facts: Sequence[ImageFacts],
    labels: Indices,
    classes: Sequence[str],
    groups: Indices,
) -> tuple[Shortcut, ...]:
    """Ask of each property of the files whether it predicts the class; the highest score first.

    Args:
        images: (N, S, S) uint8, `readers.fit_square`.
        labels: (N,) indices into the K `classes`, K at least 2.
        groups: (N,) images that show one image, or one patient, are in one group.
    """
    size = images.shape[-1]
    landscape = np.array([np.sign(fact.width - fact.height) for fact in facts])
    plain = images.view(np.ndarray)  # a memory map makes a costlier object of each image
    borders = [border(image, fact, size) for image, fact in zip(plain, facts, strict=True)]
    columns: dict[str, npt.NDArray[Any]] = {
        "format": np.array([fact.format for fact in facts]),
        "colour mode": np.array([fact.mode for fact in facts]),
        "width": np.array([float(fact.width) for fact in facts]),
        "height": np.array([float(fact.height) for fact in facts]),
        "orientation": np.array(["portrait", "square", "landscape"])[landscape + 1],
        "border": np.array(borders),
    }
    shown = np.array([display_of(image) for image in plain])
    columns |= dict(zip(_DISPLAY, shown.T, strict=True)) | {"display": shown}
    fold = _folds(labels, groups)
    found = [
        _judged(name, values, labels, classes, groups, fold) for name, values in columns.items()
    ]
    return tuple(sorted(found, key=lambda shortcut: -shortcut.score))


def border(image: npt.NDArray[np.uint8], facts: ImageFacts, size: int) -> float:
    """Mean grey, 0..255, of the image's outermost pixels, the square's own padding left out.

    Args:
        image: (size, size) uint8, `readers.fit_square`.
        facts: width and height before EXIF orientation, so either may be the upright image's.
    """
    place = placement(facts.height, facts.width, size)
    inner = image[place.top : place.top + place.height, place.left : place.left + place.width]
    padded = inner.size < image.size
    if padded and image.sum(dtype=np.int64) > inner.sum(dtype=np.int64):  # it was turned upright
        place = placement(facts.width, facts.height, size)
        inner = image[place.top : place.top + place.height, place.left : place.left + place.width]
    ring = np.concatenate([inner[0], inner[-1], inner[1:-1, 0], inner[1:-1, -1]])
    return float(ring.mean())


def display_of(image: npt.NDArray[np.uint8]) -> tuple[float, float, float]:
    """Of a (S, S) image: mean grey, 0..255; share of the square that is not air; sharpness.

    Not air is what is brighter than 12% of the 99th percentile. Sharpness is the mean step between
    neighbouring pixels, as a share of the mean grey.
    """
    grey = image.astype(np.float32)
    mean = float(grey.mean())
    extent = float((grey > 0.12 * np.percentile(grey, 99)).mean())
    steps = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    return mean, extent, float(steps / 2 / max(mean, 1.0))


def _folds(labels: Indices, groups: Indices) -> Indices:
    """(N,) fold of each image: the groups of each class, shuffled, go to the folds in turn."""
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(0).permutation(len(first))
    fold = np.empty(len(first), dtype=np.int64)
    fold[np.lexsort((shuffled, labels[first]))] = np.arange(len(first)) % _FOLDS
    return fold[member]


def _judged(
    name: str,
    values: npt.NDArray[Any],
    labels: Indices,
    classes: Sequence[str],
    groups: Indices,
    fold: Indices,
) -> Shortcut:
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415 - a second

    chance = 1 / len(classes)
    depth = 1 if values.ndim == 1 else _DEEPEST
    stump = DecisionTreeClassifier(max_depth=depth, class_weight="balanced", random_state=0)
    questions, words = _questions(values)
    tree = stump.fit(questions, labels).tree_
    if tree.node_count == 1:
        return Shortcut(name, chance, chance, chance, chance, above_chance=False, sides=())
    low = stump.apply(questions) == tree.children_left[0]
    if len(words):
        word = words[tree.feature[0]]
        answers = f"{name} other than {word}", f"{name} {word}"
    else:
        at = f"{tree.threshold[0]:.4g} {_UNITS.get(name, 'pixels')}"
        answers = f"{name} up to {at}", f"{name} above {at}"
    counted = (np.bincount(labels[inside], minlength=len(classes)) for inside in (low, ~low))
    sides = tuple(
        Side(answer, dict(zip(classes, counts.tolist(), strict=True)))
        for answer, counts in zip(answers, counted, strict=True)
        if depth == 1
    )
    predictions = np.zeros_like(labels)
    for number in range(_FOLDS):
        held = fold == number
        if held.any() and not held.all():
            stump.fit(questions[~held], labels[~held])
            predictions[held] = stump.predict(questions[held])
    recalls, spread = [], 0.0
    for label in range(len(classes)):
        mine = labels == label
        recalls.append(recall := float((predictions[mine] == label).mean()))
        spread += recall * (1 - recall) / len(np.unique(groups[mine]))
    score = float(np.mean(recalls))
    half = 1.96 * spread**0.5 / len(classes)
    above = score - half > chance + _MARGIN
    return Shortcut(name, score, score - half, score + half, chance, above, sides)


def _questions(values: npt.NDArray[Any]) -> tuple[Floats, npt.NDArray[Any]]:
    """(N, Q) columns that a stump may ask about, and the word for each; no words: a measure."""
    if values.dtype.kind == "f":
        return values.reshape(len(values), -1), np.zeros(0)
    found = np.unique(values)
    words = found if len(found) > 2 else found[:1]  # of two, one question asks for both
    return (values[:, None] == words).astype(np.float64), words
