"""Where to compute: a name that a user gives becomes a torch device."""

import contextlib
from collections.abc import Iterator

import torch

from tumorlens.errors import TumorlensError


def pick_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "mps"; "auto" takes the first GPU there is.

    Raises:
        TumorlensError: PyTorch does not see the device asked for.
    """
    seen = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in seen.items() if there), "cpu")
    if not seen.get(name, True):
        raise TumorlensError(f"--device {name}: PyTorch sees no such device; use --device cpu.")
    return torch.device(name)


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads for as long as the context lasts; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
