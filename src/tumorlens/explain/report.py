"""The measures of the command gradcam: explain.json, localization.csv and their figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session
from tumorlens.data.readers import read_grey
from tumorlens.errors import TumorlensError
from tumorlens.evaluation import plots
from tumorlens.evaluation.intervals import Estimate, estimates, primitives
from tumorlens.explain import plots as drawing
from tumorlens.explain.faithfulness import of_faithfulness
from tumorlens.explain.gradcam import TITLES
from tumorlens.explain.localization import (
    ATTRIBUTION,
    RATIOS,
    SPREAD,
    Floats,
    Localization,
    Row,
    Scene,
    column,
    groups_of,
    localize,
    subsets,
)
from tumorlens.explain.maps import Way, draw
from tumorlens.explain.regions import Boxes
from tumorlens.explain.sanity import of_agreement, of_sanity
from tumorlens.files import SCHEMA, csv_text, write_json, write_text
from tumorlens.settings import GradcamSettings

# What the measures write; removed before each run, so that a folder tells of one run alone.
FILES = (
    "explain.json",
    "localization.csv",
    "localization.png",
    "attribution.png",
    "gallery.png",
    "faithfulness.png",
    "sanity.png",
    "agreement.png",
)
# Images in each row of the gallery.
_GALLERY = 4
_TITLES = {"resnet18": "ResNet18", "se_resnet18": "SE-ResNet18"}


def measure(
    settings: GradcamSettings,
    sessions: Mapping[str, Session],
    boxes: Boxes | None,
    seeds: Mapping[Path, Checkpoint],
    out_dir: Path,
) -> dict[str, Any]:
    """Take every measure that the settings ask for, and write the files.

    Args:
        settings: of the command.
        sessions: of one or two networks, by name.
        boxes: what --boxes names.
        seeds: what --agree names.
        out_dir: claimed.

    Returns:
        The content of `explain.json`, JSON primitives.

    Raises:
        TumorlensError: no image has a box, or too few are there to measure on.
    """
    content: dict[str, Any] = {"schema": SCHEMA, "networks": list(sessions)}
    way = Way(settings.layer, settings.method, settings.map_size)
    resampling = {"resamples": settings.resamples, "seed": settings.seed}
    found: dict[str, Localization] = {}
    figures: dict[str, Figure] = {}
    if boxes is not None:
        scenes: dict[Path, Scene] = {}
        for name, session in sessions.items():
            found[name] = localize(session, boxes, way, scenes=scenes, **resampling)
        write_text(out_dir / "localization.csv", _table(found))
        root = next(iter(sessions.values())).data.root
        figures = _figures(found, root, boxes, f"{TITLES[way.method]} at {way.layer}")
        content["localization"] = {name: one.metrics for name, one in found.items()}
        content["comparison"] = None
        if len(found) > 1:
            first, second = found.values()
            content["comparison"] = compare(first, second, **resampling)
    if settings.faithfulness or settings.sanity or settings.agree:
        both = settings.faithfulness or settings.sanity  # the seeds are the first's alone
        samples = [
            draw(name, session, way, settings, boxes, found[name].maps if found else None)
            for name, session in list(sessions.items())[: None if both else 1]
        ]
        if settings.faithfulness:
            content["faithfulness"], figures["faithfulness"] = of_faithfulness(samples)
        if settings.sanity:
            content["sanity"], figures["sanity"] = of_sanity(samples)
        if settings.agree:
            content["agreement"], figures["agreement"] = of_agreement(samples[0], seeds)
    for name, figure in figures.items():
        plots.save(figure, out_dir / f"{name}.png", dpi=120 if name == "gallery" else 150)
    write_json(out_dir / "explain.json", content)
    return content


def _table(found: Mapping[str, Localization]) -> str:
    """`localization.csv`: a row an image and network."""
    rows = [
        [name, *(f"{value:.6g}" if isinstance(value, float) else value for value in row.values())]
        for name, one in found.items()
        for row in one.rows
    ]
    header = ["network", *next(iter(found.values())).rows[0]]
    return csv_text(header, [["" if value is None else value for value in row] for row in rows])


def _figures(
    found: Mapping[str, Localization], root: Path, boxes: Boxes, how: str
) -> dict[str, Figure]:
    first = next(iter(found.values()))
    what = f"{how}, {first.metrics['split']} images, maps of the true class"
    return {
        "localization": drawing.fits(
            {name: one.metrics["network"] for name, one in found.items()},
            first.metrics["centre_prior"],
            f"Do the maps lie on the tumors? {what}",
        ),
        "attribution": drawing.looking(
            {name: one.metrics["attribution"] for name, one in found.items()},
            f"Where else do the maps lie? {what}",
        ),
        "gallery": _gallery(found, root, boxes, what),
    }


def _gallery(found: Mapping[str, Localization], root: Path, boxes: Boxes, what: str) -> Figure:
    first = next(iter(found.values()))
    by_path = {
        name: {row["path"]: index for index, row in enumerate(one.rows)}
        for name, one in found.items()
    }
    boxed = [
        row
        for row in first.rows
        if row["box_area_share"] is not None
        and all(row["path"] in places for places in by_path.values())
    ]
    chosen = drawing.ranked(_GALLERY, [row["energy_pointing_game"] for row in boxed])

    def shown(index: int) -> drawing.Found:
        row = boxed[index]
        path = row["path"]
        at = {name: (one, by_path[name][path]) for name, one in found.items()}
        grey = read_grey(root / path)
        return drawing.Found(
            grey=grey,
            outline=boxes.outline(path, *grey.shape),
            words=drawing.words_of(row),
            maps={name: one.maps[place] for name, (one, place) in at.items()},
            energies={
                name: one.rows[place]["energy_pointing_game"] for name, (one, place) in at.items()
            },
            sizes={name: one.size for name, one in found.items()},
        )

    rows = {name: [shown(index) for index in indices] for name, indices in chosen.items()}
    ranks = f"ranked by {first.name}'s energy in the box, {len(boxed)} images" if boxed else ""
    return drawing.gallery(rows, f"{what}, {ranks}")


def compare(
    first: Localization, second: Localization, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Paired differences, second minus first, over the images that both explained.

    Returns:
        JSON primitives: `minuend`, `subtrahend` (names of the networks), `n`, `localization` and
        `attribution` (subset to metric to value, low, high, n) and `sentence`.

    Raises:
        TumorlensError: they share no image with a box.
    """
    after = {row["path"]: row for row in second.rows}
    pairs = [(row, after[row["path"]]) for row in first.rows if row["path"] in after]
    boxed = [pair for pair in pairs if pair[0]["box_area_share"] is not None]
    if not boxed:
        raise TumorlensError(
            "--compare: the two checkpoints share no image with a box; compare networks with the "
            "same split."
        )
    names = ["energy_pointing_game", "pointing_game", "average_precision"]
    if all(row["iou"] is not None for row in boxed[0]):
        names.append("iou")
    before, before_all = ([row for row, _ in some] for some in (boxed, pairs))
    found = estimates(
        # The box is the same in both, so that the gap of the ratios is the ratio of the gap.
        _gaps(boxed, names) | {"box_area_share": column(before, "box_area_share")},
        # Right and wrong are each network's own; they do not pair.
        {name: one for name, one in subsets(before).items() if name not in ("right", "wrong")},
        groups_of(before),
        ratios=RATIOS,
        resamples=resamples,
        seed=seed,
    )
    for metrics in found.values():
        del metrics["box_area_share"]
    labels = np.array([row["label"] for row in before_all])
    looking = estimates(
        _gaps(pairs, (*ATTRIBUTION, *SPREAD)),
        {"all": np.ones(len(pairs), dtype=bool)}
        | {str(name): labels == name for name in np.unique(labels)},
        groups_of(before_all),
        resamples=resamples,
        seed=seed,
    )
    return {
        "minuend": second.name,
        "subtrahend": first.name,
        "n": len(boxed),
        "sentence": sentence(first.name, second.name, found["all"]["energy_pointing_game"]),
        "localization": primitives(found),
        "attribution": primitives(looking),
    }


def _gaps(pairs: Sequence[tuple[Row, Row]], names: Iterable[str]) -> dict[str, Floats]:
    before, after = zip(*pairs, strict=True)
    return {name: column(after, name) - column(before, name) for name in names}


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
