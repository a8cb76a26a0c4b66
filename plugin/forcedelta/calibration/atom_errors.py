"""The predicted error of single atoms by element, from the u_i of labelled frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from .predicted_error import COVERAGE, AtomError
from .signals import FLOOR

Array = NDArray[np.float64]

FEWEST_FRAMES = 5
FOLDS = 10


@dataclass(frozen=True)
class LabelledAtoms:
    """The atoms of one labelled frame.

    Attributes:
        numbers: atomic numbers [N].
        u: u_i [N], eV/Å.
        error: e_i = sqrt(|F_nc,i - F_ref,i|^2 / 3) [N], eV/Å, so that eps^2 = mean(e_i^2).
    """

    numbers: NDArray[np.integer]
    u: Array
    error: Array


def fit_atoms(frames: Sequence[LabelledAtoms]) -> dict[str, AtomError]:
    """The predicted error of each element that at least `FEWEST_FRAMES` frames contain.

    Whole frames are left out, as the atoms of one frame are alike. The quantiles are those of the
    residuals of left-out frames; their coverage is measured on each fold with the quantiles of the
    other folds.
    """
    if not frames:
        return {}
    numbers = np.concatenate([frame.numbers for frame in frames])
    x = np.log(np.maximum(np.concatenate([frame.u for frame in frames]), FLOOR))
    y = np.log(np.maximum(np.concatenate([frame.error for frame in frames]), FLOOR))
    frame = np.repeat(np.arange(len(frames)), [len(one.numbers) for one in frames])
    found = {}
    for number in np.unique(numbers):
        mine = numbers == number
        count = len(np.unique(frame[mine]))
        if count >= FEWEST_FRAMES:
            found[chemical_symbols[int(number)]] = _fit(x[mine], y[mine], frame[mine], count)
    return found


def _fit(x: Array, y: Array, frame: NDArray[np.int64], frames: int) -> AtomError:
    order = np.unique(frame, return_inverse=True)[1]
    fold = (np.random.default_rng(0).permutation(frames) % min(FOLDS, frames))[order]
    residual = np.empty_like(y)
    for k in range(int(fold.max()) + 1):
        out = fold == k
        intercept, slope = _line(x[~out], y[~out])
        residual[out] = y[out] - intercept - slope * x[out]
    levels = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    inside = 0
    for k in range(int(fold.max()) + 1):
        low, high = np.quantile(residual[fold != k], levels)
        inside += int(((residual[fold == k] >= low) & (residual[fold == k] <= high)).sum())
    intercept, slope = _line(x, y)
    low, high = np.quantile(residual, levels)
    return AtomError(
        intercept=intercept,
        slope=slope,
        low=float(low),
        high=float(high),
        coverage=inside / len(y),
        atoms=len(y),
        frames=frames,
    )


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of least squares; slope 0 where all x are equal."""
    spread = x - x.mean()
    total = float(spread @ spread)
    slope = float(spread @ y) / total if total > 1e-12 * len(x) else 0.0
    return float(y.mean()) - slope * float(x.mean()), slope
