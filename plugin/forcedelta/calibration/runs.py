"""Of which run a labelled frame is, and when in it: as far as the frames tell.

`run_id` is the same for the frames of one run and for no others. Frames without one are told apart by
the file in which they lie and by the names of the run and of the trajectory that they give. Names are
weak: most runs are called ``run.h5``. Where several frames of one name have the same time, they are of
several runs. They are taken apart only where the file has one run after the other; otherwise they
count as one run whose order in time is unknown, which is the cautious choice.

Fields of other programs may have these names and any content. What is no number is no time.
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
    """Run of each frame, None where it tells of none, and its time [n], NaN where unknown.

    The time is in fs where all frames of the run have one, otherwise the step.
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
    """Numbers of the runs that follow each other in a file; None where that cannot be told.

    Time runs backwards where a new run begins. There are as many runs as frames of the same time,
    or the frames are in another order than that of time.
    """
    if not np.isfinite(times).all():
        return None
    most = max(Counter(times.tolist()).values())
    if most == 1:
        return [0] * len(times)
    pieces = np.concatenate([[0], np.cumsum(np.diff(times) <= 0)])
    return [int(piece) for piece in pieces] if pieces[-1] + 1 == most else None


def _is_weak(frame: LabelledFrame) -> bool:
    """Whether nothing but names tells the run."""
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
