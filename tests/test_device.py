import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.device import kept_memory

MIB = 1 << 20
LARGE = 40 * MIB  # glibc maps blocks of more than 32 MiB anew, whatever came before
MIDDLE = 8 * MIB  # and, left alone, keeps these after the first
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told"),
    pytest.mark.skipif(
        THP.is_file() and "[always]" in THP.read_text(), reason="pages come by two megabytes here"
    ),
]


def _cleared(block: int) -> float:
    """How often all pages of a block were cleared for five blocks, one after another."""
    import resource

    def use() -> None:
        for _ in range(5):
            bytearray(b"x") * block

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults * os.sysconf("SC_PAGE_SIZE") / block


def _kept(work: Callable[[], float]) -> float:
    with kept_memory():
        return work()


def test_kept_memory_is_not_cleared_again_for_each_block() -> None:
    assert _cleared(LARGE) > 4.5
    assert _kept(lambda: _cleared(LARGE)) < 1.5


def test_after_kept_memory_large_blocks_go_back_and_middle_ones_stay_as_without_it() -> None:
    assert _kept(lambda: _cleared(MIDDLE)) < 1.5
    assert _cleared(LARGE) > 4.5
    assert _cleared(MIDDLE) < 1.5


def test_kept_memory_ends_after_an_error() -> None:
    def fail() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _kept(fail)
    assert _cleared(LARGE) > 4.5
