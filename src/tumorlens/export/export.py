"""The command export: a checkpoint as one file that other programs run."""

from pathlib import Path

from tumorlens.checkpoint.half_precision import SUFFIX
from tumorlens.errors import TumorlensError
from tumorlens.export.parity import Exported
from tumorlens.progress import Progress, silent
from tumorlens.settings import ExportSettings


def export(settings: ExportSettings, progress: Progress = silent) -> Exported:
    """Write `settings.checkpoint` as another kind of file, checked before it is kept.

    Raises:
        TumorlensError: faults of the checkpoint, the data, the flags; the file would not answer
            as the checkpoint does; or ONNX is asked for where the extra `export` is missing.
    """
    if settings.format == "safetensors":
        from tumorlens.export import safetensors_file  # noqa: PLC0415 (no ONNX needed)

        return safetensors_file.write(settings, _target(settings, SUFFIX), progress)
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
