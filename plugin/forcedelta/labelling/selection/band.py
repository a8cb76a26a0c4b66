"""The band of U in which frames are worth a reference calculation, and rows of frames in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.selection.candidates import Candidates, FloatArray

LOWER_PERCENTILE = 90.0
UPPER_FACTOR = 10.0


@dataclass(frozen=True)
class Band:
    """From where to where a value makes a frame a candidate: lower < value <= upper.

    Attributes:
        lower: eV/Å.
        upper: eV/Å.
        on: "force_delta" (U) or "worst_atom" (the largest u_i).
        origin: where the two numbers come from, in words.
    """

    lower: float
    upper: float
    on: str
    origin: str

    def values(self, source: Candidates) -> FloatArray:
        """[F] what is compared, eV/Å."""
        return source.worst if self.on == "worst_atom" else source.force_delta

    def holds(self, values: FloatArray) -> NDArray[np.bool_]:
        """Whether values (eV/Å) lie in the band; NaN does not."""
        return (values > self.lower) & (values <= self.upper)


def choose_band(source: Candidates, lower: float | None, upper: float | None) -> Band:
    """The band: what is given, else the thresholds of the file, else what its frames suggest.

    Without a flag threshold the lower edge is the 90th percentile of the values, so that the
    upper tenth of the frames are candidates; without a stop threshold the upper edge is 10 times
    their median, which is far above what a run in good order shows and far below an explosion.

    Args:
        source: the frames.
        lower: eV/Å, or None.
        upper: eV/Å, or None.

    Raises:
        ForceDeltaError: no frame has a value, or the edges are in the wrong order.
    """
    on = source.thresholds.get("on") or "force_delta"
    values = source.worst if on == "worst_atom" else source.force_delta
    known = values[np.isfinite(values)]
    if not len(known):
        raise ForceDeltaError(
            f"no frame of {source.name} carries a Force Delta, so none can be chosen by it: audit "
            "the trajectory first ('forcedelta audit')"
        )
    origins = []
    edges = []
    for given, kind, percentile in (
        (lower, "flag", float(np.percentile(known, LOWER_PERCENTILE))),
        (upper, "stop", UPPER_FACTOR * float(np.median(known))),
    ):
        edge = "lower" if kind == "flag" else "upper"
        stored = source.thresholds.get(kind)
        if given is not None:
            edges.append(given)
            origins.append(f"{edge} edge as given")
        elif stored is not None:
            edges.append(float(stored))
            origins.append(f"{edge} edge the {kind} threshold of the run")
        elif kind == "flag":
            edges.append(percentile)
            origins.append(f"{edge} edge the 90th percentile, as the file has no flag threshold")
        else:
            edges.append(percentile)
            origins.append(f"{edge} edge 10 times the median, as the file has no stop threshold")
    if not edges[0] < edges[1]:
        raise ForceDeltaError(
            f"the band from {edges[0]:.4g} to {edges[1]:.4g} eV/Å is empty ({'; '.join(origins)}): "
            "give --flag-above below --stop-above"
        )
    return Band(edges[0], edges[1], on, "; ".join(origins))


def intervals(source: Candidates, band: Band) -> NDArray[np.int64]:
    """[F] the number of the flagged interval that a frame belongs to; -1 outside of the band.

    An interval is a row of steps whose values all lie in the band. Where the file knows the steps
    between its frames, they count; else two frames belong together when their steps are as near
    as the nearest of all.
    """
    inside = band.holds(band.values(source)) & source.finite
    if source.series:
        name = "force_delta_max" if band.on == "worst_atom" else "force_delta"
        known = np.isfinite(source.series[name])
        steps = source.series["step"][known]
        flagged = band.holds(source.series[name][known])
        begins = flagged & ~np.concatenate([[False], flagged[:-1]])
        number = np.cumsum(begins) - 1
        at = np.clip(np.searchsorted(steps, source.steps), 0, max(0, len(steps) - 1))
        found = number[at] if len(steps) else np.zeros(len(source), dtype=np.int64)
    else:
        gaps = np.diff(source.steps)
        forward = gaps[gaps > 0]
        usual = forward.min() if len(forward) else 1
        broken = (gaps <= 0) | (gaps > usual) | ~(inside[1:] & inside[:-1])
        found = np.concatenate([[0], np.cumsum(broken)])[: len(source)]
    return np.where(inside, found, -1)
