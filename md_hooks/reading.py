"""Opening a recorded file to read it, also while another process is writing to it.

The recorder does not use HDF5's single-writer mode: a file of that mode does not open after a
kill -9 without a repair tool. It writes in bursts at most about once a second and flushes after
each, so between two bursts the file on disk is complete. A reader only has to switch HDF5's file
lock off for itself, and to try again when it happened to look during a burst.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py

from .errors import HookError

T = TypeVar("T")

ATTEMPTS = 8
PAUSE = 0.02  # s; grows with each attempt, a burst takes some milliseconds


def open_to_read(path: str | Path, read: Callable[[h5py.File], T]) -> T:
    """Open a file, hand it to ``read`` and close it; again if it changed underneath.

    ``read`` must not return h5py objects, as the file is closed afterwards.

    Raises:
        HookError: there is no such file, or it is not a readable HDF5 file.
    """
    path = Path(path)
    if not path.is_file():
        raise HookError(f"{path} does not exist: give the file that a Recorder wrote")
    problem: Exception | None = None
    for attempt in range(ATTEMPTS):
        try:
            with _open(path) as file:
                return read(file)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            problem = error
            if _is_something_else(path):
                break
            time.sleep(PAUSE * (attempt + 1))
    raise HookError(
        f"{path} cannot be read as a recorded run ({problem}): it is no HDF5 file of a Recorder, "
        "or it was cut off; use a complete copy"
    ) from problem


def _is_something_else(path: Path) -> bool:
    """Whether the file begins as no HDF5 file does, not even one that is being created."""
    with path.open("rb") as file:
        start = file.read(8)
    return bool(start.strip(b"\0")) and not h5py.is_hdf5(path)


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
    # this very process is writing to it: HDF5 wants the same flag twice, and takes no second lock
    return h5py.File(path, "r", locking="best-effort")
