import os
import platform
from collections.abc import Callable

import pytest

from tumorlens.device import kept_memory

BLOCK = 40 << 20  # bytes; glibc maps blocks of more than 32 MiB anew, whatever came before


def _page_faults(work: Callable[[], object]) -> int:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _fill_and_forget() -> None:
    for _ in range(5):
        bytearray(b"x") * BLOCK


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_kept_memory_is_not_cleared_again_for_each_block_and_is_given_back_after() -> None:
    pages = BLOCK // os.sysconf("SC_PAGE_SIZE")
    assert _page_faults(_fill_and_forget) > 4.5 * pages
    with kept_memory():
        assert _page_faults(_fill_and_forget) < 1.5 * pages
    assert _page_faults(_fill_and_forget) > 4.5 * pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_kept_memory_is_given_back_after_an_error() -> None:
    def fail() -> None:
        with kept_memory():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _page_faults(_fill_and_forget) > 4.5 * BLOCK // os.sysconf("SC_PAGE_SIZE")
