"""The command export: a checkpoint as one file that other programs run."""

from dataclasses import replace
from pathlib import Path

import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint import half_precision
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe
from tumorlens.device import cpu_threads
from tumorlens.errors import TumorlensError
from tumorlens.export.parity import Exported, checkpoint_and_images, compared
from tumorlens.progress import Progress, silent
from tumorlens.settings import ExportSettings

# Largest difference of a logit that is taken for rounding: at most 1.3 points of probability.
TOLERANCE = 0.05
# Settings that name places of one machine.
_PLACES = ("data_dir", "out_dir", "splits", "resume", "init")


def export(settings: ExportSettings, progress: Progress = silent) -> Exported:
    """Write `settings.checkpoint` as another kind of file, checked before it is kept.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags; the file would not answer
            as the checkpoint does; or ONNX is asked for where the extra `export` is missing.
    """
    if settings.format == "safetensors":
        return _write_safetensors(settings, _target(settings, half_precision.SUFFIX), progress)
    try:
        from tumorlens.export import onnx_file  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("onnx", "onnxscript", "onnxruntime"):
            raise
        raise TumorlensError(
            f"writing ONNX needs {error.name}; `pip install 'tumorlens[export]'`."
        ) from error
    out = _target(settings, ".int8.onnx" if settings.int8 else ".onnx")
    return onnx_file.write(settings, out, progress)


def _target(settings: ExportSettings, ending: str) -> Path:
    """The file to write: as the flag says, or the checkpoint's with another ending."""
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


def _write_safetensors(settings: ExportSettings, out: Path, progress: Progress) -> Exported:
    """Write `settings.checkpoint` in half precision; every command takes it as --checkpoint."""
    loaded, squares, images = checkpoint_and_images(settings, progress)
    progress("exporting", 0, 2)
    half = half_precision_of(loaded)
    with cpu_threads(settings.threads):
        found = describe(half.network(), half.preprocessing, squares, device=torch.device("cpu"))
        parity = compared(loaded, squares, images, [found])
    progress("exporting", 1, 2)
    if not parity.logits <= TOLERANCE:  # NaN is no agreement
        raise TumorlensError(
            f"--checkpoint {settings.checkpoint}: in half precision a logit differs by "
            f"{parity.logits:.2g} on {len(squares)} {images}, expected at most {TOLERANCE:g}; the "
            "file was not kept. Share the checkpoint as it is."
        )
    checkpoints.save(half, out)
    progress("exporting", 2, 2)
    return Exported(out, out.stat().st_size, "fp16", parity)


def half_precision_of(loaded: Checkpoint) -> Checkpoint:
    """The checkpoint as it will be read from its fp16 file.

    Its weights are rounded to half precision; folders of this machine are left out, paths of
    images within the data folder stay.

    Raises:
        TumorlensError: a weight is too large for half precision.
    """
    data = replace(loaded.data, data_dir=None) if loaded.data else None
    settings = loaded.settings | dict.fromkeys(_PLACES & loaded.settings.keys())
    weights = half_precision.rounded(loaded.weights)
    return replace(loaded, data=data, settings=settings, weights=weights)
