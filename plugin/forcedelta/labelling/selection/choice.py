"""Which frames are sent to a reference calculation, and why the others are not."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.selection.band import Band, choose_band, intervals
from forcedelta.labelling.selection.candidates import Candidates, FloatArray
from forcedelta.labelling.selection.diversity import descriptors, farthest_points
from forcedelta.limits import check_value
from md_hooks.unphysical import unphysical

By = Literal["diversity", "u", "u-diversity"]

_NOT_CHOSEN: dict[By, str] = {
    "diversity": "not chosen by farthest-point sampling",
    "u": "lower than the chosen ones",
    "u-diversity": "lower than the chosen ones, or not chosen by farthest-point sampling",
}

POOL = 50
"""So many frames for each one that is wanted, those with the highest U, are compared for diversity."""


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        frames: the structures, as `md_hooks.recalculation.candidate` makes them, the one with
            the highest U first.
        indices: their numbers in the file.
        band: the band that they were chosen from.
        left_out: number of the other frames by reason.
    """

    frames: list[Atoms]
    indices: list[int]
    band: Band
    left_out: dict[str, int]


def select(
    source: Candidates,
    count: int,
    lower: float | None = None,
    upper: float | None = None,
    spacing: float = 50.0,
    by: By = "diversity",
) -> Selection:
    """Choose frames: highest U within the band, apart in time, diverse, no unphysical structures.

    1. Frames outside of the band, or with values that are not finite, are left out.
    2. Of each flagged interval one frame is kept, its highest; an interval longer than
       ``spacing`` is cut into pieces of that length. Frames with overlapping atoms
       (`md_hooks.unphysical`) make place for the next lower one.
    3. From the highest down, frames nearer in time than ``spacing`` to a higher one are dropped.
    4. Of what is left, ``count`` are chosen: the highest, then by what ``by`` says.

    Along the path of an attack time means nothing and neighbours are alike: of each path one frame
    is kept, its highest. If there are fewer paths than ``count``, each is cut into the least number
    of pieces, of equal numbers of frames, that together are enough.

    Args:
        source: the frames.
        count: how many are wanted.
        lower: of the band, eV/Å; None: see `choose_band`.
        upper: of the band, eV/Å; None: see `choose_band`.
        spacing: fs. Frames without a time are taken for independent.
        by: "diversity": always the frame whose structure is farthest from all that are chosen
            (`forcedelta.labelling.selection.diversity`); "u": the next highest; "u-diversity": the
            frame with the largest product of U and the distance of its structure to the nearest
            chosen one.

    Raises:
        ForceDeltaError: numbers that make no sense, no frames with a Force Delta, or dscribe is
            needed and not installed.
    """
    if count < 1 or not spacing >= 0:
        raise ForceDeltaError(
            f"{count} frames at least {spacing} fs apart: ask for at least one frame and no "
            "negative time"
        )
    check_value("by", by)
    band = choose_band(source, lower, upper)
    values = band.values(source)
    left_out = _outside(source, band, values)
    interval = intervals(source, band)
    pieces = _pieces(source, interval, spacing) + _pieces_of_paths(source, interval, count)
    pool, reasons = _highest(source, values, pieces, spacing, POOL * count)
    left_out |= reasons
    structures = source.read(pool)
    chosen = list(range(len(pool)))
    if len(pool) > count:
        if by == "u":
            chosen = chosen[:count]
        else:
            weights = values[pool] if by == "u-diversity" else None
            chosen = sorted(farthest_points(descriptors(structures), count, weights))
        left_out[_NOT_CHOSEN[by]] = len(pool) - count
    return Selection([structures[k] for k in chosen], [pool[k] for k in chosen], band, left_out)


def _outside(source: Candidates, band: Band, values: FloatArray) -> dict[str, int]:
    known = np.isfinite(values)
    counts = {
        "Force Delta not computed or not finite": ~known,
        "energy not finite": known & ~source.finite,
        f"above the band (> {band.upper:.4g} eV/Å)": known & source.finite & (values > band.upper),
        f"below the band (<= {band.lower:.4g} eV/Å)": known
        & source.finite
        & (values <= band.lower),
    }
    return {reason: int(which.sum()) for reason, which in counts.items() if which.any()}


def _pieces(source: Candidates, interval: NDArray[np.int64], spacing: float) -> list[list[int]]:
    """The frames of each interval outside of paths, cut into pieces of the length ``spacing``."""
    pieces: dict[tuple[int, int], list[int]] = {}
    start: dict[int, float] = {}
    for index in np.flatnonzero((interval >= 0) & (source.paths < 0)).tolist():
        number, time = int(interval[index]), float(source.times[index])
        begin = start.setdefault(number, time)
        known = spacing > 0 and np.isfinite(time)
        piece = int((time - begin) // spacing) if known else index
        pieces.setdefault((number, piece), []).append(index)
    return list(pieces.values())


def _pieces_of_paths(
    source: Candidates, interval: NDArray[np.int64], count: int
) -> list[list[int]]:
    """The frames of each path; where paths are fewer than ``count``, cut into equal pieces."""
    inside = interval >= 0
    paths = np.unique(source.paths[inside & (source.paths >= 0)])
    if not len(paths):
        return []
    cuts = math.ceil(count / len(paths))
    return [
        piece.tolist()
        for path in paths
        for piece in np.array_split(np.flatnonzero(inside & (source.paths == path)), cuts)
        if len(piece)
    ]


def _highest(
    source: Candidates, values: FloatArray, pieces: list[list[int]], spacing: float, most: int
) -> tuple[list[int], dict[str, int]]:
    """The highest frame of each piece, from the highest down, and why the others are none.

    Structures are read only as far as they are needed.
    """
    waiting = [sorted(piece, key=lambda index: -values[index]) for piece in pieces]
    heap = [(-values[piece[0]], number, 0) for number, piece in enumerate(waiting)]
    heapq.heapify(heap)
    kept: list[int] = []
    lower = lower_on_path = near = broken = 0
    while heap and len(kept) < most:
        _, number, place = heapq.heappop(heap)
        piece = waiting[number]
        index = piece[place]
        if unphysical(source.read([index])[0]) is not None:
            broken += 1
            if place + 1 < len(piece):
                heapq.heappush(heap, (-values[piece[place + 1]], number, place + 1))
            continue
        # a time that is not known (NaN) is never near
        if any(abs(source.times[other] - source.times[index]) < spacing for other in kept):
            near += 1
        else:
            kept.append(index)
        if source.paths[index] >= 0:
            lower_on_path += len(piece) - place - 1
        else:
            lower += len(piece) - place - 1
    reasons = {
        "overlapping atoms or positions that are not finite": broken,
        "not the highest of their flagged interval": lower,
        "not the highest of their path, or of their piece of it": lower_on_path,
        f"less than {spacing:g} fs from a frame with a higher value": near,
        "lower than the frames compared for diversity": sum(
            len(waiting[number]) - place for _, number, place in heap
        ),
    }
    return kept, {reason: number for reason, number in reasons.items() if number}
