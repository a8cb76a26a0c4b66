"""Frames of one trajectory resemble each other: which of them count as independent labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 20
"""Fewer frames of one trajectory than this say nothing about their correlation."""


def statistical_inefficiency(series: Array) -> float:
    """How many frames of a series in time count as one: g = 1 + 2 sum_t (1 - t/n) C(t).

    C is the autocorrelation function, summed up to where it first falls below zero, as in Chodera,
    Swope, Pitera, Seok and Dill, J. Chem. Theory Comput. 3, 26 (2007). A linear trend is taken off
    before: the slow growth of errors in a heating ramp is no correlation of neighbouring frames.

    Args:
        series: values [n] in the order of time.
    """
    count = len(series)
    time = np.arange(count)
    rest = series - np.polyval(np.polyfit(time, series, 1), time)
    variance = float(np.mean(rest**2))
    if variance <= 1e-12 * float(np.mean(series**2)):
        return 1.0
    total = 1.0
    for lag in range(1, count - 1):
        correlation = float(np.mean(rest[:-lag] * rest[lag:])) / variance
        if correlation <= 0:
            break
        total += 2 * (1 - lag / count) * correlation
    return total


def independent(
    sources: Sequence[str | None], times: Array, *quantities: Array
) -> tuple[NDArray[np.int64], float | None]:
    """Indices of labels that may be taken for independent, and the largest g that was found.

    Labels of the same source are put in the order of time, and every g-th is kept, with g the
    largest statistical inefficiency of the quantities in that source. Labels without a source or
    time, and fewer than `FEWEST` of one source, are taken for independent: nothing is known about
    them, and g is None where there are no others.

    Args:
        sources: trajectory of each label [n].
        times: when it was taken [n], in any unit; NaN where unknown.
        quantities: [n] each, positive; their logarithms are looked at.
    """
    kept: list[int] = []
    largest: float | None = None
    groups: dict[str | None, list[int]] = {}
    for index, source in enumerate(sources):
        groups.setdefault(source if np.isfinite(times[index]) else None, []).append(index)
    for source, members in groups.items():
        if source is None or len(members) < FEWEST:
            kept += members
            continue
        rows = np.array(members)[np.argsort(times[members], kind="stable")]
        # crystals at rest have errors of zero by symmetry
        logs = [np.log(np.maximum(quantity[rows], 1e-6)) for quantity in quantities]
        g = max(statistical_inefficiency(series) for series in logs)
        chosen = np.unique(np.round(np.arange(0, len(rows), g)).astype(int))
        kept += rows[chosen[chosen < len(rows)]].tolist()
        largest = max(largest or 1.0, g)
    return np.array(sorted(kept), dtype=np.int64), largest
