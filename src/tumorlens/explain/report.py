"""The measures of the verb gradcam: explain.json, localization.csv and their figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.data.readers import read_grey
from tumorlens.evaluation import plots
from tumorlens.explain import checks
from tumorlens.explain import plots as draw
from tumorlens.explain.checks import Network
from tumorlens.explain.compare_looks import compare
from tumorlens.explain.gradcam import TITLES
from tumorlens.explain.localization import Localization, localize
from tumorlens.explain.outline import outline_of
from tumorlens.explain.regions import Boxes, read_boxes
from tumorlens.files import csv_text, write_json, write_text
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress, silent
from tumorlens.settings import GradcamSettings

SCHEMA = 1
# What the measures write; removed before each run, so that a folder tells of one run alone.
FILES = (
    "explain.json",
    "localization.csv",
    "localization.png",
    "looking.png",
    "gallery.png",
    "faithfulness.png",
    "sanity.png",
    "agreement.png",
)
# Images in each row of the gallery.
_GALLERY = 4


def wanted(settings: GradcamSettings) -> bool:
    """Whether any measure is asked for."""
    return bool(settings.boxes or settings.faithfulness or settings.sanity or settings.agree)


def check(settings: GradcamSettings, first: Checkpoint) -> Boxes | None:
    """Find the faults of the measures' flags before anything is written.

    Returns:
        What --boxes names; None: no such flag.

    Raises:
        TumorlensError: boxes that cannot be read, checkpoints of another kind.
    """
    boxes = read_boxes(settings.boxes) if settings.boxes else None
    checks.check_seeds(first, settings.agree)
    return boxes


def clear(out_dir: Path) -> None:
    """Remove what an earlier run measured."""
    for name in FILES:
        (out_dir / name).unlink(missing_ok=True)


def measure(
    settings: GradcamSettings,
    names: Sequence[str],
    networks: Sequence[Checkpoint],
    models: Sequence[ResNet],
    out_dir: Path,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Take every measure that the settings ask for, and write the files.

    Args:
        settings: of the verb.
        names: of one or two networks.
        networks, models: their checkpoints, and as built from them.
        out_dir: claimed.
        device: where to compute.
        progress: told of each stage.

    Returns:
        The content of `explain.json`, JSON primitives.

    Raises:
        TumorlensError: faults of boxes, data or checkpoints.
    """
    all_of = [Network(*one) for one in zip(names, networks, models, strict=True)]
    content: dict[str, Any] = {"schema": SCHEMA, "networks": list(names)}
    if settings.boxes:
        content |= _localization(settings, settings.boxes, all_of, out_dir, device, progress)
    if settings.faithfulness:
        content["faithfulness"] = checks.of_faithfulness(
            settings, all_of, out_dir, device, progress
        )
    if settings.sanity:
        content["sanity"] = checks.of_sanity(settings, all_of, out_dir, device, progress)
    if settings.agree:
        content["agreement"] = checks.of_agreement(settings, all_of[0], out_dir, device, progress)
    write_json(out_dir / "explain.json", content)
    return content


def _localization(
    settings: GradcamSettings,
    boxes: Path,
    networks: Sequence[Network],
    out_dir: Path,
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    found = {
        one.name: localize(
            one.loaded,
            boxes,
            data_dir=settings.data_dir,
            split=settings.split,
            layer=settings.layer,
            method=settings.method,
            map_size=settings.map_size,
            resamples=settings.resamples,
            seed=settings.seed,
            batch_size=settings.batch_size,
            device=device,
            network=one.model,
            progress=progress,
        )
        for one in networks
    }
    first, *others = found.values()
    header = ["network", *first.rows[0]]
    rows = [
        [name, *("" if value is None else _short(value) for value in row.values())]
        for name, one in found.items()
        for row in one.rows
    ]
    write_text(out_dir / "localization.csv", csv_text(header, rows))
    how = f"{TITLES[settings.method]} at {settings.layer}"
    what = f"{how}, {first.figures['part']} images, maps of the true class"
    plots.save(
        draw.fits(
            {name: one.figures["network"] for name, one in found.items()},
            first.figures["centre"],
            f"Do the maps lie on the tumors? {what}",
        ),
        out_dir / "localization.png",
    )
    plots.save(
        draw.looking(
            {name: one.figures["looking"] for name, one in found.items()},
            f"Where else do the maps lie? {what}",
        ),
        out_dir / "looking.png",
    )
    plots.save(_gallery(found, what), out_dir / "gallery.png", dpi=120)
    both = (
        compare(first, others[0], resamples=settings.resamples, seed=settings.seed)
        if others
        else None
    )
    return {
        "localization": {name: one.figures for name, one in found.items()},
        "comparison": both,
    }


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _gallery(found: Mapping[str, Localization], what: str) -> Figure:
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
    chosen = draw.ranked(_GALLERY, [row["energy_in_box"] for row in boxed])

    def shown(index: int) -> draw.Found:
        row = boxed[index]
        path = row["path"]
        at = {name: (one, by_path[name][path]) for name, one in found.items()}
        grey = read_grey(first.root / path)
        return draw.Found(
            grey=grey,
            outline=outline_of(first.boxes, path, *grey.shape),
            words=draw.words_of(row),
            maps={name: one.maps[place] for name, (one, place) in at.items()},
            energies={name: one.rows[place]["energy_in_box"] for name, (one, place) in at.items()},
            sizes={name: one.size for name, one in found.items()},
        )

    rows = {name: [shown(index) for index in indices] for name, indices in chosen.items()}
    ranks = f"ranked by {first.name}'s energy in the box, {len(boxed)} images" if boxed else ""
    return draw.gallery(rows, f"{what}, {ranks}")
