"""The command line: `tumorlens COMMAND ...`.

The command is found on the first word and nothing but its own file is loaded; `main` alone turns
errors into one sentence and an exit status.
"""

import difflib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tumorlens import __version__
from tumorlens.errors import DISK_FULL, TumorlensError

COMMANDS = {
    "train": "train a network, keep its best epoch",
    "evaluate": "score a checkpoint class by class, with intervals, with and without "
    "near-duplicates",
    "gradcam": "see where a network looked",
    "predict": "name the class of images, DICOM and NIfTI files, and how sure that is",
    "audit": "find near-duplicates, mirror images, conflicting labels and shortcuts in a data "
    "folder",
    "split": "split a data folder so that near-duplicates stay together",
    "compare": "compare two networks on the same images, and say what is statistically significant",
    "study": "train and score a grid of networks, seeds and folds; tables and metrics of it",
    "calibrate": "calibrate a finished checkpoint: operating point, last layer, sets of classes",
    "export": "write a checkpoint as ONNX, in 32 or 8 bits, checked",
    "report": "put a run on one page, and write its model card",
    "serve": "a web page: drop a slice, see classes, decision and maps",
    "download": "fetch a public data set, check it, audit it",
    "phantom": "make a simulated data set with known tumor masks",
    "cache": "show or clear the cache of decoded images",
}

DONE, FAILED_CHECK, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run one command.

    Args:
        argv: the command and its flags; default: the process's own.
        prog: what help calls the program; default: "tumorlens COMMAND".

    Returns:
        Exit status: 0 done, 1 a check that the user asked for failed, 2 wrong input, 130 Ctrl-C.
    """
    try:
        return _answered(list(sys.argv[1:] if argv is None else argv), prog)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _answered(words: list[str], prog: str | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if words[0] in ("-V", "--version"):
        print(f"tumorlens {__version__}")
        return DONE
    command, *rest = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(COMMANDS)}."
        print(f"tumorlens: no command `{command}`; {hint}", file=sys.stderr)
        return WRONG_INPUT
    prog = prog or f"tumorlens {command}"
    # Before PyTorch loads its OpenMP runtime: a thread that waits for another spins a little and
    # then sleeps. Where another program wants a core too, long spinning costs most of the speed
    # (results/speed/contended_training.json). Whoever has chosen a policy keeps it.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if command in ("train", "study"):  # huge pages; PyTorch reads it at its first tensor
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        status: int = importlib.import_module(f"tumorlens.cli.{command}").run(rest, prog)
    except TumorlensError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt as stop:
        print(f"\n{prog}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.filename is None and error.errno not in (*DISK_FULL, errno.ENOENT):
            raise
        print(f"{prog}: {_refused(error)}", file=sys.stderr)
        return WRONG_INPUT
    return status


def _refused(error: OSError) -> str:
    """What the system does not let us read or write, and what to do about it."""
    if error.filename is None and error.errno == errno.ENOENT:  # `getcwd` names no file
        return "the folder that you are in is gone; change to another."
    why = f"({error.strerror})"
    if error.errno in (*DISK_FULL, errno.EROFS) or not isinstance(error.filename, str):
        place = error.filename or "the output"
        return f"{place}: cannot be written {why}; free some room or name another folder."
    path = Path(error.filename)
    for folder in reversed(path.absolute().parents):
        if folder.is_dir() and not os.access(folder, os.X_OK):
            return f"{folder}: cannot be entered {why}; check its permissions."
    if error.errno not in (errno.EACCES, errno.EPERM):
        return f"{path}: cannot be read or written {why}; see that it is there and can be used."
    if path.exists() and not os.access(path, os.R_OK):
        return f"{path}: cannot be read {why}; check its permissions."
    return f"{path}: cannot be written {why}; check its permissions or name another place."


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {command:{width}}  {what}" for command, what in COMMANDS.items())
    return (
        "usage: tumorlens COMMAND [flags]      tumorlens COMMAND --help\n\n"
        "Train, compare and explain brain-tumor MRI classifiers, and say how far their numbers\n"
        f"can be believed.\n\n{commands}\n\n"
        "For research: tumorlens is not a medical device and nothing it says is a diagnosis."
    )
