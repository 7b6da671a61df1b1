"""The command predict: any number of files to classes, probabilities and decisions.

No torch but where a checkpoint is run. Slices go through in batches and are forgotten; a file that
cannot be read is listed with its reason, and the others go on.
"""

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import decoders_silent, fit_square
from tumorlens.errors import TumorlensError
from tumorlens.files import check_claim, claim, replacing, write_image, write_manifest
from tumorlens.image_tables import Tabular
from tumorlens.inference import inputs as sources
from tumorlens.inference.backends import Backend, TorchBackend, backend_of
from tumorlens.inference.inputs import Found, Pixels
from tumorlens.progress import Progress, silent
from tumorlens.settings import PredictSettings
from tumorlens.uncertainty.decision import Decided, DecisionRule

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Prediction:
    """What is said of one slice.

    Attributes:
        path: of its file, as it was reached, with forward slashes; `paths[N]` for an image in
            memory, by its place among what was given.
        index: of the slice in its file, 0-based; None: the file is one image.
        decided: class, decision and probabilities; None: the file is unreadable.
        reason: why it is unreadable, uncertain or out of distribution, and what of its header
            makes no sense and was not used; else empty.
        classes: name of each probability.
    """

    path: str
    index: int | None
    decided: Decided | None
    reason: str = ""
    classes: tuple[str, ...] = ()

    @property
    def decision(self) -> str:
        """ "confident", "uncertain", "out of distribution", "not calibrated" or "unreadable"."""
        return self.decided.decision if self.decided else UNREADABLE

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        found, names = self.decided, self.classes
        return {
            "path": self.path,
            "slice": self.index,
            "prediction": found.prediction if found else None,
            "decision": self.decision,
            "probabilities": (
                dict(zip(names, map(float, found.probabilities), strict=True)) if found else None
            ),
            "distance": found.distance if found else None,
            "reason": self.reason or None,
            **({"set": list(found.set)} if found and found.set else {}),
        }


class PredictionList(list[Prediction], Tabular):
    """Predictions in order, which are a table too."""

    def table(self) -> dict[str, list[Any]]:
        """Column to its N values, named as in the file of --csv; None where there is no value."""
        rows = []
        for one in self:
            row = one.to_dict()
            inside = row.pop("probabilities") or {}
            sets = {"set": row.pop("set")} if "set" in row else {}
            numbers = {f"prob_{name}": inside.get(name) for name in one.classes}
            rows.append(row | numbers | sets)
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}


@dataclass(frozen=True)
class Summary:
    """How many slices were given which decision."""

    decisions: dict[str, int]  # decision to how many
    network: str  # its name
    calibrated: bool  # whether the probabilities are
    left_out: dict[str, int]  # how many files in folders were not taken, by reason
    note: str = ""  # a flag that changed nothing, and why; else empty

    @property
    def unreadable(self) -> int:
        """How many files could not be read."""
        return self.decisions.get(UNREADABLE, 0)


def predictions(
    files: Sequence[Path | Pixels],
    settings: PredictSettings,
    backend: Backend,
    progress: Progress = silent,
    draw: Callable[[list[Found], npt.NDArray[np.uint8], list[Decided]], None] | None = None,
) -> Iterator[Prediction]:
    """Every slice of every file, in order, as fast as they are asked for.

    Args:
        files: images, DICOM or NIfTI, or images in memory.
        settings: how volumes are cut, and how many slices go through at once.
        backend: the network.
        progress: called at the stage "predicting", in files.
        draw: given each batch's readable slices, their squares (N, S, S) and decisions.
    """

    def found() -> Iterator[Found]:
        for count, file in enumerate(files, start=1):
            yield from sources.slices(file, settings.axis, settings.slice)
            progress("predicting", count, len(files))

    every = found()
    while batch := list(islice(every, settings.batch_size)):
        readable = [one for one in batch if one.image is not None]
        images = [one.image for one in batch if one.image is not None]
        decided: list[Decided] = []
        if readable:
            squares = np.stack([fit_square(image, backend.image_size) for image in images])
            decided = backend.rule.decide(*backend.describe(squares))
            if draw is not None:
                draw(readable, squares, decided)
        predictions = iter(decided)
        for one in batch:
            answer = None if one.image is None else next(predictions)
            why = backend.rule.why(answer) if answer else ""
            reason = " ".join(filter(None, (why, one.reason)))
            yield Prediction(one.path.as_posix(), one.index, answer, reason, backend.rule.classes)


