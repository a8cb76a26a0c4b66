"""A run that was killed before its file held a frame, and that is begun anew.

It may have flagged frames by then, which lie in a flag store under the id of the run. The run that
takes its place takes its id, too, so that these are known as its own and do not appear twice.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from ..run_id import stored_run_id
from . import layout
from .output_file import OutputFile
from .storage import Storage
from .validation import check


def abandoned_run_id(place: OutputFile) -> str:
    """The id of the abandoned run whose place is taken; empty where there is none.

    It lies beside the place, begun but never published, or at the place without a frame.
    """
    for fd in place.leftovers:
        if found := _run_id(fd, place.path, with_frames=True):
            return found
    return "" if place.old is None else _run_id(place.old, place.path, with_frames=False)


def _run_id(fd: int, path: Path, with_frames: bool) -> str:
    try:
        with h5py.File(Storage(fd, writable=False), "r") as file:
            check(file, path)
            steps = file.get(layout.FRAME_STEP)
            has_frames = steps is not None and steps.shape[0] > 0
            return stored_run_id(file) if with_frames or not has_frames else ""
    except Exception:  # HDF5 raises whatever a damaged file makes it raise
        return ""
