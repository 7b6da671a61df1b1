"""The command gradcam: choose images, explain them, write panel, overlays and maps."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data.readers import SUFFIXES, fit_square, read_grey
from tumorlens.device import cpu_threads, pick_device
from tumorlens.errors import TumorlensError, UnreadableImageError
from tumorlens.evaluation.plots import save
from tumorlens.explain import report
from tumorlens.explain.gradcam import Way, common_layer, grad_cam
from tumorlens.explain.overlay import Explained, Tile, blend, panel
from tumorlens.explain.regions import read_boxes
from tumorlens.files import claim, replacing, write_image, write_json, write_manifest
from tumorlens.labels import canonical_class
from tumorlens.progress import Progress, silent
from tumorlens.settings import GradcamSettings, primitives
from tumorlens.uncertainty.calibration import softmax


@dataclass(frozen=True)
class Explanation:
    """What the command wrote.

    Attributes:
        out_dir: the folder.
        panel: the figure of the images and their maps.
        tiles: everything in it.
        chosen: in words, how the images were chosen.
        skipped: path to the reason it could not be explained.
        measured: the content of `explain.json`, JSON primitives; None: nothing was to be measured.
    """

    out_dir: Path
    panel: Path
    tiles: tuple[Tile, ...]
    chosen: str
    skipped: dict[str, str]
    measured: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Images; labels are None where they are not known. `what` and `how` name them in words."""

    images: list[npt.NDArray[np.uint8]]
    paths: list[str]
    labels: list[str | None]
    what: str
    how: str
    skipped: dict[str, str]


def gradcam(settings: GradcamSettings, progress: Progress = silent) -> Explanation:
    """Explain images with one network, or with two side by side.

    Raises:
        TumorlensError: faults of checkpoints, flags, images or the output folder.
    """
    files = [settings.checkpoint, *([settings.compare] if settings.compare else [])]
    loaded = [checkpoints.load(file) for file in files]
    settings = _checked(settings, loaded)
    names = distinct_names(loaded)
    seeds = _seeds(settings.agree, loaded[0])
    boxes = read_boxes(settings.boxes) if settings.boxes else None
    measures = boxes or settings.faithfulness or settings.sanity or settings.agree
    device = pick_device(settings.device)
    with cpu_threads(settings.threads):
        networks = [one.network().to(device) for one in loaded]
        # Before anything is decoded.
        settings = replace(settings, layer=common_layer(networks, settings.layer))
        # Each network has the split that it remembers; without measures, the first's counts alone.
        needed = 0 if settings.images else len(loaded) if measures else 1
        choice = ImageChoice(
            settings.data_dir, settings.split, allow_patient_overlap=True, on_bad_image="skip"
        )
        sessions = {
            name: open_session(
                one,
                choice,
                device=device,
                batch_size=settings.batch_size,
                progress=progress,
                network=network,
            )
            for name, one, network in list(zip(names, loaded, networks, strict=True))[:needed]
        }
        chosen = _choose(settings, sessions[names[0]]) if sessions else _named(settings.images)
        out_dir = _claimed(settings)
        views = [
            _views(one, network, name, chosen, settings, progress)
            for one, network, name in zip(loaded, networks, names, strict=True)
        ]
        tiles = tuple(
            Tile(
                image,
                path,
                label,
                tuple(of_image),
                boxes.outline(path, *image.shape) if boxes else None,
            )
            for image, path, label, *of_image in zip(
                chosen.images, chosen.paths, chosen.labels, *views, strict=True
            )
        )
        way = Way(settings.layer, settings.method, settings.map_size)
        shown = tiles[: settings.count]
        save(panel(shown, f"{way.title}: {len(shown)} {chosen.what}"), out_dir / "panel.png", 100)
        measured = None
        if measures:
            measured = report.measure(settings, way, sessions, boxes, seeds, out_dir)
    _write(tiles, settings, way, out_dir, chosen)
    return Explanation(out_dir, out_dir / "panel.png", tiles, chosen.how, chosen.skipped, measured)


def _checked(settings: GradcamSettings, networks: Sequence[Checkpoint]) -> GradcamSettings:
    """The settings with the classes' own names; unknown or different classes are refused."""
    classes = networks[0].classes
    for other in networks[1:]:
        if other.classes != classes:
            raise TumorlensError(
                f"--compare {settings.compare}: knows the classes {', '.join(other.classes)}, "
                f"--checkpoint {', '.join(classes)}; compare networks of the same classes."
            )
    settings = replace(
        settings,
        class_name=settings.class_name and canonical_class(settings.class_name),
        target=settings.target and canonical_class(settings.target),
    )
    for flag, name in (("--class", settings.class_name), ("--target", settings.target)):
        if name not in (None, "predicted", "true", *classes):
            raise TumorlensError(
                f"{flag} {name}: the checkpoint knows no such class, only {', '.join(classes)}."
            )
    return settings


def _seeds(files: Sequence[Path], first: Checkpoint) -> dict[Path, Checkpoint]:
    """Read checkpoints of the first's kind: network, size, classes; others are refused."""
    found = {file: checkpoints.load(file) for file in files}
    for file, loaded in found.items():
        if (other := _kind(loaded)) != (own := _kind(first)):
            raise TumorlensError(
                f"--agree {file}: is {other}, --checkpoint is {own}; name other seeds of the same."
            )
    return found


def _kind(loaded: Checkpoint) -> str:
    size, classes = loaded.preprocessing.image_size, ", ".join(loaded.classes)
    return f"a {loaded.model_name} at {size} px for {classes}"


