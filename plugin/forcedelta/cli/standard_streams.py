"""Standard streams that are closed, full or broken cost what is printed, never the work or the status."""

from __future__ import annotations

import contextlib
import os
import sys


def open_streams() -> None:
    """Open the standard descriptors that the caller has closed (``2>&-``), on nothing.

    Otherwise the next file to be opened gets such a number, and whatever a library prints to "the
    terminal" goes into that file: a run's trajectory.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def flush_streams() -> None:
    """Flush what is held back; a stream that fails is turned to nothing.

    Python would otherwise flush it again while it exits, and replace the exit status by 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):  # it has no descriptor
                os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
