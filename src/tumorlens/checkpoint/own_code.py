"""Whose code a checkpoint may run: that which the user has named, on this computer, by --model.

A checkpoint holds no code. It may name code, a module or a file, and that could have come with it
from elsewhere. So it is run where the user has named it before, and else refused.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from tumorlens.data.cache import cache_folder
from tumorlens.errors import TumorlensError
from tumorlens.labels import is_foreign
from tumorlens.models.build import is_given

VARIABLE = "TUMORLENS_TRUST"


def allow(model: str) -> None:
    """Note that the user has named this network's code."""
    if is_foreign(model):
        with contextlib.suppress(OSError):  # a folder that cannot be written: it is asked again
            _note(model).parent.mkdir(parents=True, exist_ok=True)
            _note(model).touch()


def refuse_unknown(model: str) -> None:
    """Refuse a network whose code the user has not named.

    Raises:
        TumorlensError: it is not one of ours, nor was it given in Python, named to train or study,
            or named by the environment variable `TUMORLENS_TRUST`, names with commas between them.
    """
    named = os.environ.get(VARIABLE, "").split(",")
    if is_foreign(model) and not (is_given(model) or model in named or _note(model).exists()):
        raise TumorlensError(
            f"network {model}: is code that was not named by --model on this computer, and is not "
            f"run unasked; if you know and trust it, set {VARIABLE}={model}."
        )


def _note(model: str) -> Path:
    """A file that is there where the code was named; of a file's code, by where it lies."""
    place, _, factory = model.rpartition(":")
    where = str(Path(place).resolve()) if place.endswith(".py") else place
    digest = hashlib.sha256(f"{where}:{factory}".encode()).hexdigest()
    return cache_folder() / "networks" / digest
