"""Where to compute: a name that a user gives becomes a torch device; cores, threads and memory.

To import this loads no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tumorlens.errors import TumorlensError
from tumorlens.settings.shared import Precision

Computed = Literal["32-true", "16-mixed", "bf16-mixed"]

if TYPE_CHECKING:
    import torch

# glibc's malloc.h. Keep all: give nothing back (M_TRIM_THRESHOLD), map no block anew (M_MMAP_MAX).
_KEEP = ((-1, -1), (-4, 0))
# glibc adapts two thresholds (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD) until one is set, and then no
# more: these are where blocks of more than 32 MiB, such as training's, bring them by themselves.
_AS_IT_WAS = ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20))


def pick_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "mps"; "auto" takes the first GPU there is.

    Raises:
        TumorlensError: PyTorch does not see the device asked for.
    """
    import torch  # noqa: PLC0415 (see above)

    seen = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in seen.items() if there), "cpu")
    if not seen.get(name, True):
        raise TumorlensError(f"--device {name}: PyTorch sees no such device; use --device cpu.")
    return torch.device(name)


def pick_precision(name: Precision, device: torch.device) -> Computed:
    """The arithmetic of a training, as Lightning names it.

    "auto" takes bf16-mixed where the device computes it in hardware (a processor with AMX or
    AVX512-BF16; most GPUs since 2020), 16-mixed on other CUDA devices, 32-true elsewhere.
    """
    import torch  # noqa: PLC0415 (slow to import)

    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    return "bf16-mixed" if device.type == "cpu" and has_fast_bf16() else "32-true"


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers in hardware, by AMX or AVX512-BF16."""
    import torch  # noqa: PLC0415 (slow to import)

    # PyTorch has no public function for it yet; where these go, 32-true is taken.
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


def usable_cores() -> int:
    """How many cores' worth of processor time this process may use, at least 1.

    The machine's cores, or fewer where the process is tied to some of them (CPU affinity), or where
    its container has a quota, which is rounded up to whole cores.
    """
    from joblib import cpu_count  # noqa: PLC0415 (slow to import)

    cores: int = cpu_count()
    return cores


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads for as long as the context lasts.

    None: as many as before, and no more than `usable_cores()`. PyTorch knows of no quota, and
    threads above it wait for one another while the container is held back.
    """
    import torch  # noqa: PLC0415 (see above)

    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep memory that tensors give back, for the next ones, for as long as the context lasts.

    By default glibc maps each tensor of some megabytes anew and the kernel clears its pages at the
    first touch, in every step of a training again. Results do not change. The price is memory,
    more the larger the tensors: 1.5 GB in a training at 96 px and batch 64, 11 GB instead of 4.1 at
    224 px and batch 128. With another C library nothing changes. Contexts do not nest: the first
    that ends, ends it.
    """
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if libc:
        for parameter, value in _KEEP:
            libc.mallopt(parameter, value)
    try:
        yield
    finally:
        if libc:
            for parameter, value in _AS_IT_WAS:
                libc.mallopt(parameter, value)
            libc.malloc_trim(0)
