import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told"),
    pytest.mark.skipif(
        THP.is_file() and "[always]" in THP.read_text(), reason="pages come by two megabytes here"
    ),
]

# In a process of its own: what malloc does depends on all that a process had before. glibc maps
# blocks of more than 32 MiB anew each time and, left alone, keeps smaller ones after the first.
SCRIPT = """
import contextlib, json, os, resource
from tumorlens.device import kept_memory

def cleared(mebibytes):
    block = mebibytes << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytearray(b"x") * block
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults * os.sysconf("SC_PAGE_SIZE") / block

found = {"before": cleared(40)}
with kept_memory():
    found["kept"] = cleared(40)
found["after"] = cleared(40)
found["after, smaller"] = cleared(8)
with contextlib.suppress(ZeroDivisionError), kept_memory():
    1 / 0
found["after an error"] = cleared(40)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def times_cleared() -> dict[str, float]:
    """How often all pages of a block were cleared for five blocks, one after another."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_kept_memory_is_cleared_once_and_not_for_each_block(
    times_cleared: dict[str, float],
) -> None:
    assert times_cleared["before"] > 4.5
    assert times_cleared["kept"] < 1.5


def test_after_kept_memory_large_blocks_go_back_and_smaller_ones_stay_as_without_it(
    times_cleared: dict[str, float],
) -> None:
    assert times_cleared["after"] > 4.5
    assert times_cleared["after, smaller"] < 1.5


def test_kept_memory_ends_after_an_error(times_cleared: dict[str, float]) -> None:
    assert times_cleared["after an error"] > 4.5
