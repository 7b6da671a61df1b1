"""Score a checkpoint on the images it never learned from, and say how far to believe the score."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data.dataset import Dataset
from tumorlens.data.readers import read_grey
from tumorlens.device import cpu_threads, pick_device
from tumorlens.evaluation import plots
from tumorlens.evaluation.predictions import Predictions, absent_caveats, columns, table
from tumorlens.evaluation.scores import Bias, Scores, SetCoverage, bias, score, set_coverage
from tumorlens.evaluation.stress import Stress, examples_figure, stress, stress_figure
from tumorlens.evaluation.subgroups import (
    SubgroupRecall,
    Subgroups,
    score_subgroups,
    subgroup_columns,
)
from tumorlens.files import SCHEMA, check_claim, claim, write_json, write_manifest, write_text
from tumorlens.image_tables import Tabular, read_groups
from tumorlens.phantom.notice import is_phantom
from tumorlens.progress import Progress, silent
from tumorlens.settings import EvaluateSettings, primitives
from tumorlens.uncertainty.calibration import Calibrated, calibrated


@dataclass(frozen=True)
class Report(Tabular):
    """What `evaluate` found.

    Attributes:
        checkpoint: the file scored.
        model_name: its network.
        data: the images scored, in the order of the arrays below.
        split: "test", "valid", "train" or "all".
        predictions: probabilities, calibrated where the checkpoint has a temperature, and all that
            is known of the images.
        scores: every metric of them with its interval.
        subgroups: every class in every subgroup of the images.
        bias: class-wise bias in short.
        calibrated: what the checkpoint's temperature changes on these images; None: it has none.
        sets: how often conformal sets of classes have the true one.
        stress: what changes of display cost; None: not asked for.
        caveats: what a reader must know before quoting a metric, a sentence each.
        out_dir: where the files are.
    """

    checkpoint: Path
    model_name: str
    data: Dataset
    split: str
    predictions: Predictions
    scores: Scores
    subgroups: Subgroups
    bias: Bias
    calibrated: Calibrated | None
    sets: SetCoverage
    stress: Stress | None
    caveats: tuple[str, ...]
    out_dir: Path

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, K) float64, of `predictions`."""
        return self.predictions.probabilities

    @property
    def how_sure(self) -> str:
        """Whether the probabilities are calibrated, in words."""
        if self.calibrated is None:
            return "probabilities not calibrated"
        return f"calibrated probabilities (temperature {self.calibrated.temperature:.3g})"

    @property
    def by_site(self) -> tuple[SubgroupRecall, ...]:
        """Of `subgroups` the sites; empty where they are not known."""
        return tuple(one for one in self.subgroups.rows if one.column == "site")

    @property
    def metrics(self) -> dict[str, Any]:
        """Every metric, as metrics.json has them."""
        return {
            "schema": SCHEMA,
            "checkpoint": str(self.checkpoint),
            "model_name": self.model_name,
            "data_dir": str(self.data.root),
            "split": self.split,
            "images": len(self.data.labels),
            "classes": list(self.data.classes),
            "caveats": list(self.caveats),
            "skipped": self.data.skipped,
            "probabilities": self.how_sure,
            "bias": self.bias.to_dict(),
            **self.scores.to_dict(),
            "by_site": [one.to_dict() for one in self.by_site],
            "sets": self.sets.to_dict(),
            "calibration": None if self.calibrated is None else asdict(self.calibrated),
        }

    @property
    def figures(self) -> dict[str, Path]:
        """Name to image: confusion_matrix, roc, reliability, subgroups, errors."""
        return {path.stem: path for path in sorted(self.out_dir.glob("*.png"))}

    def table(self) -> dict[str, list[Any]]:
        """Column to its N values, as predictions.csv has them."""
        return columns(self.predictions)


def evaluate(settings: EvaluateSettings, progress: Progress = silent) -> Report:
    """Score `settings.checkpoint` and write the metrics and figures to the output folder.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags or the output folder.
    """
    device = pick_device(settings.device)
    with cpu_threads(settings.threads):
        session = open_session(
            settings.checkpoint,
            ImageChoice(
                settings.data_dir,
                settings.split,
                settings.splits,
                settings.fold,
                settings.patients,
                settings.allow_patient_overlap,
                settings.on_bad_image,
            ),
            device=device,
            batch_size=settings.batch_size,
            progress=progress,
        )
        return evaluate_session(session, settings)


