"""Closed, full or broken standard streams lose output, but never results or the exit status."""

from __future__ import annotations

import contextlib
import os
import sys


def open_streams() -> None:
    """Redirect standard descriptors that the caller has closed (``2>&-``) to the null device.

    Otherwise the next file opened, such as a trajectory, would reuse the number and receive what
    libraries print to the terminal.
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
    """Flush the standard streams; redirect a stream that fails to the null device.

    Otherwise Python would flush it again at exit and replace the exit status by 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):  # the stream has no descriptor
                os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
