"""Ridge regression of the logarithm of an error, whose signals cross-validation chooses.

    log eps = a + b . x + c . z,   minimising  sum (log eps - a - b . x - c . z)^2 + n lambda (b^2 + c^2)

with standardised signals x and marks z of the composition (0 or 1); the intercept a is free. The
penalty shrinks the offset of a composition of which there are few labels more than that of a frequent
one. For each set of signals and each lambda the leave-one-out residuals follow from one decomposition
(Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10): r_i / (1 - H_ii)
with the hat matrix H. Several signals are used only if they beat the best single one by half a
standard error of the difference, so that a handful of labels is not fitted to its noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PENALTIES = np.array([1e-3, 1e-2, 3e-2, 1e-1, 3e-1])[:, None]
"""lambda: a penalty of 0.1 shrinks the slope of a single signal by a tenth."""
LABELS_PER_SIGNAL = 5
STANDARD_ERRORS = 0.5


@dataclass(frozen=True)
class LogLinear:
    """A fitted model.

    Attributes:
        names: of the columns used: signals, then offsets.
        intercept: a, for columns that are not standardised.
        slopes: b and c, likewise.
        residuals: of leaving one label out [n], true minus predicted log error.
    """

    names: tuple[str, ...]
    intercept: float
    slopes: tuple[float, ...]
    residuals: Array


def fit(
    signals: Mapping[str, Array], target: Array, offsets: Mapping[str, Array] | None = None
) -> LogLinear:
    """The chosen model.

    Args:
        signals: [n] each by name, finite.
        target: log eps [n].
        offsets: marks of compositions [n] by name; in every model.
    """
    offsets = offsets or {}
    names = [*signals, *offsets]
    x = np.stack([*signals.values(), *offsets.values()], axis=1)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[len(signals) :] = 1.0
    scale[scale < 1e-12] = 1.0
    x = (x - mean) / scale
    marks = tuple(range(len(signals), len(names)))
    most = min(len(signals), max(1, len(target) // LABELS_PER_SIGNAL))
    best: tuple[tuple[int, ...], Array, Array] | None = None
    single = None
    for size in range(1, most + 1):
        sets = [(*chosen, *marks) for chosen in combinations(range(len(signals)), size)]
        slopes, residuals = _ridge(np.stack([x[:, columns] for columns in sets]), target)
        loss = np.abs(residuals).mean(axis=1)
        row = int(loss.argmin())
        if best is None or loss[row] < np.abs(best[2]).mean():
            best = sets[row], slopes[row], residuals[row]
        if size == 1:
            single = best
    assert single is not None
    assert best is not None
    gain = np.abs(single[2]) - np.abs(best[2])
    noise = STANDARD_ERRORS * gain.std() / np.sqrt(len(gain))
    columns, slope, residual = best if gain.mean() > noise else single
    used = list(columns)
    slope = slope / scale[used]
    return LogLinear(
        tuple(names[column] for column in used),
        float(target.mean() - slope @ mean[used]),
        tuple(float(value) for value in slope),
        residual,
    )


def _ridge(x: Array, target: Array) -> tuple[Array, Array]:
    """Slopes [m, d] and leave-one-out residuals [m, n] with the best penalty of each set.

    Args:
        x: centred columns of m sets [m, n, d].
        target: [n].
    """
    n, centre = len(target), target.mean()
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    shrink = sizes[:, None] ** 2 / (sizes[:, None] ** 2 + n * PENALTIES)
    across = np.swapaxes(left, 1, 2)
    projected = across @ (target - centre)
    hat = 1 / n + shrink @ across**2
    residuals = target - centre - (shrink * projected[:, None]) @ across
    residuals /= np.maximum(1 - hat, 1e-9)
    best = np.abs(residuals).mean(axis=2).argmin(axis=1)
    ratio = sizes / (sizes**2 + n * PENALTIES[best])
    slopes = np.einsum("mkd,mk->md", right, ratio * projected)
    return slopes, residuals[np.arange(len(x)), best]