def evaluate_session(session: Session, settings: EvaluateSettings) -> Report:
    """Score an open session; see `evaluate`.

    Of the settings `out_dir`, `groups`, `subgroups`, `stress`, `resamples` and `seed` count.
    """
    loaded, data = session.checkpoint, session.data
    out_dir = settings.out_dir or settings.checkpoint.parent / "evaluation"
    check_claim(out_dir, "evaluate")
    named = read_groups(settings.groups) if settings.groups else None
    columns, left_out = subgroup_columns(data, settings.subgroups)
    predictions = predictions_of(session)
    if named is not None:
        predictions = predictions.grouped(named)
    of_chance = {"resamples": settings.resamples, "seed": settings.seed}
    scores = score(predictions, **of_chance)
    subgroups = score_subgroups(predictions, columns, **of_chance)
    report = Report(
        checkpoint=settings.checkpoint,
        model_name=loaded.model_name,
        data=data,
        split=session.split,
        predictions=predictions,
        scores=scores,
        calibrated=calibrated(
            data.labels, session.logits, loaded.temperature, loaded.uncertainty_threshold
        ),
        subgroups=subgroups,
        bias=bias(scores, subgroups),
        sets=set_coverage(predictions, loaded.decision(), settings.coverage, **of_chance),
        stress=stress(session, predictions, quick=settings.stress == "quick", **of_chance)
        if settings.stress != "none"
        else None,
        caveats=_caveats(session, predictions) + ((left_out,) if left_out else ()),
        out_dir=out_dir,
    )
    _write(report, settings)
    return report


def predictions_of(session: Session) -> Predictions:
    """What the network predicts of the session's images, and all that is known of these."""
    data, shown = session.data, session.data.patients
    sites = shown.sites if shown else None
    return Predictions(
        source=session.path.as_posix(),
        classes=data.classes,
        paths=data.paths,
        labels=data.labels,
        probabilities=session.probabilities,
        duplicates=session.duplicates,
        groups=tuple(map(str, data.groups.tolist())),
        patients=tuple(shown.names.tolist()) if shown else None,
        sites=None if sites is None else tuple(sites.tolist()),
    )


def _caveats(session: Session, predictions: Predictions) -> tuple[str, ...]:
    loaded, data = session.checkpoint, session.data
    caveats = [session.overlap] if session.overlap else []
    caveats += session.split_caveats
    if loaded.data is None:
        caveats.append(
            "The checkpoint keeps no fingerprints of its training images: near-duplicates of them "
            "among these images cannot be found."
        )
    if data.skipped:
        caveats.append(f"{len(data.skipped)} undecodable files were left out.")
    if data.unused:
        caveats.append(data.unused)
    if is_phantom(data.root):
        caveats.append(
            "These images are simulated (tumorlens phantom): no metric here says anything about "
            "patients."
        )
    caveats += absent_caveats([predictions])
    if loaded.temperature is None:
        caveats.append("The probabilities are not calibrated: the checkpoint has no temperature.")
    never = [
        name
        for index, name in enumerate(data.classes)
        if (data.labels == index).any() and not (predictions.predicted == index).any()
    ]
    if never:
        caveats.append(
            f"The network never predicts {' or '.join(never)}, of which there are images here: it "
            "has not learnt to."
        )
    return tuple(caveats)


def _write(report: Report, settings: EvaluateSettings) -> None:
    out, data, scores = claim(report.out_dir, "evaluate"), report.data, report.scores
    classes = data.classes
    write_json(out / "metrics.json", report.metrics)
    write_text(out / "predictions.csv", table(report.predictions))
    write_json(out / "subgroups.json", report.subgroups.to_dict())
    write_text(out / "subgroups.csv", report.subgroups.table())
    predicted = report.predictions.predicted
    network = f"{report.model_name}, {report.split} images"
    what = f"{network} (n = {len(data.labels)})"
    figures = {
        "confusion_matrix": plots.confusion_matrix(scores.all.confusion, classes, title=what),
        "roc": plots.roc_curves(data.labels, report.probabilities, classes, title=what),
        "reliability": plots.reliability(
            data.labels, report.probabilities, title=what, how_sure=report.how_sure
        ),
    }
    if report.subgroups.rows:
        title = f"Recall by class and subgroup (n = {len(data.labels)})"
        figures["subgroups"] = plots.subgroups(report.subgroups, title=title)
    wrong = np.flatnonzero(predicted != data.labels)
    worst = wrong[np.argsort(-report.probabilities[wrong].max(axis=1))][:12]
    figures["errors"] = plots.error_gallery(
        [read_grey(data.root / data.paths[index]) for index in worst],
        [classes[label] for label in data.labels[worst]],
        [classes[label] for label in predicted[worst]],
        report.probabilities[worst].max(axis=1),
        [data.paths[index] for index in worst],
        title=f"{what}: most confident of {len(wrong)} errors, {report.how_sure}",
    )
    if report.stress:
        write_json(out / "stress.json", {"schema": SCHEMA, **report.stress.to_dict()})
        figures["stress"] = stress_figure(report.stress, network)
        figures["stress_examples"] = examples_figure(data.images[len(data.images) // 2])
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
