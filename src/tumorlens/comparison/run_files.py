"""What a study leaves of each finished run, read back: one JSON and one predictions CSV a run.

The files are named MODEL-PROTOCOL[-foldK]-seedS: `NAME.json` and
`NAME-predictions.csv.gz` (earlier versions wrote it without compression).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions, read
from tumorlens.files import read_json
from tumorlens.labels import in_file_name

WHAT = "tumorlens study run"
# What records and manifests mean that were written before there was such a flag.
_DEFAULTS: dict[str, Any] = {
    "train_on_valid": False,
    "patients": None,
    "allow_patient_overlap": False,
    "precision": "32-true",
    "init": None,
    "freeze": [],
    "loss": "cross_entropy",
    "balance": None,
    "balance_exponent": 1.0,
    "operating_point": "none",
}


@dataclass(frozen=True)
class RunFiles:
    """One finished run of a study."""

    name: str  # MODEL-PROTOCOL[-foldK]-seedS
    model: str
    protocol: str
    fold: int | None  # None for the official protocol
    seed: int
    record: dict[str, Any]  # the JSON as a whole
    predictions_file: Path  # the CSV

    def predictions(self) -> Predictions:
        """What the run's network answered to its test images."""
        return read(self.predictions_file)


def run_name(model: str, protocol: str, fold: int | None, seed: int) -> str:
    """The name of a run's files."""
    part = "" if fold is None else f"-fold{fold}"
    return f"{in_file_name(model)}-{protocol}{part}-seed{seed}"


def predictions_file(folder: Path, name: str) -> Path:
    """Where a run's predictions are."""
    plain = folder / f"{name}-predictions.csv"
    return plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")


def read_run(folder: Path, name: str) -> RunFiles | None:
    """A finished run; None where its two files are not there or its JSON is not a run's."""
    try:
        record = read_json(folder / f"{name}.json")
    except (OSError, ValueError):
        return None
    table = predictions_file(folder, name)
    if not isinstance(record, dict) or record.get("what") != WHAT or not table.is_file():
        return None
    return RunFiles(
        name=name,
        model=str(record["model"]),
        protocol=str(record["protocol"]),
        fold=record["fold"],
        seed=int(record["seed"]),
        record=record,
        predictions_file=table,
    )


def finished_runs(folder: Path) -> tuple[RunFiles, ...]:
    """Every finished run in a study's folder, by name; none where there is no such folder."""
    found = [read_run(folder, path.stem) for path in sorted(folder.glob("*.json"))]
    return tuple(run for run in found if run is not None)


def read_study(folder: Path) -> tuple[RunFiles, ...]:
    """Every finished run in a study's folder, by name.

    Raises:
        TumorlensError: there is none.
    """
    runs = finished_runs(folder)
    if not runs:
        raise TumorlensError(
            f"{folder}: holds no finished run of a study; expected files such as "
            "resnet18-official-seed0.json, which `tumorlens study` writes."
        )
    return runs


def differing(there: dict[str, Any], asked: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting, by name, there and asked, in which a run is not as asked; None: none is.

    Of settings that neither the run nor a default tells, nothing is said.
    """
    there = _DEFAULTS | there
    for name, value in (_DEFAULTS | asked).items():
        if there.get(name, value) != value:
            return name, there[name], value
    return None


def refuse_mixed(runs: Sequence[RunFiles]) -> None:
    """Runs of one protocol are one study only where they were trained alike.

    Raises:
        TumorlensError: two that were not.
    """
    first: dict[str, RunFiles] = {}
    for run in runs:
        one = first.setdefault(run.protocol, run)
        other = differing(run.record["training"], one.record["training"])
        if other is not None:
            name, value, ones = other
            raise TumorlensError(
                f"{run.predictions_file.parent}: {run.name} was trained with {name} {value}, "
                f"{one.name} with {ones}; a study is of runs trained alike, so keep each kind in a "
                "folder of its own."
            )