def predict(
    settings: PredictSettings,
    progress: Progress = silent,
    on_prediction: Callable[[Prediction], None] | None = None,
) -> Summary:
    """Predict, and leave what the flags ask for.

    Args:
        settings: see `PredictSettings`; `json` is for the caller.
        progress: called at the stage "predicting", in files.
        on_prediction: given each prediction as it comes.

    Raises:
        TumorlensError: faults of the flags, the checkpoint or the paths; nothing is written then.
    """
    if settings.heatmaps is not None:
        check_claim(settings.heatmaps, "predict")
    if settings.csv is not None and settings.csv.is_dir():
        raise TumorlensError(f"--csv {settings.csv}: is a folder; name a file in it.")
    backend = backend_of(settings)
    if settings.coverage is not None:
        backend.rule = backend.rule.at(settings.coverage)
    listing = sources.listing(settings.paths)
    decisions: dict[str, int] = {}
    with decoders_silent(), contextlib.ExitStack() as stack:
        listeners: list[Callable[[Prediction], None]] = (
            [] if on_prediction is None else [on_prediction]
        )
        draw = None
        if settings.heatmaps is not None:
            draw = _Heatmaps(settings.heatmaps, backend).draw
        if settings.csv is not None:
            listeners.append(stack.enter_context(_table(settings.csv, backend.rule)))
        for one in predictions(listing.files, settings, backend, progress, draw):
            decisions[one.decision] = decisions.get(one.decision, 0) + 1
            for listener in listeners:
                listener(one)
    if settings.heatmaps is not None:
        write_manifest(settings.heatmaps, "predict", checkpoint=settings.checkpoint.name)
    note = ""
    if settings.runs_onnx and settings.device not in ("auto", "cpu"):
        note = f"--device {settings.device}: an exported network runs on the CPU."
    return Summary(
        decisions, backend.name, backend.rule.temperature is not None, dict(listing.left_out), note
    )


@contextlib.contextmanager
def _table(path: Path, rule: DecisionRule) -> Iterator[Callable[[Prediction], None]]:
    """A CSV that is there when all is done, and not before."""
    with (
        replacing(path) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        probabilities = [f"prob_{name}" for name in rule.classes]
        header = ["path", "prediction", "decision", *probabilities, "slice", "distance", "reason"]
        writer.writerow(header if rule.least is None else [*header, "set"])

        def row(one: Prediction) -> None:
            found = one.decided
            numbers = [""] * len(rule.classes)
            if found:
                numbers = [f"{value:.6f}" for value in found.probabilities]
            far = "" if found is None or found.distance is None else f"{found.distance:.4f}"
            index = "" if one.index is None else one.index
            name = found.prediction if found else ""
            cells = [one.path, name, one.decision, *numbers, index, far, one.reason]
            if rule.least is not None:
                cells.append(found.set_words if found else "")
            writer.writerow(cells)

        yield row


class _Heatmaps:
    """One image a slice: the slice, and on it the map of the predicted class."""

    def __init__(self, folder: Path, backend: Backend) -> None:
        if not isinstance(backend, TorchBackend):
            raise TumorlensError(
                "--heatmaps: an exported network has no maps; name the checkpoint (.pt) that it "
                "was exported from."
            )
        self.backend = backend
        self.folder = claim(folder, "predict")
        self.count = 0

    def draw(
        self, readable: list[Found], squares: npt.NDArray[np.uint8], decided: list[Decided]
    ) -> None:
        from tumorlens.explain import overlay  # noqa: PLC0415 (matplotlib)

        targets = np.array([int(one.probabilities.argmax()) for one in decided], dtype=np.int64)
        maps = self.backend.maps(squares, targets)
        for found, relevance, answer in zip(readable, maps, decided, strict=True):
            assert found.image is not None
            height, width = found.image.shape
            placed = overlay.on_image(relevance, height, width, self.backend.image_size)
            drawn = overlay.blend(found.image, placed, overlay.full_heat([placed]))
            self.count += 1
            part = "" if found.index is None else f"-slice{found.index:03d}"
            # A file's own name may be as long as the system allows.
            name = f"{self.count:05d}-{found.path.stem[:40]}{part}-{answer.prediction[:20]}.png"
            pair = np.concatenate([np.stack([found.image] * 3, axis=-1), drawn], axis=1)
            write_image(self.folder / name, pair)
