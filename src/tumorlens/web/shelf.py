"""Decoded volumes between one question and the next, in memory, never more than so much."""

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from tumorlens.data.volumes import Scan


@dataclass
class _Kept:
    volume: Scan
    used: float


class Shelf:
    """Keeps what is used, drops what was used longest ago.

    Args:
        most_bytes: of everything on it.
        most: volumes on it.
        seconds: after which what nobody asked for is dropped.
    """

    def __init__(
        self, most_bytes: int = 256_000_000, most: int = 16, seconds: float = 900.0
    ) -> None:
        self.most_bytes = most_bytes
        self.most = most
        self.seconds = seconds
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, volume: Scan) -> str:
        """Keep `volume`; the ticket that gets them back, which nobody can guess."""
        ticket = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[ticket] = _Kept(volume, time.monotonic())
            self._drop()
        return ticket

    def get(self, ticket: str) -> Scan | None:
        """What `put` kept; None if it is no longer there."""
        with self._lock:
            self._drop()
            kept = self._kept.get(ticket)
            if kept is None:
                return None
            kept.used = time.monotonic()
            self._kept.move_to_end(ticket)
            return kept.volume

    def drop(self, ticket: str) -> None:
        """Forget one."""
        with self._lock:
            self._kept.pop(ticket, None)

    def _drop(self) -> None:
        oldest = time.monotonic() - self.seconds
        while self._kept:
            first = next(iter(self._kept.values()))
            size = sum(kept.volume.slices.nbytes for kept in self._kept.values())
            full = len(self._kept) > self.most or (size > self.most_bytes and len(self._kept) > 1)
            if first.used >= oldest and not full:
                return
            self._kept.popitem(last=False)
