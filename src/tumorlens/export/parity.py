"""What an export is compared with its checkpoint on, before it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import images_of
from tumorlens.data.dataset import Dataset
from tumorlens.data.folder import scan
from tumorlens.data.readers import fit_square, read_grey
from tumorlens.errors import TumorlensError, UnreadableImageError
from tumorlens.settings import ExportSettings

if TYPE_CHECKING:
    from tumorlens.export.int8 import Cost

# Pictures for the comparison.
COMPARED = 32


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file.
        size: in bytes.
        precision: "fp32", "fp16" or "int8".
        parity: how far it is from the checkpoint; in 8 bits, how far the graph in 32 bits is.
        cost: what 8 bits cost; None: not 8 bits.
        skipped: path of each picture that could not be decoded to the reason; int8 alone looks.
    """

    path: Path
    size: int
    precision: str
    parity: "Parity"
    cost: "Cost | None" = None
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from its checkpoint.

    Attributes:
        pictures: what it was shown, in words.
        count: how many.
        logits, features: largest absolute difference from PyTorch's.
    """

    pictures: str
    count: int
    logits: float
    features: float


def target(settings: ExportSettings, ending: str) -> Path:
    """The file to write: as the flag says, or beside the checkpoint.

    Args:
        settings: of the verb.
        ending: what the checkpoint's own ending is replaced by, such as ".int8.onnx".

    Raises:
        TumorlensError: another ending, a folder, or the checkpoint itself.
    """
    out = settings.out or settings.checkpoint.with_suffix(ending)
    last = ending[ending.rindex(".") :]
    if out.suffix != last:
        raise TumorlensError(f"--out {out}: expected a name that ends in {last}.")
    if out.is_dir():
        raise TumorlensError(f"--out {out}: is a folder, expected a file; name another --out.")
    if out.exists() and settings.checkpoint.exists() and out.samefile(settings.checkpoint):
        raise TumorlensError(
            f"--out {out}: is the checkpoint itself, which is not overwritten; name another --out."
        )
    return out


def pictures_for(
    loaded: Checkpoint, settings: ExportSettings, data: Dataset | None
) -> tuple[npt.NDArray[np.uint8], str]:
    """A few pictures and what they are: validation images where they can be had, else noise.

    Args:
        loaded: the checkpoint, which remembers its data folder and split.
        settings: its `data_dir`, `splits` and `fold` override that.
        data: these images, where they are loaded already.

    Returns:
        (N, S, S), at least 2 of them, and their name for a person.
    """
    side = loaded.preprocessing.image_size
    if data is not None:
        valid = data.indices("valid")
        return data.images[valid[_spread(len(valid))]], "validation images"
    try:
        root, assignment = images_of(loaded, settings.data_dir, settings.splits, settings.fold)
    except TumorlensError:
        if settings.data_dir is not None or settings.splits is not None:
            raise
        return _noise(side), "pictures of noise"
    paths = _valid_paths(root, assignment)
    squares = []
    for path in [paths[place] for place in _spread(len(paths))]:
        try:
            squares.append(fit_square(read_grey(root / path), side))
        except UnreadableImageError:
            continue
    if len(squares) < 2:
        return _noise(side), "pictures of noise"
    return np.stack(squares), "validation images"


def _valid_paths(root: Path, assignment: Mapping[str, str] | None) -> list[str]:
    if assignment is None:
        files = {file.path: file.split for file in scan(root).files}
    else:
        files = {path: part for path, part in assignment.items() if (root / path).is_file()}
    return sorted(path for path, part in files.items() if part == "valid")


def _spread(count: int) -> npt.NDArray[np.int64]:
    """At most `COMPARED` places of `count`, evenly from first to last: classes lie in a row."""
    places = np.linspace(0, max(count - 1, 0), min(COMPARED, count))
    return places.round().astype(np.int64)


def _noise(side: int) -> npt.NDArray[np.uint8]:
    """Noise of every grain, from single pixels to large patches, dark to bright."""
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(COMPARED):
        grain = 2 ** (number % 5)
        cells = -(-side // grain)
        noise = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
        pictures.append(np.kron(noise, np.ones((grain, grain), dtype=np.uint8))[:side, :side])
    return np.stack(pictures)