def distinct_names(networks: Sequence[Checkpoint]) -> list[str]:
    """Names that tell one or two networks apart: by kind, else by run, else by file."""
    kinds = [loaded.model_name for loaded in networks]
    runs = [str(loaded.settings.get("run", loaded.path)) for loaded in networks]
    paths = [loaded.path.as_posix() if loaded.path else "" for loaded in networks]
    files = [f"{run} ({path})" for run, path in zip(runs, paths, strict=True)]
    for names in (kinds, runs, files):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(runs, 1)]


def _choose(settings: GradcamSettings, session: Session) -> _Chosen:
    data, classes, name = session.data, session.checkpoint.classes, settings.class_name
    candidates = np.arange(len(data.labels))
    if name:
        candidates = np.flatnonzero(data.labels == classes.index(name))
    if len(candidates) == 0:
        raise TumorlensError(
            f"--class {name}: no {session.split} image in {data.root} has this label; name "
            "another class or --split."
        )
    # What is measured needs all images' logits, the panel alone the class's.
    logits = session.logits[candidates] if settings.boxes else session.only(candidates).logits
    right = logits.argmax(axis=1) == data.labels[candidates]
    picked = candidates[_mix(right, settings.count, settings.seed)]
    of = f"labelled {name}" if name else "of all classes"
    chosen = _decoded(
        {data.paths[index]: data.root / data.paths[index] for index in picked},
        {data.paths[index]: classes[data.labels[index]] for index in picked},
        f"{session.split} images" + (f" of {name}" if name else ""),
    )
    how = (
        f"{len(picked)} of {len(candidates)} {session.split} images {of}, drawn with seed "
        f"{settings.seed} ({right.sum()} right, {(~right).sum()} wrong by "
        f"{session.checkpoint.model_name}; errors shown in proportion, at least one)"
    )
    return replace(chosen, how=how, skipped=data.skipped | chosen.skipped)


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
    files: list[Path] = []
    for image in images:
        inside = sorted(p for p in image.rglob("*") if p.suffix.lower() in SUFFIXES)
        if image.is_dir() and not inside:
            raise TumorlensError(
                f"--images {image}: no image in this folder; expected PNG, JPEG, TIFF, BMP or "
                "WebP files."
            )
        files += inside or [image]
    return _decoded({file.as_posix(): file for file in files}, {}, "given images")


def _decoded(files: Mapping[str, Path], labels: Mapping[str, str], what: str) -> _Chosen:
    images, skipped = {}, {}
    for path, file in files.items():
        try:
            images[path] = read_grey(file)
        except UnreadableImageError as error:
            skipped[path] = str(error)
    if not images:
        raise TumorlensError("--images: none can be decoded: " + " ".join(skipped.values()))
    known = [labels.get(path) for path in images]
    return _Chosen([*images.values()], [*images], known, what, f"{len(images)} {what}", skipped)


def _claimed(settings: GradcamSettings) -> Path:
    """The folder to write in, without what an earlier run left in it."""
    out_dir = claim(settings.out_dir or settings.checkpoint.parent / "gradcam", "gradcam")
    for name in report.FILES:
        (out_dir / name).unlink(missing_ok=True)
    for name in ("overlays", "maps"):
        shutil.rmtree(out_dir / name, ignore_errors=True)
    return out_dir


def _views(
    loaded: Checkpoint,
    network: nn.Module,
    name: str,
    chosen: _Chosen,
    settings: GradcamSettings,
    progress: Progress,
) -> list[Explained]:
    device, own = next(network.parameters()).device, loaded.preprocessing.image_size
    size = settings.map_size or own
    views: list[Explained] = []
    for start in range(0, len(chosen.images), settings.batch_size):
        images = chosen.images[start : start + settings.batch_size]
        squares = [
            torch.from_numpy(np.stack([fit_square(image, side) for image in images])).to(device)
            for side in (own, size)
        ]
        inputs = [loaded.preprocessing(some) for some in squares]
        # The prediction is that at the network's own size, whatever the map's.
        with torch.no_grad():
            logits = network(inputs[0])
        labels = chosen.labels[start : start + len(images)]
        targets = _targets(settings, loaded.classes, logits.argmax(dim=1), labels)
        maps = grad_cam(network, inputs[1], targets, settings.layer, settings.method)
        maps = loaded.preprocessing.unframed(maps, squares[1])
        probabilities = softmax(logits.cpu().double().numpy(), loaded.temperature or 1.0)
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
        progress("explaining", start + len(images), len(chosen.images))
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
    tiles: Sequence[Tile], settings: GradcamSettings, way: Way, out_dir: Path, chosen: _Chosen
) -> None:
    rows = []
    for number, tile in enumerate(tiles):
        placed, hottest = tile.placed()
        for which, (view, heat) in enumerate(zip(tile.views, placed, strict=True)):
            suffix = f"-{which + 1}-{_short(view.name)}" if len(tile.views) > 1 else ""
            name = f"{number:03d}-{_short(Path(tile.path).stem)}{suffix}"
            write_image(out_dir / "overlays" / f"{name}.png", blend(tile.grey, heat, hottest))
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
            "title": way.title,
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
        map=way.title,
        seed=settings.seed,
    )


def _short(name: str) -> str:
    """The end of a name, at most 100 bytes: a file's name has at most 255, and no slash."""
    return re.sub(r"[^\w.-]+", "-", name).encode()[-100:].decode(errors="ignore")
