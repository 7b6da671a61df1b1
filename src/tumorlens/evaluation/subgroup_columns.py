"""What divides images into subgroups: columns of tables, and what the images say themselves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorlens.data.dataset import Dataset
from tumorlens.data.patients import NOT_OF_THE_IMAGE
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import ByPath, read_table

Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]

# A column with more values has them cut into thirds if they are numbers, else it is left out.
_MOST_VALUES = 12
_EDGES = ("box_x0", "box_y0", "box_x1", "box_y1")
_NOT_ASKED = (*NOT_OF_THE_IMAGE, "examination", *_EDGES)


def subgroup_columns(data: Dataset, file: Path | None) -> tuple[dict[str, Names], str]:
    """What divides the images: columns of `file` and of the patients table, and of the images.

    The images' own: "colour mode" of the file, and "brightness", thirds of the mean grey of the
    square that the network is shown. Boxes in `file` become "tumor size", thirds of their area.

    Returns:
        (N,) name of each image's subgroup by column, "" for none; a sentence of the columns that
        are left out, "" without any.

    Raises:
        TumorlensError: no such file, nothing of it is of use, or faults of its boxes.
    """
    given = data.patients.properties() if data.patients else {}
    asked = _read(file, data.paths) if file else {}
    found: dict[str, Names] = {}
    if all(edge in asked for edge in _EDGES):
        found["tumor size"] = thirds(_areas(file, [asked[edge].tolist() for edge in _EDGES]))
    raw = {name: values for name, values in (given | asked).items() if name not in _NOT_ASKED}
    divided = {name: _divided(values) for name, values in raw.items() if (values != "").any()}
    found |= {name: values for name, values in divided.items() if values is not None}
    if file and not found.keys() & {"tumor size", *asked}:
        raise TumorlensError(
            f"--subgroups {file}: has no column that divides the images; found "
            f"{', '.join(asked)}; expected columns of at most "
            f"{_MOST_VALUES} values, such as site, columns of numbers, or boxes."
        )
    colours = np.array([_colour(one.mode) for one in data.facts], dtype=np.str_)
    if len(np.unique(colours)) > 1:
        found.setdefault("colour mode", colours)
    found.setdefault("brightness", thirds(data.images.mean(axis=(1, 2))))
    left = [name for name, values in divided.items() if values is None]
    words = f"No subgroups by {', '.join(left)}: more than {_MOST_VALUES} values, no numbers."
    return found, words if left else ""


def _read(file: Path, paths: Sequence[str]) -> dict[str, Names]:
    rows, columns = read_table(file, "--subgroups", ("path",))
    known = ByPath({row["path"]: row for row in rows})
    if not any(path in known for path in paths):
        raise TumorlensError(
            f"--subgroups {file}: lists none of the images; it has {next(iter(known), 'no row')}, "
            f"the data folder has {paths[0]}. Paths are relative to --data_dir."
        )
    return {
        name: np.array([known.get(path, {}).get(name, "") for path in paths], dtype=np.str_)
        for name in columns
    }


def _colour(mode: str) -> str:
    return "grey" if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;") else "colour"


def _numbers(values: Sequence[str]) -> Floats:
    return np.array([float(one.replace(",", ".")) if one else np.nan for one in values])


def _areas(file: Path | None, edges: Sequence[list[str]]) -> Floats:
    """(N,) share of the image that each box covers; NaN without one."""
    try:
        x0, y0, x1, y1 = map(_numbers, edges)
    except ValueError as error:
        raise TumorlensError(f"--subgroups {file}: a box's edge is no number ({error}).") from None
    return (x1 - x0) * (y1 - y0)


def _divided(values: Names) -> Names | None:
    """Values as names of subgroups, or as thirds of numbers; None: they are neither."""
    if len(set(values) - {""}) <= _MOST_VALUES:
        return values
    try:
        return thirds(_numbers(values.tolist()))
    except ValueError:
        return None


def thirds(values: Floats) -> Names:
    """(N,) numbers to the names of their thirds; "" where it is no number."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(values), "")
    low, high = np.quantile(values[known], [1 / 3, 2 / 3])
    names = [f"third 1, to {low:.3g}", f"third 2, to {high:.3g}", f"third 3, above {high:.3g}", ""]
    which = np.where(known, np.digitize(values, [low, high], right=True), 3)
    return np.array(names)[which]
