"""The verb export: which file is asked for."""

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
        from tumorlens.export import safetensors_file as light_file  # noqa: PLC0415 (no ONNX needed)

        return light_file.write(settings, progress)
    try:
        from tumorlens.export import onnx_file  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("onnx", "onnxscript", "onnxruntime"):
            raise
        raise TumorlensError(
            f"writing ONNX needs {error.name}; `pip install 'tumorlens[export]'`."
        ) from error
    return onnx_file.write(settings, progress)
