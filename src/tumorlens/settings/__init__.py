"""The settings of every verb: frozen, documented, and refusing nonsense at birth.

These classes are the command line too: a field's name is its flag, its docstring its help.
"""

from tumorlens.settings.data import (
    AuditSettings,
    DownloadSettings,
    PhantomSettings,
    SplitSettings,
)
from tumorlens.settings.deploy import ExportSettings, PredictSettings, ReportSettings, ServeSettings
from tumorlens.settings.evaluate import CompareSettings, EvaluateSettings, GradcamSettings
from tumorlens.settings.shared import (
    MAP_LAYER,
    MAP_METHOD,
    Device,
    MapMethod,
    ModelName,
    RecipeName,
    primitives,
)
from tumorlens.settings.train import StudySettings, TrainSettings

__all__ = [
    "MAP_LAYER",
    "MAP_METHOD",
    "AuditSettings",
    "CompareSettings",
    "Device",
    "DownloadSettings",
    "EvaluateSettings",
    "ExportSettings",
    "GradcamSettings",
    "MapMethod",
    "ModelName",
    "PhantomSettings",
    "PredictSettings",
    "RecipeName",
    "ReportSettings",
    "ServeSettings",
    "SplitSettings",
    "StudySettings",
    "TrainSettings",
    "primitives",
]
