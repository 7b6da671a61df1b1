"""Score a checkpoint on the images it never learned from, and say how far to believe the score."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.features import input_batches
from tumorlens.checkpoint.file import Checkpoint, DataRecord, Preprocessing
from tumorlens.data import splits
from tumorlens.data.dataset import Dataset, load_for_scoring
from tumorlens.data.duplicates import copies_in, duplicate_groups
from tumorlens.data.patients import PatientTable, check_overlap, table_for, unit_words
from tumorlens.data.readers import read_grey
from tumorlens.device import cpu_threads, pick_device
from tumorlens.errors import TumorlensError
from tumorlens.evaluation import plots
from tumorlens.evaluation.predictions import Predictions, columns, table
from tumorlens.evaluation.scores import Scores, score
from tumorlens.evaluation.subgroups import SubgroupRecall, recall_by
from tumorlens.files import claim, write_json, write_manifest, write_text
from tumorlens.phantom.dataset import is_phantom
from tumorlens.progress import Progress, silent
from tumorlens.settings import EvaluateSettings, primitives
from tumorlens.uncertainty.calibration import Calibrated, calibrated, softmax

METRICS_SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """What `evaluate` found.

    Attributes:
        checkpoint: the file scored.
        model_name: its network.
        data: the images scored, in the order of the arrays below.
        part: "test", "valid", "train" or "all".
        predictions: probabilities (softmax of the logits) and all that is known of the images.
        scores: every figure with its interval, of the probabilities as they are.
        by_site: recall of each class at each site; empty where sites are not known.
        calibrated: what the checkpoint's temperature changes on these images; None: it has none.
        caveats: what a reader must know before quoting a figure, a sentence each.
        out_dir: where the files are.
    """

    checkpoint: Path
    model_name: str
    data: Dataset
    part: str
    predictions: Predictions
    scores: Scores
    by_site: tuple[SubgroupRecall, ...]
    calibrated: Calibrated | None
    caveats: tuple[str, ...]
    out_dir: Path

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, K) float64, softmax of the logits."""
        return self.predictions.probabilities

    @property
    def metrics(self) -> dict[str, Any]:
        """Every figure, as metrics.json has them."""
        return {
            "schema": METRICS_SCHEMA,
            "checkpoint": str(self.checkpoint),
            "model_name": self.model_name,
            "data_dir": str(self.data.root),
            "part": self.part,
            "images": len(self.data.labels),
            "classes": list(self.data.classes),
            "caveats": list(self.caveats),
            "skipped": self.data.skipped,
            **self.scores.to_dict(),
            "by_site": [one.to_dict() for one in self.by_site],
            "calibration": None if self.calibrated is None else asdict(self.calibrated),
        }

    @property
    def figures(self) -> dict[str, Path]:
        """Name to picture: confusion_matrix, roc, reliability, errors."""
        return {path.stem: path for path in sorted(self.out_dir.glob("*.png"))}

    def table(self) -> dict[str, list[Any]]:
        """Column to its N values, as predictions.csv has them."""
        return columns(self.predictions)

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame.

        Raises:
            TumorlensError: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415 (no dependency of ours)
        except ImportError:
            raise TumorlensError(
                "to_frame needs pandas, which is not installed: `pip install pandas`, or take "
                "table()."
            ) from None
        return pandas.DataFrame(self.table())


def evaluate(settings: EvaluateSettings, progress: Progress = silent) -> Report:
    """Score `settings.checkpoint` and write the figures and pictures to the output folder.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags or the output folder.
    """
    loaded = checkpoints.load(settings.checkpoint)
    device = pick_device(settings.device)
    root, assignment = images_of(
        loaded, settings.data_dir, settings.splits, settings.fold, progress
    )
    data = load_for_scoring(
        root,
        loaded.preprocessing.image_size,
        loaded.classes,
        part=settings.split,
        assignment=assignment,
        on_bad_image=settings.on_bad_image,
        patients=patients_of(loaded, settings.patients, settings.splits, root),
        progress=progress,
    )
    part = str(data.parts[0])
    overlap = _overlap(loaded, data, part, settings)
    answers = known_of(data, settings.groups)
    out_dir = claim(settings.out_dir or settings.checkpoint.parent / "evaluation", "evaluate")
    with cpu_threads(settings.threads):
        logits = predict(
            loaded.network(),
            loaded.preprocessing,
            data.images,
            device=device,
            batch_size=settings.batch_size,
            progress=progress,
        )
    probabilities = softmax(logits)
    record = loaded.data
    copies = copies_of_training(record, data) if record and part != "train" else None
    answers = replace(answers, source=settings.checkpoint.as_posix(), probabilities=probabilities)
    answers = replace(answers, copies=copies)
    patients, others = answers.unit_counts()
    report = Report(
        checkpoint=settings.checkpoint,
        model_name=loaded.model_name,
        data=data,
        part=part,
        predictions=answers,
        scores=score(
            data.labels,
            probabilities,
            loaded.classes,
            groups=answers.units(),
            unit=unit_words(patients, others, len(data.labels)),
            copies=copies,
            seed=settings.seed,
            resamples=settings.resamples,
        ),
        calibrated=calibrated(
            data.labels, logits, loaded.temperature, loaded.uncertainty_threshold
        ),
        by_site=recall_by(answers, answers.sites, resamples=settings.resamples, seed=settings.seed),
        caveats=(
            *((overlap,) if overlap else ()),
            *_caveats(part, loaded, data, probabilities.argmax(axis=1)),
        ),
        out_dir=out_dir,
    )
    _write(report, settings)
    return report


