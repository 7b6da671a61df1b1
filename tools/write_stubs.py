"""Write src/tumorlens/__init__.pyi, the signatures of the public functions, from the settings."""

import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tumorlens.data.partition import Partition
from tumorlens.inference.predict import PredictionList
from tumorlens.public_functions import COMMANDS, parameters_of
from tumorlens.training.fit import TrainingResult

# Named by functions that import them late.
LATE = {one.__name__: one for one in (Partition, PredictionList, TrainingResult)}
STUB = Path(__file__).parents[1] / "src" / "tumorlens" / "__init__.pyi"


def stub() -> str:
    """The file's text."""
    functions, results = [], set()
    for name, command in COMMANDS.items():
        result = get_type_hints(command.load(), localns=LATE)["return"]
        results |= set(_classes(result))
        parameters = parameters_of(command).values()
        lines = [f"    {one.name}: {one.annotation}{_default(one)},\n" for one in parameters]
        first = command.settings.__doc__.strip().splitlines()[0]
        functions.append(
            f'def {name}(\n    *,\n{"".join(lines)}) -> {_text(result)}:\n    """{first}"""\n'
        )
    imports = sorted(f"from {one.__module__} import {one.__name__}\n" for one in results)
    return (
        "# Written by tools/write_stubs.py (`make stubs`); a test holds it equal to the settings.\n"
        "from collections.abc import Callable, Sequence\n"
        "from contextlib import AbstractContextManager\n"
        "from pathlib import Path\nfrom typing import Any, Literal, TypeAlias\n\n"
        "import numpy.typing as npt\nfrom PIL import Image\n\n"
        + "".join(sorted([*imports, "from tumorlens.progress import Progress\n"]))
        + "\n__version__: str\n"
        "_ImageLike: TypeAlias = str | Path | npt.NDArray[Any] | Image.Image\n\n"
        + "\n".join(functions)
    )


def _classes(hint: Any) -> list[type]:
    if get_args(hint):
        return [one for part in get_args(hint) for one in _classes(part)]
    return [hint] if hint.__module__.startswith("tumorlens") else []


def _text(hint: Any) -> str:
    inner = ", ".join(map(_text, get_args(hint)))
    name = get_origin(hint).__name__ if inner else hint.__name__
    # A context manager's function yields what the caller's `with` is given.
    name = {"Iterator": "AbstractContextManager"}.get(name, name)
    return f"{name}[{inner}]" if inner else name


def _default(parameter: Any) -> str:
    if parameter.default is parameter.empty:
        return ""
    if callable(parameter.default):
        return " = ..."
    value = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
    return f" = {repr(value).replace(chr(39), chr(34))}"


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
    sys.stdout.write(f"{STUB.name} written\n")
