"""The Grad-CAM verb: choose pictures, explain them, leave panel, overlays and maps."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe, images_of
from tumorlens.data.dataset import load_for_scoring
from tumorlens.data.readers import SUFFIXES, fit_square, read_grey
from tumorlens.device import cpu_threads, pick_device
from tumorlens.errors import TumorlensError, UnreadableImageError
from tumorlens.evaluation import plots
from tumorlens.explain import gradcam
from tumorlens.explain import report as measures
from tumorlens.explain.gradcam import TITLES, find_layer
from tumorlens.explain.outline import outline_of
from tumorlens.explain.overlay import Explained, Tile, blend, full_heat, on_picture, panel
from tumorlens.files import claim, replacing, write_json, write_manifest
from tumorlens.labels import canonical_class
from tumorlens.models.resnet import ResNet
from tumorlens.progress import Progress, silent
from tumorlens.settings import GradcamSettings, primitives
from tumorlens.uncertainty.calibration import softmax


@dataclass(frozen=True)
class Explanation:
    """What the verb left.

    Attributes:
        out_dir: the folder.
        panel: the picture to look at first.
        tiles: everything in it.
        chosen: in words, how the pictures were chosen.
        skipped: path to the reason it could not be explained.
        measured: the content of `explain.json`, JSON primitives; None: no measure was asked for.
    """

    out_dir: Path
    panel: Path
    tiles: tuple[Tile, ...]
    chosen: str
    skipped: dict[str, str]
    measured: dict[str, Any] | None


@dataclass(frozen=True)
class _Chosen:
    pictures: list[npt.NDArray[np.uint8]]
    paths: list[str]
    labels: list[str | None]
    how: str
    skipped: dict[str, str]


def explain(settings: GradcamSettings, progress: Progress = silent) -> Explanation:
    """Explain pictures with one network, or with two side by side.

    Raises:
        TumorlensError: faults of checkpoints, flags, pictures or the output folder.
    """
    files = [settings.checkpoint, *([settings.compare] if settings.compare else [])]
    networks = [checkpoints.load(file) for file in files]
    first = networks[0]
    if len(networks) > 1 and networks[1].classes != first.classes:
        raise TumorlensError(
            f"--compare {settings.compare}: knows the classes {', '.join(networks[1].classes)}, "
            f"--checkpoint {', '.join(first.classes)}; compare networks of the same classes."
        )
    settings = replace(
        settings,
        class_name=settings.class_name and canonical_class(settings.class_name),
        target=settings.target and canonical_class(settings.target),
    )
    for flag, name in (("--class", settings.class_name), ("--target", settings.target)):
        if name not in (None, "predicted", "true", *first.classes):
            raise TumorlensError(
                f"{flag} {name}: the checkpoint knows no such class, only "
                f"{', '.join(first.classes)}."
            )
    device = pick_device(settings.device)
    models = [loaded.network().to(device) for loaded in networks]
    for model in models:
        find_layer(model, settings.layer)  # before anything is written
    boxes = measures.check(settings, first)
    with cpu_threads(settings.threads):
        chosen = _choose(settings, first, models[0], device, progress)
        out_dir = claim(settings.out_dir or settings.checkpoint.parent / "gradcam", "gradcam")
        measures.clear(out_dir)
        views = [
            _views(loaded, model, name, chosen, settings, device, progress)
            for loaded, model, name in zip(networks, models, _names(networks), strict=True)
        ]
    tiles = tuple(
        Tile(
            picture,
            path,
            label,
            tuple(of_network[index] for of_network in views),
            outline_of(boxes, path, *picture.shape) if boxes else None,
        )
        for index, (picture, path, label) in enumerate(
            zip(chosen.pictures, chosen.paths, chosen.labels, strict=True)
        )
    )
    names = " and ".join(_names(networks))
    title = f"{TITLES[settings.method]} of {names} at {settings.layer}: {chosen.how}"
    plots.save(panel(tiles[: settings.count], title), out_dir / "panel.png")
    measured = None
    if measures.wanted(settings):
        with cpu_threads(settings.threads):
            measured = measures.measure(
                settings, _names(networks), networks, models, out_dir, device, progress
            )
    _write(tiles, settings, out_dir, chosen)
    return Explanation(out_dir, out_dir / "panel.png", tiles, chosen.how, chosen.skipped, measured)


def _names(networks: Sequence[Checkpoint]) -> list[str]:
    names = [loaded.model_name for loaded in networks]
    if len(set(names)) == len(names):
        return names
    return [str(loaded.settings.get("run", loaded.path)) for loaded in networks]


def _choose(
    settings: GradcamSettings,
    loaded: Checkpoint,
    model: ResNet,
    device: torch.device,
    progress: Progress,
) -> _Chosen:
    if settings.images:
        return _named(settings.images)
    root, assignment = images_of(loaded, settings.data_dir, None, None)
    data = load_for_scoring(
        root,
        loaded.preprocessing.image_size,
        loaded.classes,
        part=settings.split,
        assignment=assignment,
        on_bad_image="skip",
        progress=progress,
    )
    part = str(data.parts[0])
    candidates = np.arange(len(data.labels))
    if settings.class_name:
        candidates = np.flatnonzero(data.labels == loaded.classes.index(settings.class_name))
    if len(candidates) == 0:
        raise TumorlensError(
            f"--class {settings.class_name}: no {part} image in {root} has this label; name "
            "another class or --split."
        )
    logits, _ = describe(
        model,
        loaded.preprocessing,
        data.images[candidates],
        device=device,
        batch_size=settings.batch_size,
        progress=progress,
    )
    right = logits.argmax(axis=1) == data.labels[candidates]
    picked = candidates[_mix(right, settings.count, settings.seed)]
    of = f"labelled {settings.class_name}" if settings.class_name else "of all classes"
    return _Chosen(
        [read_grey(root / data.paths[index]) for index in picked],
        [data.paths[index] for index in picked],
        [loaded.classes[data.labels[index]] for index in picked],
        f"{len(picked)} of {len(candidates)} {part} images {of}, drawn with seed {settings.seed} "
        f"({right.sum()} right, {(~right).sum()} wrong by "
        f"{loaded.model_name}; errors shown in proportion, at least one)",
        data.skipped,
    )


def _mix(right: npt.NDArray[np.bool_], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw `count` places: wrong ones in proportion, but one at least where there is one."""
    rng = np.random.default_rng(seed)
    count = min(count, len(right))
    wrong = round(count * float((~right).mean()))
    if (~right).any() and count > 1:
        wrong = min(max(1, wrong), int((~right).sum()))
    drawn = [
        rng.permutation(np.flatnonzero(right))[: count - wrong],
        rng.permutation(np.flatnonzero(~right))[:wrong],
    ]
    return np.concatenate(drawn).astype(np.int64)