def images_of(
    loaded: Checkpoint,
    data_dir: Path | None,
    splits_file: Path | None,
    fold: int | None,
    progress: Progress = silent,
) -> tuple[Path, Mapping[str, str] | None]:
    """The data folder to use with a checkpoint, and which image is in which part of it.

    Args:
        loaded: the checkpoint, which remembers its data folder and split.
        data_dir: the user's own choice; the remembered split still holds where the folder has the
            same files (a folder that was moved), else the folder's own layout does.
        splits_file, fold: a split that overrides both.
        progress: see `data.cache.load`.

    Returns:
        The folder, and path to part, or None for the folder's own layout.

    Raises:
        TumorlensError: no folder is known, or the remembered one is gone.
    """
    record = loaded.data
    root = data_dir or loaded.data_dir
    if root is None:
        raise TumorlensError(
            f"--checkpoint {loaded.path}: remembers no data folder; name one with --data_dir."
        )
    if not root.is_dir() and data_dir is None:
        raise TumorlensError(
            f"--checkpoint {loaded.path}: the data folder that it remembers, {root}, is gone; name "
            "its new place with --data_dir."
        )
    if splits_file is not None:
        size = loaded.preprocessing.image_size
        return root, splits.resolve(splits_file, fold, root, size, progress)[0]
    if record is None:
        return root, None
    held_back = [*record.test, *record.valid]
    if data_dir is not None and not all((root / path).is_file() for path in held_back):
        return root, None
    parts = {"train": record.train, "valid": record.valid, "test": record.test}
    return root, {path: part for part, paths in parts.items() for path in paths}


