"""On which machine and from which code a figure was made."""

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def machine() -> str:
    """Processor and cores, such as "AMD EPYC 7763, 2 cores"; no name of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    except OSError:
        pass
    return f"{model}, {cores} cores"


@functools.cache
def code() -> dict[str, Any]:
    """The commit of tumorlens's own source tree, and whether it was changed since; {} if unknown.

    Told from git, where this very file is tracked by it, once in a process: what is committed while
    runs go on is not what they run.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return {}
    changed = _git("status", "--porcelain", "--", str(here.parents[1]))
    return {"commit": _git("rev-parse", "--short", "HEAD"), "changed_since": bool(changed)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
