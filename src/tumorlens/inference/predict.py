"""The verb predict: any number of files to classes, probabilities and verdicts.

No torch but where a checkpoint is run. Slices go through in batches and are forgotten; a file that
cannot be read is told with its reason, and the others go on.
"""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from tumorlens.data.readers import fit_square
from tumorlens.errors import TumorlensError
from tumorlens.files import check_claim, claim, replacing, write_manifest
from tumorlens.inference import inputs as sources
from tumorlens.inference.backends import Backend
from tumorlens.inference.inputs import Found
from tumorlens.progress import Progress, silent
from tumorlens.settings import PredictSettings
from tumorlens.uncertainty.decision import Judged

if TYPE_CHECKING:
    from tumorlens.inference.torch_backend import TorchBackend

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Prediction:
    """What is said of one slice.

    Attributes:
        path: of its file, as it was reached, with forward slashes.
        index: of the slice in its file, 0-based; None: the file is one picture.
        judged: class, verdict and probabilities; None: the file is unreadable.
        reason: why it is unreadable, uncertain or unlike the training data; else empty.
    """

    path: str
    index: int | None
    judged: Judged | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """ "confident", "uncertain", "unlike the training data", "not judged" or "unreadable"."""
        return self.judged.verdict if self.judged else UNREADABLE

    def to_dict(self, classes: Iterable[str]) -> dict[str, Any]:
        """As primitives."""
        found = self.judged
        return {
            "path": self.path,
            "slice": self.index,
            "prediction": found.prediction if found else None,
            "verdict": self.verdict,
            "probabilities": (
                dict(zip(classes, map(float, found.probabilities), strict=True)) if found else None
            ),
            "distance": found.distance if found else None,
            "reason": self.reason or None,
        }


@dataclass(frozen=True)
class Summary:
    """How many slices were given which verdict.

    Attributes:
        verdicts: verdict to how many.
        network: its name.
        calibrated: whether the probabilities are.
    """

    verdicts: dict[str, int]
    network: str
    calibrated: bool

    @property
    def unreadable(self) -> int:
        """How many files could not be read."""
        return self.verdicts.get(UNREADABLE, 0)


def backend_of(settings: PredictSettings) -> Backend:
    """The network that `--checkpoint` and `--backend` name.

    Raises:
        TumorlensError: the file is missing, of another kind, or its backend is not installed.
    """
    if settings.runs_onnx:
        from tumorlens.inference.onnx_backend import OnnxBackend  # noqa: PLC0415 (no torch in it)

        return OnnxBackend(settings.checkpoint, settings.threads)
    from tumorlens.inference.torch_backend import TorchBackend  # noqa: PLC0415 (seconds)

    return TorchBackend(settings.checkpoint, settings.device, settings.threads)


def predictions(
    settings: PredictSettings,
    backend: Backend,
    progress: Progress = silent,
    draw: Callable[[list[Found], npt.NDArray[np.uint8], list[Judged]], None] | None = None,
) -> Iterator[Prediction]:
    """Every slice of every file, in order, as fast as they are asked for.

    Args:
        settings: which files, and how volumes are cut.
        backend: the network.
        progress: told of "predicting", in files.
        draw: given each batch's readable slices, their squares (N, S, S) and verdicts.

    Raises:
        TumorlensError: a path that names nothing.
    """
    total = sum(1 for _ in sources.files(settings.paths, in_order=False))

    def found() -> Iterator[Found]:
        for count, file in enumerate(sources.files(settings.paths), start=1):
            yield from sources.slices(file, settings.axis, settings.slice)
            progress("predicting", count, total)

    every = found()
    while batch := list(islice(every, settings.batch_size)):
        readable = [one for one in batch if one.picture is not None]
        pictures = [one.picture for one in batch if one.picture is not None]
        judged: list[Judged] = []
        if readable:
            squares = np.stack([fit_square(picture, backend.image_size) for picture in pictures])
            judged = backend.judge.judge(*backend.describe(squares))
            if draw is not None:
                draw(readable, squares, judged)
        answers = iter(judged)
        for one in batch:
            answer = None if one.picture is None else next(answers)
            reason = backend.judge.why(answer) if answer else one.reason
            yield Prediction(one.path.as_posix(), one.index, answer, reason)


