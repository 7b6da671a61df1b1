"""Errors for humans: one sentence that names the place, the surprise and the next step."""

import errno

# Of a disk, a quota or a process that may write no more.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TumorlensError(Exception):
    """Something the user can put right. The command line prints the message and exits with 2.

    The message is one sentence that names the file or flag, what was found, what was expected and
    what to do. Never raised for a fault of our own.
    """


class UnreadableImageError(TumorlensError):
    """A file that cannot be decoded as an image; the message names the file and why."""


class ScanError(ValueError):
    """Why a file cannot be read, as what follows "this file": "is in colour; expected ..."."""
