"""The settings of every command: frozen, documented, and refusing nonsense at birth.

These classes are the command line too: a field's name is its flag, its docstring its help.
"""

from tumorlens.settings.data import AuditSettings, DownloadSettings, PhantomSettings, SplitSettings
from tumorlens.settings.deploy import (
    CalibrateSettings,
    ExportSettings,
    PredictSettings,
    ReportSettings,
    ServeSettings,
)
from tumorlens.settings.evaluate import CompareSettings, EvaluateSettings, GradcamSettings
from tumorlens.settings.shared import (
    FLAGS,
    GROUPS,
    IN_PYTHON,
    MAP_LAYER,
    MAP_METHOD,
    METHOD_NAMES,
    REQUIRED,
    MapMethod,
    ModelName,
    OperatingPointName,
    docs_of,
    is_required,
    primitives,
)
from tumorlens.settings.train import (
    RECIPE_DEFAULTS,
    RECIPE_FLAGS,
    StudySettings,
    TrainingOptions,
    TrainSettings,
)

__all__ = [
    "FLAGS",
    "GROUPS",
    "IN_PYTHON",
    "MAP_LAYER",
    "MAP_METHOD",
    "METHOD_NAMES",
    "RECIPE_DEFAULTS",
    "RECIPE_FLAGS",
    "REQUIRED",
    "AuditSettings",
    "CalibrateSettings",
    "CompareSettings",
    "DownloadSettings",
    "EvaluateSettings",
    "ExportSettings",
    "GradcamSettings",
    "MapMethod",
    "ModelName",
    "OperatingPointName",
    "PhantomSettings",
    "PredictSettings",
    "ReportSettings",
    "ServeSettings",
    "SplitSettings",
    "StudySettings",
    "TrainSettings",
    "TrainingOptions",
    "docs_of",
    "is_required",
    "primitives",
]