def predict_and_write(
    settings: PredictSettings,
    progress: Progress = silent,
    told: Callable[[Prediction], None] | None = None,
    json_to: TextIO | None = None,
) -> Summary:
    """Predict, and leave what the flags ask for.

    Args:
        settings: see `PredictSettings`.
        progress: told of "predicting", in files.
        told: given each prediction as it comes.
        json_to: where `--json` writes its lines; default: standard output.

    Raises:
        TumorlensError: faults of the flags, the checkpoint or the paths; nothing is written then.
    """
    if settings.heatmaps is not None:
        check_claim(settings.heatmaps, "predict")
    if settings.csv is not None and settings.csv.is_dir():
        raise TumorlensError(f"--csv {settings.csv}: is a folder; name a file in it.")
    backend = backend_of(settings)
    classes = backend.judge.classes
    verdicts: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        listeners: list[Callable[[Prediction], None]] = [] if told is None else [told]
        if settings.json:
            stream = json_to or sys.stdout
            listeners.append(
                lambda one: print(json.dumps(one.to_dict(classes), ensure_ascii=False), file=stream)
            )
        draw = None
        if settings.heatmaps is not None:
            draw = _Heatmaps(settings.heatmaps, backend).draw
        if settings.csv is not None:
            listeners.append(stack.enter_context(_table(settings.csv, classes)))
        for one in predictions(settings, backend, progress, draw):
            verdicts[one.verdict] = verdicts.get(one.verdict, 0) + 1
            for listener in listeners:
                listener(one)
    if settings.heatmaps is not None:
        write_manifest(settings.heatmaps, "predict", checkpoint=settings.checkpoint.name)
    return Summary(verdicts, backend.name, backend.judge.temperature is not None)


@contextlib.contextmanager
def _table(path: Path, classes: tuple[str, ...]) -> Iterator[Callable[[Prediction], None]]:
    """A CSV that is there when all is done, and not before."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        probabilities = [f"prob_{name}" for name in classes]
        writer.writerow(
            ["path", "prediction", "verdict", *probabilities, "slice", "distance", "reason"]
        )

        def row(one: Prediction) -> None:
            found = one.judged
            numbers = (
                [f"{value:.6f}" for value in found.probabilities] if found else [""] * len(classes)
            )
            far = "" if found is None or found.distance is None else f"{found.distance:.4f}"
            index = "" if one.index is None else one.index
            name = found.prediction if found else ""
            writer.writerow([one.path, name, one.verdict, *numbers, index, far, one.reason])

        yield row


class _Heatmaps:
    """One picture a slice: the slice, and on it the map of the predicted class."""

    def __init__(self, folder: Path, backend: Backend) -> None:
        if not hasattr(backend, "maps"):
            raise TumorlensError(
                "--heatmaps: an exported network has no maps; name the checkpoint (.pt) that it "
                "was exported from."
            )
        self.backend: TorchBackend = backend  # type: ignore[assignment]
        self.folder = claim(folder, "predict")
        self.count = 0

    def draw(
        self, readable: list[Found], squares: npt.NDArray[np.uint8], judged: list[Judged]
    ) -> None:
        from PIL import Image  # noqa: PLC0415

        from tumorlens.explain import overlay  # noqa: PLC0415 (matplotlib)

        targets = np.array([int(one.probabilities.argmax()) for one in judged], dtype=np.int64)
        maps = self.backend.maps(squares, targets)
        for found, relevance, answer in zip(readable, maps, judged, strict=True):
            assert found.picture is not None
            height, width = found.picture.shape
            placed = overlay.on_picture(relevance, height, width, self.backend.image_size)
            drawn = overlay.blend(found.picture, placed, overlay.full_heat([placed]))
            self.count += 1
            part = "" if found.index is None else f"-slice{found.index:03d}"
            name = f"{self.count:05d}-{found.path.stem}{part}-{answer.prediction}.png"
            beside = np.concatenate([np.stack([found.picture] * 3, axis=-1), drawn], axis=1)
            with replacing(self.folder / name) as file:
                Image.fromarray(beside).save(file, "PNG")
