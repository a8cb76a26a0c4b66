"""The run of each labelled frame and its time in that run, as far as they are known.

A `run_id` identifies the frames of one run. Frames without one are distinguished by their file and by
the names of run and trajectory stored in them. Names are weak evidence: most runs are called
``run.h5``. Frames of one name with the same time belong to several runs. These are separated only if
the file holds one run after the other; otherwise they count as one run of unknown order in time,
which is the cautious choice.

Other programs may use these names for any content. A time that is not a number is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from md_hooks.foreign_fields import number

from .labelled_files import LabelledFrame

Array = NDArray[np.float64]


def runs_of(frames: Sequence[LabelledFrame]) -> tuple[list[str | None], Array]:
    """Run of each frame, None where unknown, and its time [n], NaN where unknown.

    The time is in fs if all frames of the run have one, otherwise the step.
    """
    names = [_name(frame) for frame in frames]
    files: dict[str | None, set[str]] = {}
    for name, frame in zip(names, frames, strict=True):
        files.setdefault(name, set()).add(frame.file)
    runs = [
        f"{frame.file}, {name}" if name and _is_weak(frame) and len(files[name]) > 1 else name
        for name, frame in zip(names, frames, strict=True)
    ]
    times = np.full(len(frames), np.nan)
    members: dict[str, list[int]] = {}
    for row, run in enumerate(runs):
        if run is not None:
            members.setdefault(run, []).append(row)
    for run, rows in members.items():
        times[rows] = _times([frames[row] for row in rows])
        if not _is_weak(frames[rows[0]]):
            continue
        pieces = one_after_the_other(times[rows])
        if pieces is None:
            times[rows] = np.nan
        elif max(pieces) > 0:
            for row, piece in zip(rows, pieces, strict=True):
                runs[row] = f"{run}, part {piece}"
    return runs, times


def one_after_the_other(times: Array) -> list[int] | None:
    """Index of the run of each frame in a file of consecutive runs; None if undetermined.

    A new run begins where time decreases or repeats. The number of runs must equal the number of
    frames that share a time; otherwise the frames are not in order of time.
    """
    if not np.isfinite(times).all():
        return None
    most = max(Counter(times.tolist()).values())
    if most == 1:
        return [0] * len(times)
    pieces = np.concatenate([[0], np.cumsum(np.diff(times) <= 0)])
    return [int(piece) for piece in pieces] if pieces[-1] + 1 == most else None


def _is_weak(frame: LabelledFrame) -> bool:
    """Whether only names identify the run."""
    run_id = frame.atoms.info.get("run_id")
    return run_id is None or not str(run_id)


def _name(frame: LabelledFrame) -> str | None:
    info = frame.atoms.info
    if not _is_weak(frame):
        return str(info["run_id"])
    names = [str(info[name]) for name in ("run", "source") if info.get(name) is not None]
    return ", ".join(names) or None


def _times(frames: Sequence[LabelledFrame]) -> Array:
    for name in ("time", "step"):
        values = np.array([number(frame.atoms.info.get(name)) for frame in frames])
        if np.isfinite(values).all():
            return values
    return np.full(len(frames), np.nan)
