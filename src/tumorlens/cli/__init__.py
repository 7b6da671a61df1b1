"""The command line: `tumorlens VERB ...`.

The verb is found on the first word and nothing but its own file is loaded; `main` alone turns
errors into one sentence and an exit status.
"""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from tumorlens import __version__
from tumorlens.errors import TumorlensError

VERBS = {
    "train": "train a network from scratch, keep its best epoch",
    "evaluate": "score a checkpoint class by class, with intervals, with and without copies",
    "gradcam": "see where a network looked",
    "predict": "name the class of pictures, DICOM and NIfTI files, and how sure that is",
    "audit": "find copies, mirror images, conflicting labels and shortcuts in a data folder",
    "split": "split a data folder so that copies stay together",
    "compare": "compare two networks on the same images, and say what is chance",
    "study": "train and score a grid of networks, seeds and folds; tables and figures of it",
    "export": "write a checkpoint as ONNX, in 32 or 8 bits, checked",
    "report": "put a run on one page, and write its model card",
    "serve": "a web page: drop a slice, see classes, verdict and maps",
    "download": "fetch the public data set, check it, audit it",
    "phantom": "make a simulated data set with known tumor masks",
    "cache": "show or clear the cache of decoded pictures",
}

DONE, FAILED_CHECK, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run one verb.

    Args:
        argv: the verb and its flags; default: the process's own.
        prog: what help calls the program; default: "tumorlens VERB".

    Returns:
        Exit status: 0 done, 1 a check that the user asked for failed, 2 wrong input, 130 Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if words[0] in ("-V", "--version"):
        print(f"tumorlens {__version__}")
        return DONE
    verb, *rest = words
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(VERBS)}."
        print(f"tumorlens: no verb `{verb}`; {hint}", file=sys.stderr)
        return WRONG_INPUT
    prog = prog or f"tumorlens {verb}"
    # Before PyTorch loads its OpenMP runtime: a thread that waits for another spins a little and
    # then sleeps. Where another program wants a core too, long spinning costs most of the speed
    # (results/speed/contended_training.json). Whoever has chosen a policy keeps it.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if verb in ("train", "study"):  # huge pages; PyTorch reads it at its first tensor
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        status: int = importlib.import_module(f"tumorlens.cli.{verb}").run(rest, prog)
    except TumorlensError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt as stop:
        print(f"\n{prog}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f"{prog}: {error.filename or 'the output'} cannot be written ({error.strerror}); free "
            "some room or name another folder.",
            file=sys.stderr,
        )
        return WRONG_INPUT
    return status


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {what}" for verb, what in VERBS.items())
    return (
        "usage: tumorlens VERB [flags]      tumorlens VERB --help\n\n"
        "Train, compare and explain brain-tumor MRI classifiers, and say how far their numbers\n"
        f"can be believed.\n\n{verbs}\n\n"
        "For research: tumorlens is not a medical device and nothing it says is a diagnosis."
    )
