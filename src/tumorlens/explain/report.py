"""What the command gradcam measures: explain.json, localization.csv and their figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session
from tumorlens.data.readers import read_grey
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.intervals import Estimate, estimates, primitives
from tumorlens.evaluation.plots import save
from tumorlens.explain import overlay, plots
from tumorlens.explain.faithfulness import of_faithfulness
from tumorlens.explain.gradcam import Maps, Sample, Way, maps_of
from tumorlens.explain.localization import (
    ATTRIBUTION,
    METRICS,
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
from tumorlens.explain.regions import Boxes
from tumorlens.explain.sanity import of_agreement, of_sanity
from tumorlens.files import SCHEMA, csv_text, write_json, write_text
from tumorlens.labels import title
from tumorlens.settings import GradcamSettings

FIGURES = ("localization", "attribution", "gallery", "faithfulness", "sanity", "agreement")
# What is measured is written here; removed before each run, so that a folder is of one run alone.
FILES = ("explain.json", "localization.csv", *(f"{name}.png" for name in FIGURES))


def measure(
    settings: GradcamSettings,
    way: Way,
    sessions: Mapping[str, Session],
    boxes: Boxes | None,
    seeds: Mapping[Path, Checkpoint],
    out_dir: Path,
) -> dict[str, Any]:
    """Measure all that the settings ask for, and write the files.

    `seeds` are those of --agree; `out_dir` is claimed. Returns the content of `explain.json`.

    Raises:
        TumorlensError: no image has a box, or too few are there to measure on.
    """
    content: dict[str, Any] = {"schema": SCHEMA, "networks": list(sessions)}
    resampling = {"resamples": settings.resamples, "seed": settings.seed}
    found: dict[str, Localization] = {}
    figures: dict[str, Figure] = {}
    if boxes is not None:
        scenes: dict[Path, Scene] = {}
        for name, session in sessions.items():
            one = localize(session, boxes, way, scenes=scenes, **resampling)
            found[name] = replace(one, name=name)
        content["localization"] = {name: one.metrics for name, one in found.items()}
        content["comparison"] = None
        if len(found) > 1:
            first, second = found.values()
            content["comparison"] = compare(first, second, **resampling)
        rows = [[name, *row.values()] for name, one in found.items() for row in one.rows]
        cells = [[f"{one:.6g}" if isinstance(one, float) else one for one in row] for row in rows]
        header = ["network", *next(iter(found.values())).rows[0]]
        write_text(out_dir / "localization.csv", csv_text(header, cells))
        figures = _figures(found, next(iter(sessions.values())).data.root, boxes, way)
    if settings.faithfulness or settings.sanity or settings.agree:
        # The seeds are the first's alone.
        several = settings.faithfulness or settings.sanity
        samples = [
            _drawn(name, session, way, settings, boxes, found[name].maps if found else None)
            for name, session in list(sessions.items())[: None if several else 1]
        ]
        if settings.faithfulness:
            content["faithfulness"], figures["faithfulness"] = of_faithfulness(samples)
        if settings.sanity:
            content["sanity"], figures["sanity"] = of_sanity(samples)
        if settings.agree:
            content["agreement"], figures["agreement"] = of_agreement(samples[0], seeds)
    for name, figure in figures.items():
        save(figure, out_dir / f"{name}.png", dpi=100 if name == "gallery" else 150)
    write_json(out_dir / "explain.json", content)
    return content


def _drawn(
    name: str,
    session: Session,
    way: Way,
    settings: GradcamSettings,
    boxes: Boxes | None,
    maps: Maps | None,
) -> Sample:
    """Draw a sample; the same for each network of the same split.

    Args:
        settings: `sample`, `seed` and `resamples` count.
        boxes: where there are any, images with a box alone.

    Raises:
        TumorlensError: fewer than two images.
    """
    paths, split = session.data.paths, session.split
    candidates = np.flatnonzero([boxes is None or path in boxes for path in paths])
    which = "" if boxes is None else " with a box"
    rng = np.random.default_rng(settings.seed)
    drawn = np.sort(rng.permutation(candidates)[: settings.sample])
    if len(drawn) < 2:
        raise TumorlensError(
            f"--split {split}: {len(drawn)} image, expected two or more to measure on; name "
            "another split."
        )
    some = session.only(drawn)
    return Sample(
        name=name,
        session=some,
        way=way,
        maps=maps_of(some, way) if maps is None else maps[drawn],
        how=f"{len(drawn)} of {len(candidates)} {split} images{which}, drawn with seed "
        f"{settings.seed}; maps of the true class",
        resamples=settings.resamples,
        seed=settings.seed,
    )


def _figures(
    found: Mapping[str, Localization], root: Path, boxes: Boxes, way: Way
) -> dict[str, Figure]:
    metrics = next(iter(found.values())).metrics
    what = f"{way.title}, {metrics['split']} images"
    fits = {name: one.metrics["network"] for name, one in found.items()}
    lies = {name: one.metrics["attribution"] for name, one in found.items()}
    return {
        "localization": plots.localization(
            fits, metrics["centre_prior"], f"Localization of tumors: {what}"
        ),
        "attribution": plots.attribution(lies, f"Attribution outside tumors: {what}"),
        "gallery": overlay.gallery(_tiles(found, root, boxes), f"Best to worst maps: {what}"),
    }


def _tiles(
    found: Mapping[str, Localization], root: Path, boxes: Boxes
) -> dict[str, list[overlay.Tile]]:
    """Best, median and worst images by the first network's energy-based pointing game."""
    places = [{row["path"]: at for at, row in enumerate(one.rows)} for one in found.values()]
    rows = next(iter(found.values())).rows
    with_box = [
        row
        for row in rows
        if row["box_area_share"] is not None and all(row["path"] in of for of in places)
    ]

    def tile(index: int) -> overlay.Tile:
        path = with_box[index]["path"]
        grey = read_grey(root / path)
        outline = boxes.outline(path, *grey.shape)
        views = []
        for (name, one), of in zip(found.items(), places, strict=True):
            row = one.rows[of[path]]
            views.append(
                overlay.Explained(
                    name=name,
                    map=one.maps[of[path]],
                    size=one.size,
                    target=row["label"],
                    prediction=row["prediction"],
                    probability=row["probability"],
                    target_probability=row["probability_of_label"],
                    note=f"{row['energy_pointing_game']:.0%} of the map in the tumor",
                )
            )
        return overlay.Tile(grey, path, with_box[index]["label"], tuple(views), outline)

    chosen = ranked(
        overlay.tiles_a_row(len(found)), [row["energy_pointing_game"] for row in with_box]
    )
    return {name: [tile(index) for index in indices] for name, indices in chosen.items()}


