"""The commands as functions, made from their settings: `tumorlens.train(...)` and the others."""

import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from tumorlens import settings
from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent

if TYPE_CHECKING:
    from tumorlens.data.partition import Partition
    from tumorlens.inference.predict import PredictionList
    from tumorlens.training.fit import TrainingResult


@dataclass(frozen=True)
class Command:
    """How a command is reached."""

    settings: type  # its settings class; each field is a parameter
    entry: str  # module and function below `tumorlens`, which takes the settings
    # Fields that are no parameters, and their values
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reports: bool = True  # whether it takes a listener for its progress too

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        module, _, name = self.entry.rpartition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(f"tumorlens.{module}"), name)
        return found


COMMANDS = {
    "train": Command(settings.TrainSettings, "public_functions.train"),
    "evaluate": Command(settings.EvaluateSettings, "evaluation.evaluate.evaluate"),
    "gradcam": Command(settings.GradcamSettings, "explain.panel.gradcam"),
    "predict": Command(settings.PredictSettings, "public_functions.predict", {"json": False}),
    "audit": Command(settings.AuditSettings, "audit.files.audit_and_write"),
    "split": Command(settings.SplitSettings, "public_functions.split"),
    "compare": Command(settings.CompareSettings, "comparison.compare.compare_and_write"),
    "study": Command(settings.StudySettings, "studies.grid.study", {"report": False}),
    "study_report": Command(settings.StudySettings, "studies.report.draw_report", {"report": True}),
    "calibrate": Command(settings.CalibrateSettings, "training.finished.calibrate"),
    "export": Command(settings.ExportSettings, "export.export.export"),
    "report": Command(settings.ReportSettings, "reporting.page.report", reports=False),
    "serve": Command(settings.ServeSettings, "web.serve.serve", reports=False),
    "download": Command(settings.DownloadSettings, "audit.download.download"),
    "phantom": Command(settings.PhantomSettings, "phantom.dataset.phantom"),
}


def train(chosen: settings.TrainSettings, progress: Progress) -> "TrainingResult":
    """Train; Lightning starts further processes by running the caller's script again."""
    from tumorlens.training import fit, runs

    resumed = chosen.resume
    devices = (runs.settings_of_run(resumed, chosen) if resumed else chosen).devices
    if devices > 1 and not {"LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys():
        raise TumorlensError(
            f"--devices {devices}: each further process would run this script again from its first "
            "line; use the command `tumorlens train` with the same flags, or start the script by "
            "torchrun."
        )
    return fit.train(chosen, progress)


def predict(chosen: settings.PredictSettings, progress: Progress) -> "PredictionList":
    """Predict; all predictions are kept in memory."""
    from tumorlens.inference import predict as module

    found = module.PredictionList()
    module.predict(chosen, progress, found.append)
    return found


def split(chosen: settings.SplitSettings, progress: Progress) -> "Partition":
    """Split a folder, and write the file."""
    from tumorlens.data.partition import partition, write_partition

    found = partition(chosen, progress)
    write_partition(found, chosen.out)
    return found


@functools.cache
def function(name: str) -> Callable[..., Any]:
    """The public function of a command: keyword arguments in, the command's result out."""
    command = COMMANDS[name]
    hints = get_type_hints(command.settings)
    parameters = parameters_of(command)
    signature = inspect.Signature(list(parameters.values()))

    def call(**given: Any) -> Any:
        signature.bind(**given)
        listener = (given.pop("progress", silent),) if command.reports else ()
        values = {name: _accepted(value, hints[name]) for name, value in given.items()}
        try:
            chosen = command.settings(**values, **command.fixed)
            return command.load()(chosen, *listener)
        except (ValueError, TumorlensError) as error:
            error.args = (_in_python(str(error), hints),)
            raise

    docs = {**settings.docs_of(command.settings), "progress": "Told how far the work is."}
    lines = (f"    {name}: {docs[name]}" for name in parameters)
    summary = f"{inspect.getdoc(command.settings)}\n\nArgs:\n" + "\n".join(lines)
    call.__name__ = call.__qualname__ = name
    call.__module__ = "tumorlens"
    call.__doc__ = _in_python(summary, hints)
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def parameters_of(command: Command) -> dict[str, inspect.Parameter]:
    """Name to parameter, those that must be given first; annotations are text."""
    hints = get_type_hints(command.settings)
    found: dict[str, tuple[Any, str]] = {
        item.name: (
            item.default,
            item.metadata.get(settings.IN_PYTHON) or _annotation(hints[item.name]),
        )
        for item in sorted(fields(command.settings), key=lambda one: not settings.is_required(one))
        if item.name not in command.fixed
    }
    if command.reports:
        found["progress"] = silent, Progress.__name__
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return {
        name: inspect.Parameter(
            name, kind, default=empty if default is MISSING else default, annotation=annotation
        )
        for name, (default, annotation) in found.items()
    }


def _annotation(hint: Any) -> str:
    """What a caller may give where the settings have `hint`."""
    if get_origin(hint) is Literal:
        return "Literal[" + ", ".join(f'"{word}"' for word in get_args(hint)) + "]"
    if get_origin(hint) is tuple:
        return f"Sequence[{_annotation(get_args(hint)[0])}]"
    if get_args(hint):
        return " | ".join(map(_annotation, get_args(hint)))
    if hint is NoneType:
        return "None"
    if hint is settings.ModelName:
        return "str | Callable[..., Any]"  # a torch.nn.Module can be called too
    return "str | Path" if hint is Path else str(hint.__name__)


def _accepted(value: Any, hint: Any) -> Any:
    """Text as the path that it names, any sequence, or one alone, as a tuple, code by a name.

    Images in memory stay as they are, one alone too.
    """
    if settings.ModelName in (hint, *get_args(hint)) and callable(value):
        from tumorlens.models.build import name_of

        value = name_of(value)
    if get_origin(hint) is tuple:
        alone = isinstance(value, str | Path) or hasattr(value, "__array_interface__")
        return tuple(_accepted(one, get_args(hint)[0]) for one in ([value] if alone else value))
    return Path(value) if isinstance(value, str) and Path in (hint, *get_args(hint)) else value


def _in_python(message: str, names: Collection[str]) -> str:
    """A message with parameters for flags; commands, in backticks, stay commands.

    Args:
        message: it may name flags of other commands too.
        names: of the parameters.
    """
    every = {item.name for command in COMMANDS.values() for item in fields(command.settings)}
    called = {settings.FLAGS.get(name, name): name for name in every}
    if "out_dir" not in names and "out" in names:
        called["out_dir"] = "out"  # likewise on the command line
    flags = re.compile(rf"--({'|'.join(called)})\b")
    parts = message.split("`")
    parts[::2] = [flags.sub(lambda found: called[found[1]], part) for part in parts[::2]]
    return "`".join(parts)
