"""Every verb as a function that returns its result and prints nothing.

Arguments are those of the settings classes in `tumorlens.settings`; importing this module loads
nothing heavy.

    from tumorlens import api
    run = api.train(model="se_resnet18", data_dir="data")
    report = api.evaluate(checkpoint=run.checkpoint)
    report.scores.all.figures["recall_glioma"]
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tumorlens.progress import Progress, silent

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tumorlens.audit.audit import Audit
    from tumorlens.audit.download import Downloaded
    from tumorlens.comparison.compare import Compared
    from tumorlens.data.partition import Partition
    from tumorlens.evaluation.evaluate import Report
    from tumorlens.explain.panel import Explanation
    from tumorlens.export.parity import Exported
    from tumorlens.inference.predict import Prediction
    from tumorlens.phantom.dataset import PhantomSummary
    from tumorlens.reporting.page import RunReport
    from tumorlens.studies.grid import StudyResult
    from tumorlens.studies.report import StudyReport
    from tumorlens.training.fit import TrainingResult
    from tumorlens.web.server import Serving

Settings = TypeVar("Settings")


def train(*, progress: Progress = silent, **settings: Any) -> TrainingResult:
    """Train a network; see `config.TrainSettings`."""
    from tumorlens.settings import TrainSettings
    from tumorlens.training import fit

    return fit.train(_settings(TrainSettings, settings), progress)


def evaluate(*, progress: Progress = silent, **settings: Any) -> Report:
    """Score a checkpoint; see `config.EvaluateSettings`."""
    from tumorlens.evaluation import evaluate as module
    from tumorlens.settings import EvaluateSettings

    return module.evaluate(_settings(EvaluateSettings, settings), progress)


def gradcam(*, progress: Progress = silent, **settings: Any) -> Explanation:
    """See where a network looked; see `config.GradcamSettings`."""
    from tumorlens.explain import panel as module
    from tumorlens.settings import GradcamSettings

    return module.gradcam(_settings(GradcamSettings, settings), progress)


def phantom(*, progress: Progress = silent, **settings: Any) -> PhantomSummary:
    """Make a simulated data set; see `config.PhantomSettings`."""
    from tumorlens.files import claim, write_manifest
    from tumorlens.phantom.dataset import make_phantom
    from tumorlens.settings import PhantomSettings, primitives

    chosen = _settings(PhantomSettings, settings)
    claim(chosen.out, "phantom")
    summary = make_phantom(
        chosen.out,
        train=chosen.train,
        valid=chosen.valid,
        test=chosen.test,
        size=chosen.size,
        seed=chosen.seed,
        progress=progress,
    )
    write_manifest(chosen.out, "phantom", settings=primitives(chosen), seed=chosen.seed)
    return summary


def predict(*, progress: Progress = silent, **settings: Any) -> list[Prediction]:
    """Name the class of slices; see `config.PredictSettings`. All answers are kept in memory."""
    from tumorlens.inference import predict as module
    from tumorlens.settings import PredictSettings

    found: list[Prediction] = []
    module.predict_and_write(_settings(PredictSettings, settings), progress, found.append)
    return found


def audit(*, progress: Progress = silent, **settings: Any) -> Audit:
    """Find copies, conflicts and shortcuts in a folder; see `config.AuditSettings`."""
    from tumorlens.audit import files as audit_files
    from tumorlens.settings import AuditSettings

    return audit_files.audit_and_write(_settings(AuditSettings, settings), progress)


def split(*, progress: Progress = silent, **settings: Any) -> Partition:
    """Split a folder so that copies stay together; see `config.SplitSettings`."""
    from tumorlens.data import partition as folds
    from tumorlens.settings import SplitSettings

    chosen = _settings(SplitSettings, settings)
    found = folds.partition(chosen, progress)
    folds.write_partition(found, chosen.out)
    return found


def compare(*, progress: Progress = silent, **settings: Any) -> Compared:
    """Compare two networks on the same images; see `config.CompareSettings`."""
    from tumorlens.comparison import compare as module
    from tumorlens.settings import CompareSettings

    return module.compare_and_write(_settings(CompareSettings, settings), progress)


def study(*, progress: Progress = silent, **settings: Any) -> StudyResult:
    """Do the runs of a grid that are missing; see `config.StudySettings`."""
    from tumorlens.settings import StudySettings
    from tumorlens.studies import grid

    return grid.study(_settings(StudySettings, settings), progress)


def study_report(*, progress: Progress = silent, **settings: Any) -> StudyReport:
    """Draw tables and figures of a study's finished runs; see `config.StudySettings`."""
    from tumorlens.settings import StudySettings
    from tumorlens.studies import report as tables

    return tables.draw_report(_settings(StudySettings, {"report": True} | settings), progress)


def export(*, progress: Progress = silent, **settings: Any) -> Exported:
    """Write a checkpoint as another file; see `config.ExportSettings`. ONNX needs an extra."""
    from tumorlens.export import export as module
    from tumorlens.settings import ExportSettings

    return module.export(_settings(ExportSettings, settings), progress)


def report(**settings: Any) -> RunReport:
    """Put a run on one page; see `config.ReportSettings`."""
    from tumorlens.reporting import page
    from tumorlens.settings import ReportSettings

    return page.report(_settings(ReportSettings, settings))


def download(*, progress: Progress = silent, **settings: Any) -> Downloaded:
    """Fetch the public data set, check it, audit it; see `config.DownloadSettings`."""
    from tumorlens.audit import download as public_set
    from tumorlens.settings import DownloadSettings

    return public_set.download(_settings(DownloadSettings, settings), progress)


def serve(**settings: Any) -> AbstractContextManager[Serving]:
    """Serve the web page for as long as the context lasts; see `config.ServeSettings`."""
    from tumorlens.settings import ServeSettings
    from tumorlens.web import server

    return server.serving(_settings(ServeSettings, settings))


def cache_clear() -> tuple[int, int]:
    """Empty the decode cache; how many entries it had and their size in bytes."""
    from tumorlens.data import cache

    return cache.clear()


def _settings(kind: type[Settings], values: dict[str, Any]) -> Settings:
    paths = {item.name for item in fields(kind) if "Path" in str(item.type)}  # type: ignore[arg-type]
    given = {name: _as_path(value) if name in paths else value for name, value in values.items()}
    return kind(**given)


def _as_path(value: Any) -> Any:
    if isinstance(value, str):
        return Path(value)
    return tuple(map(_as_path, value)) if isinstance(value, (list, tuple)) else value