def ranked(count: int, energies: Sequence[float]) -> dict[str, list[int]]:
    """Which images are best, in the middle and worst, up to `count` each, none twice."""
    order = [int(index) for index in np.argsort(-np.asarray(energies), kind="stable")]
    each = max(1, min(count, len(order) // 3))
    middle = (len(order) - each) // 2
    median = [index for index in order[middle : middle + each] if index not in order[:each]]
    best_to_median = {*order[:each], *median}
    worst = [index for index in order[-each:] if index not in best_to_median]
    return {"best": order[:each], "median": median, "worst": worst}


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
    with_box = [pair for pair in pairs if pair[0]["box_area_share"] is not None]
    if not with_box:
        raise TumorlensError(
            "--compare: the two checkpoints share no image with a box; compare networks with the "
            "same split."
        )
    iou = ("iou",) if all(row["iou"] is not None for row in with_box[0]) else ()
    before, before_all = ([row for row, _ in some] for some in (with_box, pairs))
    found = estimates(
        # The box is the same in both, so that the gap of the ratios is the ratio of the gap.
        _gaps(with_box, (*METRICS, *iou)) | {"box_area_share": column(before, "box_area_share")},
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
    lies = estimates(
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
        "n": len(with_box),
        "sentence": sentence(first.name, second.name, found["all"]["energy_pointing_game"]),
        "localization": primitives(found),
        "attribution": primitives(lies),
    }


def _gaps(pairs: Sequence[tuple[Row, Row]], names: Iterable[str]) -> dict[str, Floats]:
    before, after = zip(*pairs, strict=True)
    return {name: column(after, name) - column(before, name) for name in names}


def sentence(first: str, second: str, gain: Estimate) -> str:
    """Whether one network localises better, by the energy-based pointing game; SE is the subject.

    `gain` is of the second over the first, paired.
    """
    value, low, high = gain.value, gain.low, gain.high
    subject, other = second, first
    if first.startswith("se_") and not second.startswith("se_"):
        value, low, high = -gain.value, -gain.high, -gain.low
        subject, other = first, second
    titles = [title(name) for name in (subject, other)]
    if titles[0] == titles[1]:
        titles = [f"the second {titles[0]}", f"the first {titles[1]}"]
    does = "does" if low > 0 else "does not"
    worse = "; it localises worse" if high < 0 else ""
    text = (
        f"{titles[0]} {does} localise better than {titles[1]}{worse} (energy-based pointing game "
        f"{value:+.3f}, 95% {low:+.3f} to {high:+.3f}, n = {gain.n})."
    )
    return text[0].upper() + text[1:]
