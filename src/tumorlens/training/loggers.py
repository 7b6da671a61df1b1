"""Lightning's loggers, by name; none of them asks the network for anything."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from tumorlens.errors import TumorlensError

# Name to the package that it needs.
_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def logger_of(name: str, run_dir: Path, recipe: dict[str, Any]) -> list[Logger]:
    """The logger that --logger names, writing below the run's folder or beside all runs.

    Args:
        name: "auto" (TensorBoard where it is installed), "csv", "tensorboard", "mlflow", "wandb".
        run_dir: of the run; mlflow's store is `mlruns` beside `runs`, for all runs together.
        recipe: what is logged as hyperparameters.

    Raises:
        TumorlensError: its package is not installed.
    """
    package = _PACKAGES.get("tensorboard" if name == "auto" else name)
    if package and importlib.util.find_spec(package) is None:
        if name == "auto":
            return []
        raise TumorlensError(
            f"--logger {name}: needs the package {package}, which is not installed; "
            f"`pip install tumorlens[{name}]`."
        )
    found = _made(name, run_dir)
    found.log_hyperparams(recipe)
    return [found]


def _made(name: str, run_dir: Path) -> Logger:
    if name == "csv":
        return CSVLogger(run_dir, name=None, version="csv")
    if name == "mlflow":
        # Else mlflow asks for a database, and tells its makers how it is used.
        for setting in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
            os.environ.setdefault(setting, "true")
        from lightning.pytorch.loggers import MLFlowLogger  # noqa: PLC0415 (an extra)

        store = (run_dir.parent.parent / "mlruns").resolve().as_uri()
        return MLFlowLogger("tumorlens", run_name=run_dir.name, tracking_uri=store)
    if name == "wandb":
        from lightning.pytorch.loggers import WandbLogger  # noqa: PLC0415 (an extra)

        return WandbLogger(run_dir.name, run_dir, project="tumorlens", offline=True)
    from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415 (an extra)

    return TensorBoardLogger(run_dir, name=None, version="tensorboard")
