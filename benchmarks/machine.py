"""What a benchmark ran on, for its JSON."""

import os
import platform
import subprocess
from pathlib import Path


def facts() -> dict[str, str]:
    """Commit, processor, cores, memory; the load says whether others were at work."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    wide = " with AVX-512" if "avx512f" in Path("/proc/cpuinfo").read_text() else ""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "commit": commit,
        "machine": f"{model}{wide}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB",
        "load_of_the_last_minute": f"{os.getloadavg()[0]:.1f} (2.0 is this benchmark alone)",
        "python": platform.python_version(),
    }
