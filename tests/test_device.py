import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tumorlens.device import cpu_threads, usable_cores

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_import_loads_neither_torch_nor_joblib() -> None:
    script = "import sys, tumorlens.device\nprint({'torch', 'joblib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_no_count_means_as_many_threads_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 64)
    before = torch.get_num_threads()
    with cpu_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_no_count_means_no_more_threads_than_a_container_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    with cpu_threads(5):
        with cpu_threads(None):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 5


def test_named_count_is_taken_and_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    before = torch.get_num_threads()
    during = []

    def fail() -> None:
        with cpu_threads(3):
            during.append(torch.get_num_threads())
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (the one just above)
        fail()
    assert during == [3]
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone ties to cores")
def test_process_tied_to_one_core_may_use_one() -> None:
    script = (
        "import os\nfrom tumorlens.device import usable_cores\n"
        "os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\nprint(usable_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1", done.stderr
    assert usable_cores() >= 1


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
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc's malloc can be told")
    if THP.is_file() and "[always]" in THP.read_text():
        pytest.skip("pages come by two megabytes here")
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