def predict(
    network: nn.Module,
    preprocessing: Preprocessing,
    images: npt.NDArray[np.uint8],
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Progress = silent,
) -> npt.NDArray[np.float64]:
    """Logits of a network in evaluation mode.

    Args:
        network: (N, C, S, S) to (N, K).
        preprocessing: from picture to input.
        images: (N, S, S) uint8.
        device: where to compute; the network is moved there.
        batch_size: images at once.
        progress: told of the stage "predicting".

    Returns:
        (N, K) float64.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = []
    with torch.inference_mode():
        for inputs, before in input_batches(
            preprocessing, images, device=device, batch_size=batch_size
        ):
            logits.append(network(inputs).double().cpu().numpy())
            progress("predicting", before + len(inputs), len(images))
    return np.concatenate(logits)


def copies_of_training(record: DataRecord, data: Dataset) -> npt.NDArray[np.str_]:
    """Which scored images show a picture that the network was trained on.

    From what the checkpoint keeps of the training images: the digest of each file's bytes, and a
    perceptual fingerprint. The training images themselves are not needed.

    Returns:
        (N,) "", "exact" or "near".
    """
    near = copies_in(record.fingerprints, data.fingerprints).found
    known = {digest.tobytes() for digest in record.digests}
    exact = np.array([digest.tobytes() in known for digest in data.digests], dtype=bool)
    return np.where(exact, "exact", np.where(near, "near", ""))


def patients_of(
    loaded: Checkpoint, named: Path | None, splits_file: Path | None, root: Path
) -> PatientTable | None:
    """The table of the images to score: the user's, else the one that the checkpoint remembers.

    That one tells of its own images; where it lists none of the folder's, it tells nothing.

    Raises:
        TumorlensError: see `patients.table_for`.
    """
    given = table_for(named, splits_file)
    if given is not None or loaded.data is None or loaded.data.patients is None:
        return given
    kept = loaded.data.patients
    return kept if any((root / path).is_file() for path in kept.rows) else None


def _overlap(loaded: Checkpoint, data: Dataset, part: str, settings: EvaluateSettings) -> str:
    """A sentence where patients of the scored images were in training; "" where none was.

    Raises:
        TumorlensError: some were, and --allow_patient_overlap does not say so.
    """
    record = loaded.data
    if record is None or data.patients is None or part == "train":
        return record.overlap if record else ""
    known = table_for(settings.patients, settings.splits) or record.patients
    assert known is not None  # it told of the scored images
    trained = known.of(record.train, record.fingerprints).names
    names = np.concatenate([trained, data.patients.names])
    parts = np.array(["train"] * len(trained) + [part] * len(data.paths))
    # What was allowed when the network was trained is told, not asked for again.
    allowed = settings.allow_patient_overlap or bool(record.overlap)
    return check_overlap(names, parts, data.patients.source, allowed=allowed)


def known_of(data: Dataset, groups: Path | None = None) -> Predictions:
    """All that is known of the images; the probabilities are still to come.

    Args:
        data: the images.
        groups: CSV of the user's groups, instead of near-duplicates.
    """
    shown = data.patients
    sites = shown.sites if shown else None
    found = Predictions(
        source="",
        classes=data.classes,
        paths=data.paths,
        labels=data.labels,
        probabilities=np.zeros((len(data.labels), len(data.classes))),
        groups=tuple(map(str, duplicate_groups(data.fingerprints).tolist())),
        patients=tuple(shown.names.tolist()) if shown else None,
        sites=None if sites is None else tuple(sites.tolist()),
    )
    return found if groups is None else found.grouped(splits.read_groups(groups))


def part_caveats(loaded: Checkpoint, part: str) -> list[str]:
    """What the part's name says of figures of its images: that they are optimistic, or memory."""
    if part == "train":
        return ["Memory, not skill: these are the images that the network was trained on."]
    if part == "valid" and loaded.trained_on_valid:
        return [
            "Memory, not skill, as far as these are its own validation images: the network was "
            "trained on those too (--train_on_valid)."
        ]
    if part == "valid":
        return [
            "Optimistic: these are the validation images, which selected the model. Score images "
            "that had no say in it."
        ]
    return []


def _caveats(
    part: str, loaded: Checkpoint, data: Dataset, predicted: npt.NDArray[np.int64]
) -> tuple[str, ...]:
    caveats = part_caveats(loaded, part)
    if loaded.data is None:
        caveats.append(
            "The checkpoint keeps no fingerprints of its training images: copies of them among "
            "these images cannot be found."
        )
    if data.skipped:
        caveats.append(f"{len(data.skipped)} undecodable files were left out.")
    if is_phantom(data.root):
        caveats.append(
            "These images are simulated (tumorlens phantom): no figure here says anything about "
            "patients."
        )
    never = [
        name
        for index, name in enumerate(data.classes)
        if (data.labels == index).any() and not (predicted == index).any()
    ]
    if never:
        caveats.append(
            f"The network never answers {' or '.join(never)}, of which there are images here: it "
            "has not learnt to."
        )
    return tuple(caveats)


def _write(report: Report, settings: EvaluateSettings) -> None:
    out, data, scores = report.out_dir, report.data, report.scores
    classes = data.classes
    write_json(out / "metrics.json", report.metrics)
    write_text(out / "predictions.csv", table(report.predictions))
    predicted = report.probabilities.argmax(axis=1)
    what = f"{report.model_name}, {report.part} images (n = {len(data.labels)})"
    figures = {
        "confusion_matrix": plots.confusion_matrix(scores.all.confusion, classes, title=what),
        "roc": plots.roc_curves(data.labels, report.probabilities, classes, title=what),
        "reliability": plots.reliability(data.labels, report.probabilities, title=what),
    }
    wrong = np.flatnonzero(predicted != data.labels)
    worst = wrong[np.argsort(-report.probabilities[wrong].max(axis=1))][:12]
    figures["errors"] = plots.error_gallery(
        [read_grey(data.root / data.paths[index]) for index in worst],
        [classes[label] for label in data.labels[worst]],
        [classes[label] for label in predicted[worst]],
        report.probabilities[worst].max(axis=1),
        [data.paths[index] for index in worst],
        title=f"{what}: most confident of {len(wrong)} errors",
    )
    for name, figure in figures.items():
        plots.save(figure, out / f"{name}.png")
    write_manifest(
        out,
        "evaluate",
        settings=primitives(settings),
        checkpoint_sha256=checkpoints.sha256(report.checkpoint),
        data_fingerprint=data.fingerprint(),
        seed=settings.seed,
    )
