"""How long work tells whoever listens how far it is: the core reports, the edge prints."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then by long work; must return quickly."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Work of the name `stage` has finished `done` of `total` steps; `note` is for the eye."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Nobody listens."""
