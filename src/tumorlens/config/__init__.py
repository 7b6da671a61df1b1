"""The settings of every verb: frozen, documented, and refusing nonsense at birth.

These classes are the command line too: a field's name is its flag, its docstring its help.
"""

from tumorlens.config.judging import CompareSettings, EvaluateSettings, GradcamSettings
from tumorlens.config.kinds import (
    MAP_LAYER,
    MAP_METHOD,
    Device,
    MapMethod,
    ModelName,
    RecipeName,
    primitives,
)
from tumorlens.config.pictures import (
    AuditSettings,
    DownloadSettings,
    PhantomSettings,
    SplitSettings,
)
from tumorlens.config.training import StudySettings, TrainSettings
from tumorlens.config.use import ExportSettings, PredictSettings, ReportSettings, ServeSettings

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
