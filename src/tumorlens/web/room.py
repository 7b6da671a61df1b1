"""A private temporary folder of the server: nobody else reads it, and nothing stays in it."""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from tumorlens.errors import TumorlensError

# What is older belongs to an upload that was never asked about, or to a tab that was closed.
_STALE_SECONDS = 120.0


class Room:
    """The folder of one server, told apart by its port; empty at start, gone at the end.

    Args:
        port: the server's; one port has one server, so that a folder of this name that is there
            already is of one that crashed.
        above: folder to make it in; default: the system's for temporary files.

    Raises:
        TumorlensError: something of another user is in its place, or it cannot be made.
    """

    def __init__(self, port: int, above: Path | None = None) -> None:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        self.path = (above or Path(tempfile.gettempdir())) / f"tumorlens-serve-{user}-{port}"
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            found = self.path.lstat()
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if not stat.S_ISDIR(found.st_mode) or not mine:
                raise FileExistsError(0, "something of another user is in its place")
            self.path.chmod(0o700)  # whatever the umask made of it
        except OSError as error:
            raise TumorlensError(
                f"the server's temporary folder {self.path} cannot be made ({error.strerror}); "
                "set TMPDIR to a folder of your own, or name another --port."
            ) from error
        self.empty()

    def empty(self) -> None:
        """Delete everything in it."""
        for entry in self.path.iterdir():
            _delete(entry)

    def sweep(self, older_than: float = _STALE_SECONDS) -> None:
        """Delete what was put in it more than `older_than` seconds ago."""
        with contextlib.suppress(FileNotFoundError):
            for entry in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.lstat().st_mtime > older_than:
                        _delete(entry)

    def take(self, path: Path) -> bytes:
        """Read a file of the room and delete it.

        Raises:
            TumorlensError: it is gone, or no file of the room.
        """
        real = path.resolve()
        if not real.is_relative_to(self.path.resolve()) or path.is_symlink():
            raise TumorlensError("This file was not uploaded here; upload it.")
        try:
            content = real.read_bytes()
        except OSError as error:
            raise TumorlensError("This upload is gone; upload the file again.") from error
        real.unlink(missing_ok=True)
        return content

    def close(self) -> None:
        """Delete it."""
        _delete(self.path)


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