def _named(images: Sequence[Path]) -> _Chosen:
    paths: list[Path] = []
    for image in images:
        if image.is_dir():
            inside = sorted(p for p in image.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise TumorlensError(
                    f"--images {image}: no image in this folder; expected PNG, JPEG, TIFF, BMP or "
                    "WebP files."
                )
            paths += inside
        else:
            paths.append(image)
    pictures, kept, skipped = [], [], {}
    for path in paths:
        try:
            pictures.append(read_grey(path))
            kept.append(path.as_posix())
        except UnreadableImageError as error:
            skipped[path.as_posix()] = str(error)
    if not kept:
        raise TumorlensError("--images: none can be decoded: " + " ".join(skipped.values()))
    return _Chosen(pictures, kept, [None] * len(kept), f"{len(kept)} given images", skipped)


def _views(
    loaded: Checkpoint,
    model: ResNet,
    name: str,
    chosen: _Chosen,
    settings: GradcamSettings,
    device: torch.device,
    progress: Progress,
) -> list[Explained]:
    own = loaded.preprocessing.image_size
    size = settings.map_size or own
    views: list[Explained] = []
    for start in range(0, len(chosen.pictures), settings.batch_size):
        pictures = chosen.pictures[start : start + settings.batch_size]

        def inputs(side: int, pictures: list[npt.NDArray[np.uint8]] = pictures) -> torch.Tensor:
            squares = np.stack([fit_square(picture, side) for picture in pictures])
            return loaded.preprocessing(torch.from_numpy(squares).to(device))

        # What the network answers is told at its own size, whatever the map's.
        with torch.no_grad():
            logits = model(inputs(own))
        labels = chosen.labels[start : start + len(pictures)]
        targets = _targets(settings, loaded.classes, logits.argmax(dim=1), labels)
        maps = gradcam.grad_cam(model, inputs(size), targets, settings.layer, settings.method)
        probabilities = softmax(logits.double().cpu().numpy(), loaded.temperature or 1.0)
        for row, target in enumerate(targets.tolist()):
            best = int(probabilities[row].argmax())
            views.append(
                Explained(
                    name=name,
                    map=maps[row].float().cpu().numpy(),
                    size=size,
                    target=loaded.classes[target],
                    prediction=loaded.classes[best],
                    probability=float(probabilities[row, best]),
                    target_probability=float(probabilities[row, target]),
                )
            )
        progress("explaining", start + len(pictures), len(chosen.pictures))
    return views


def _targets(
    settings: GradcamSettings,
    classes: tuple[str, ...],
    predicted: torch.Tensor,
    labels: Sequence[str | None],
) -> torch.Tensor:
    target = settings.target or settings.class_name or "predicted"
    if target == "predicted":
        return predicted
    if target == "true":
        if None in labels:
            raise TumorlensError(
                "--target true: given --images have no true class; use predicted or a class."
            )
        return torch.tensor([classes.index(str(label)) for label in labels])
    return torch.full((len(labels),), classes.index(target))


def _write(
    tiles: Sequence[Tile], settings: GradcamSettings, out_dir: Path, chosen: _Chosen
) -> None:
    for leftover in ("overlays", "maps"):  # of an earlier run into the same folder
        shutil.rmtree(out_dir / leftover, ignore_errors=True)
    rows = []
    for number, tile in enumerate(tiles):
        height, width = tile.grey.shape
        placed = [on_picture(view.map, height, width, view.size) for view in tile.views]
        hottest = full_heat(placed)
        for which, (view, heat) in enumerate(zip(tile.views, placed, strict=True)):
            suffix = f"-{which + 1}-{view.name}" if len(tile.views) > 1 else ""
            name = f"{number:03d}-{Path(tile.path).stem}{suffix}"
            overlay = blend(tile.grey, heat, hottest)
            with replacing(out_dir / "overlays" / f"{name}.png") as beside:
                Image.fromarray(overlay).save(beside, format="PNG")
            if settings.save_maps:
                with replacing(out_dir / "maps" / f"{name}.npy") as beside:
                    np.save(beside, view.map, allow_pickle=False)
            rows.append(
                {
                    "path": tile.path,
                    "label": tile.label,
                    "network": view.name,
                    "target": view.target,
                    "prediction": view.prediction,
                    "probability": view.probability,
                    "target_probability": view.target_probability,
                    "map_highest": float(view.map.max()),
                    "drawn_hottest": hottest,
                    "overlay": f"overlays/{name}.png",
                }
            )
    write_json(
        out_dir / "gradcam.json",
        {
            "schema": 1,
            "chosen": chosen.how,
            "layer": settings.layer,
            "method": settings.method,
            "map_size": settings.map_size,
            "images": rows,
            "skipped": chosen.skipped,
        },
    )
    write_manifest(
        out_dir,
        "gradcam",
        settings=primitives(settings),
        checkpoint_sha256=checkpoints.sha256(settings.checkpoint),
        compare_sha256=checkpoints.sha256(settings.compare) if settings.compare else None,
        seed=settings.seed,
    )
