"""Opening a recorded file to read it, also while another process is writing to it.

The recorder does not use HDF5's single-writer mode: a file of that mode does not open after a
kill -9 without a repair tool. It writes about once a second, with `md_hooks.h5md.storage`, and in
between the file on disk is complete. A reader only has to try again when it happened to look
while the changes were being made. It takes no lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import h5py

from ..errors import HookError
from .output_file import kind_of
from .storage import Storage, has_journal
from .validation import DamagedError, damaged

T = TypeVar("T")

ATTEMPTS = 8
QUIET_ATTEMPTS = 3
"""So many of a file that nobody changes; the more of one that grows."""
PAUSE = 0.02  # s; grows with each attempt, writing takes some milliseconds


def open_to_read(path: str | Path, read: Callable[[h5py.File], T]) -> T:
    """Open a file, hand it to ``read`` and close it; again if it changed underneath.

    ``read`` must not return h5py objects, as the file is closed afterwards.

    Raises:
        HookError: there is no such file, or it is not a readable HDF5 file of a Recorder.
    """
    path = Path(path)
    _require_file(path)
    attempt = 0
    while True:
        attempt += 1
        before = _version(path)
        try:
            with _open(path) as file:
                return read(file)
        except DamagedError as error:
            problem: Exception = error
        except HookError:
            raise
        except Exception as error:  # HDF5 raises whatever a damaged file makes it raise
            problem = error
        quiet = _version(path) == before
        if _is_something_else(path) or attempt >= (QUIET_ATTEMPTS if quiet else ATTEMPTS):
            break
        time.sleep(PAUSE * attempt)
    if isinstance(problem, DamagedError):
        raise problem
    raise damaged(path, " ".join(str(problem).split()) or type(problem).__name__) from problem


def _require_file(path: Path) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        if path.parent.is_dir() and not os.path.lexists(path):
            raise HookError(f"{path} does not exist: give the file that a Recorder wrote") from None
        raise HookError(
            f"{path} cannot be read ({error.strerror}): give the file that a Recorder wrote"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise HookError(f"{path} is {kind_of(found)}: give the file that a Recorder wrote")
    if not os.access(path, os.R_OK):
        raise HookError(f"{path} cannot be read: it belongs to somebody else")


def _version(path: Path) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns
    return ()


def _is_something_else(path: Path) -> bool:
    """Whether the file begins as no HDF5 file does, not even one that is being created."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        return bool(start.strip(b"\0")) and not h5py.is_hdf5(path)
    except OSError:
        return False


@contextlib.contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if has_journal(fd):  # a writer was killed just before it made its last changes
            with h5py.File(Storage(fd, writable=False), "r") as file:
                yield file
            return
    finally:
        os.close(fd)
    with _open_by_name(path) as file:
        yield file


def _open_by_name(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
    # another part of this process has it open with a lock, which HDF5 wants of all or of none
    return h5py.File(path, "r", locking="best-effort")
