"""Train, compare and explain brain-tumor MRI classifiers, and say how far to believe them.

Every command is a function that returns its result and prints nothing; importing this module loads
nothing heavy. For research: not a medical device.

    import tumorlens
    run = tumorlens.train(model="se_resnet18", data_dir="data")
    report = tumorlens.evaluate(checkpoint=run.checkpoint)
    report.metrics["all"]["n"]

Their signatures are in `__init__.pyi`, written from the settings by `make stubs`.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_COMMANDS = (
    *("train", "evaluate", "gradcam", "predict", "audit", "split", "compare", "study"),
    *("study_report", "calibrate", "export", "report", "serve", "download", "phantom"),
)
__all__ = ["__version__", *_COMMANDS]  # noqa: PLE0604 (names, spelled out once)


def _function(name: str) -> Any:
    return importlib.import_module("tumorlens.public_functions").function(name)


class _Room(ModuleType):
    """A package with a command's name, such as `tumorlens.audit`: it can be called as well."""

    def __call__(self, **settings: Any) -> Any:
        return self.__wrapped__(**settings)

    @property
    def __wrapped__(self) -> Any:
        return _function(self.__name__.rpartition(".")[2])


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _COMMANDS and isinstance(value, ModuleType):  # whoever imported it first
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    found = globals()[name] = _function(name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_COMMANDS})
