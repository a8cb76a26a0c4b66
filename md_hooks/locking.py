"""Locks that keep two programs from writing to one file, and what to do where there are none.

Only EWOULDBLOCK, EAGAIN and EACCES from a lock call mean that another process holds the lock.
Everything else (ENOLCK, EOPNOTSUPP, ENOTSUPP, ENOSYS, ...) means that the file system cannot lock,
as on many network file systems: the run continues with a one-line warning.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

_log = logging.getLogger(__name__)

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_LAST_BYTE = 2**62
"""Locked instead of the data, which other programs may want to lock while they read."""


class LockHeldError(Exception):
    """Another process holds the lock."""


def lock_alone(fd: int) -> OSError | None:
    """Take a `flock` that nobody else has.

    Returns:
        why the file system cannot lock; None when the file is locked, until it is closed.

    Raises:
        LockHeldError: another process has it.
    """
    return _attempt(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_to_write(fd: int) -> OSError | None:
    """Lock an HDF5 file that stays readable for others while it is written.

    HDF5 takes a shared `flock` to read and an exclusive one to write. A shared one, as it is taken
    here, lets readers in and keeps programs that write through HDF5 out. Writers of this package
    are told apart by a second lock, on the open file: a byte far behind the end of the data.

    Args:
        fd: open for reading and writing.

    Returns:
        why the file system cannot lock; None when the file is locked, until it is closed.

    Raises:
        LockHeldError: another process writes to it.
    """
    shared = _attempt(fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LAST_BYTE, 1, 0)
    return _attempt(fcntl.fcntl, fd, fcntl.F_OFD_SETLK, whole) or shared


def _attempt(function: object, *arguments: object) -> OSError | None:
    try:
        function(*arguments)  # type: ignore[operator]
    except OSError as error:
        if error.errno in _HELD:
            raise LockHeldError from error
        return error
    return None


def warn_unlocked(path: str | Path, problem: OSError | None) -> None:
    """Warn in one line that a file could not be locked; do nothing if it was."""
    if problem is not None:
        _log.warning(
            "%s cannot be locked (%s), so nothing keeps a second program from writing to "
            "it: make sure that none does",
            path, problem.strerror or problem,
        )  # fmt: skip
