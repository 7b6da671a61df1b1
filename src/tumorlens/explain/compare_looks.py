"""Two networks on the same images: whose maps fit the tumors better, and who looks astray more."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import Estimate, estimates, primitives
from tumorlens.explain.localization import (
    LOOKING,
    RATIOS,
    SPREAD,
    Localization,
    Row,
    column,
    subsets,
)

_TITLES = {"resnet18": "ResNet18", "se_resnet18": "SE-ResNet18"}


def compare(
    first: Localization, second: Localization, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Paired differences, second minus first, over the images that both explained.

    Returns:
        JSON primitives: `minuend`, `subtrahend` (names of the networks), `n`, `localization` and
        `looking` (subset to figure to value, low, high, n) and `sentence`.

    Raises:
        TumorlensError: they share no image with a box.
    """
    after, before = (_by_path(one.rows) for one in (second, first))
    shared = [path for path in before if path in after]
    boxed = [path for path in shared if before[path]["box_area_share"] is not None]
    if not boxed:
        raise TumorlensError(
            "--compare: the two checkpoints share no image with a box; compare networks with the "
            "same split."
        )
    # Right and wrong are each network's own; they do not pair.
    inside = {
        name: mask
        for name, mask in subsets([before[path] for path in boxed]).items()
        if name not in ("right", "wrong")
    }
    names = ["energy_in_box", "pointing_game", "average_precision"]
    if all(rows[boxed[0]]["iou"] is not None for rows in (before, after)):
        names.append("iou")
    columns = {
        name: column([after[path] for path in boxed], name)
        - column([before[path] for path in boxed], name)
        for name in names
    }
    # The box is the same in both, so that the gap of the ratios is the ratio of the gap.
    columns["box_area_share"] = column([before[path] for path in boxed], "box_area_share")
    found = estimates(
        columns,
        inside,
        _groups([before[path] for path in boxed]),
        ratios=RATIOS,
        resamples=resamples,
        seed=seed,
    )
    for figures in found.values():
        del figures["box_area_share"]
    labels = np.array([before[path]["label"] for path in shared])
    looking = estimates(
        {
            name: column([after[path] for path in shared], name)
            - column([before[path] for path in shared], name)
            for name in (*LOOKING, *SPREAD)
        },
        {"all": np.ones(len(shared), dtype=bool)}
        | {str(name): labels == name for name in np.unique(labels)},
        _groups([before[path] for path in shared]),
        resamples=resamples,
        seed=seed,
    )
    return {
        "minuend": second.name,
        "subtrahend": first.name,
        "n": len(boxed),
        "sentence": sentence(first.name, second.name, found["all"]["energy_in_box"]),
        "localization": primitives(found),
        "looking": primitives(looking),
    }


def sentence(first: str, second: str, gain: Estimate) -> str:
    """Whether one network localises better, by the energy in the box; SE-ResNet18 is the subject.

    Args:
        first, second: names of the networks.
        gain: of the second over the first, paired.
    """
    value, low, high = gain.value, gain.low, gain.high
    subject, other = second, first
    if first == "se_resnet18" != second:
        value, low, high = -gain.value, -gain.high, -gain.low
        subject, other = first, second
    titles = [_TITLES.get(name, name) for name in (subject, other)]
    if titles[0] == titles[1]:
        titles = [f"the second {titles[0]}", f"the first {titles[1]}"]
    does = "does" if low > 0 else "does not"
    worse = "; it localises worse" if high < 0 else ""
    text = (
        f"{titles[0]} {does} localise better than {titles[1]}{worse} (energy in the box "
        f"{value:+.3f}, 95% {low:+.3f} to {high:+.3f}, n = {gain.n})."
    )
    return text[0].upper() + text[1:]


def _by_path(rows: Sequence[Row]) -> dict[str, Row]:
    return {row["path"]: row for row in rows}


def _groups(rows: Sequence[Row]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array([row["group"] for row in rows], dtype=np.int64)
