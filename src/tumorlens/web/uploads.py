"""An upload's bytes as grey slices, and volumes between two requests; all of it in memory.

What a file is, its content says; its name is never sent.
"""

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from tumorlens.data import volumes
from tumorlens.data.volumes import Scan
from tumorlens.errors import ScanError, TumorlensError


@dataclass(frozen=True)
class Limits:
    """How much one upload may be."""

    bytes: int  # of the file
    pixels: int  # of all its slices together


class VolumeCache:
    """Decoded volumes whose slices are being viewed; used in the server's event loop alone.

    Args:
        most_bytes: of all volumes together; what was used longest ago is dropped first.
        most: volumes.
        seconds: after which a volume is dropped; the page then sends its file again.
    """

    def __init__(
        self, most_bytes: int = 256_000_000, most: int = 16, seconds: float = 900.0
    ) -> None:
        self.most_bytes = most_bytes
        self.most = most
        self.seconds = seconds
        self._kept: OrderedDict[str, Scan] = OrderedDict()

    def put(self, volume: Scan) -> str:
        """Keep `volume`; the token that gets it back, which nobody can guess."""
        token = secrets.token_urlsafe(16)
        self._kept[token] = volume
        while len(self._kept) > 1 and (
            len(self._kept) > self.most or self._bytes() > self.most_bytes
        ):
            self._kept.popitem(last=False)
        asyncio.get_running_loop().call_later(self.seconds, self.drop, token)
        return token

    def get(self, token: str) -> Scan | None:
        """What `put` kept; None if it is no longer there."""
        if token in self._kept:
            self._kept.move_to_end(token)
        return self._kept.get(token)

    def drop(self, token: str) -> None:
        """Forget one."""
        self._kept.pop(token, None)

    def _bytes(self) -> int:
        return sum(volume.slices.nbytes for volume in self._kept.values())


def decode(content: bytes, limits: Limits) -> Scan:
    """Decode an image, a DICOM file or a NIfTI volume.

    Raises:
        TumorlensError: too large, of another kind, or damaged; one sentence.
    """
    if not content:
        raise TumorlensError("This file is empty.")
    if len(content) > limits.bytes:
        raise TumorlensError(too_large(limits))
    try:
        return volumes.read(content, limits.pixels)
    except ScanError as error:
        raise TumorlensError(f"This file {error}.") from error


def too_large(limits: Limits) -> str:
    """The sentence that refuses a file for its size."""
    return f"This file has more than the {limits.bytes / 1e6:,g} MB that are accepted."
