"""Predicted errors of the direct forces: of frames, in recorded series, and of atoms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREDICTED = ("predicted_error", "predicted_error_low", "predicted_error_high")
"""Scalars of a frame: a predicted error of its direct forces and the ends of its interval, eV/Å."""
OUTSIDE = "predicted_error_outside"
"""Number of signals outside the range in which the prediction was calibrated: above 0, it is
extrapolated."""
PREDICTED_ATOMS = ("predicted_errors", "predicted_errors_low", "predicted_errors_high")
"""Values of the atoms of a frame [N], eV/Å: a predicted error of the direct force on each atom,
sqrt(|F_nc,i - F_ref,i|^2 / 3), and the ends of its interval; NaN where none is known for the element."""


def predicted_words(extra: Mapping[str, float]) -> str:
    """The predicted error of a frame with its interval, in words; "" without one.

    Args:
        extra: as of `md_hooks.Frame.extra`.
    """
    words = with_interval([extra.get(name, math.nan) for name in PREDICTED])
    note = ", extrapolated" if extra.get(OUTSIDE, 0) > 0 else ""
    return words and f"predicted error {words}{note}"


def with_interval(values: Sequence[float]) -> str:
    """A predicted error with the ends of its interval, eV/Å, in words; "" unless they are finite."""
    if not all(map(math.isfinite, values)):
        return ""
    centre, low, high = (f"{value:.2g}" for value in values)
    return f"{centre} ({low} to {high}) eV/Å"


def last_predicted(series: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The scalars of the last predicted error; empty without one.

    Args:
        series: as of `md_hooks.Trajectory.series`.
    """
    known = np.flatnonzero(_known(series))
    if not len(known):
        return {}
    return {name: float(series[name][known[-1]]) for name in (*PREDICTED, OUTSIDE)}


def predicted_summary(series: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Median, 95th percentile and maximum of the predicted errors, eV/Å, with the number of frames
    that have one and of those outside the calibrated range; empty without predictions.

    Args:
        series: as of `md_hooks.Trajectory.series`.
    """
    known = _known(series)
    if not known.any():
        return {}
    errors = series[PREDICTED[0]]
    return {
        "median": float(np.median(errors[known])),
        "95th percentile": float(np.quantile(errors[known], 0.95)),
        "maximum": float(errors[known].max()),
        "frames": int(known.sum()),
        "outside": int((series[OUTSIDE][known] > 0).sum()),
    }


def _known(series: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Of each step whether it has a predicted error; empty if a series is missing."""
    if not all(name in series for name in (*PREDICTED, OUTSIDE)):
        return np.zeros(0, bool)
    return np.isfinite(series[PREDICTED[0]])
