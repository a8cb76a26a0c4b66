"""Robust ridge regression of the logarithm of an error, averaged over sets of signals.

    log eps = a + b . x + c . z,   minimising  sum rho(log eps - a - b . x - c . z) + n lambda (b^2 + c^2)

with standardised signals x, marks z of the composition (0 or 1) and a free intercept a. rho is Huber's
loss (Ann. Math. Stat. 35, 73 (1964)): quadratic for most labels, linear for outliers, and minimised by
reweighting. The penalty shrinks the offset of a composition of which there are few labels more than
that of a frequent one.

For each set of signals and each lambda the leave-one-out residuals follow from one decomposition
(Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10): r_i / (1 - H_ii)
with the hat matrix H of the weights. No single set is chosen, as labels are few and signals are
correlated. The result is the mean of the fits of all sets, with weights m^(-n/2) e^-k: m is the mean
absolute residual of n left-out labels, k the number of signals. m^-n would be the likelihood of a Laplace
distribution, and its root keeps more sets; e^-k prefers few signals where the labels do not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PENALTIES = np.array([1e-3, 1e-2, 3e-2, 1e-1, 3e-1])
"""lambda: a penalty of 0.1 shrinks the slope of a single signal by a tenth."""
LABELS_PER_SIGNAL = 5
QUADRATIC = 1.345
"""Standard deviations up to which the loss is quadratic: an efficiency of 95 % for normal residuals."""
REWEIGHTED = 3
TINY = 1e-9
LARGEST = 1_000_000
"""Numbers in the columns of the sets that are fitted at once."""


@dataclass(frozen=True)
class LogLinear:
    """A fitted model.

    Attributes:
        names: of the columns: signals, then offsets.
        intercept: a, for columns that are not standardised.
        slopes: b and c, likewise.
        residuals: of leaving one label out [n], true minus predicted log error, at the weights of all.
    """

    names: tuple[str, ...]
    intercept: float
    slopes: tuple[float, ...]
    residuals: Array


def fit(
    signals: Mapping[str, Array], target: Array, offsets: Mapping[str, Array] | None = None
) -> LogLinear:
    """The mean of the fits of all sets of signals.

    Args:
        signals: [n] each by name, finite.
        target: log eps [n].
        offsets: marks of compositions [n] by name; in every set.
    """
    offsets = offsets or {}
    names = [*signals, *offsets]
    x = np.stack([*signals.values(), *offsets.values()], axis=1)
    scale = x.std(axis=0)
    scale[len(signals) :] = 1.0
    scale[scale < 1e-12] = 1.0
    x = x / scale
    most = min(len(signals), max(1, len(target) // LABELS_PER_SIGNAL))
    sets = [one for one in product((0, 1), repeat=len(signals)) if 1 <= sum(one) <= most]
    used = np.array([(*one, *[1] * len(offsets)) for one in sets], float)
    parts = np.array_split(used, -(-len(used) * x.size // LARGEST))
    found = [_robust_ridge(x * part[:, None], target) for part in parts]
    intercepts, slopes, left_out = (np.concatenate(each) for each in zip(*found, strict=True))
    loss = np.log(np.maximum(np.abs(left_out).mean(axis=1), TINY))
    likelihood = -len(target) / 2 * loss - used.sum(axis=1)
    share = np.exp(likelihood - likelihood.max())
    share /= share.sum()
    return LogLinear(
        tuple(names),
        float(share @ intercepts),
        tuple(float(value) for value in share @ slopes / scale),
        share @ left_out,
    )


def _robust_ridge(x: Array, target: Array) -> tuple[Array, Array, Array]:
    """Intercepts [m], slopes [m, d] and leave-one-out residuals [m, n] with the best penalty of each set.

    Args:
        x: columns of m sets [m, n, d]; those that a set does not use are zero, and so is their slope.
        target: [n].
    """
    penalties = len(target) * PENALTIES[:, None]
    each = np.arange(len(x))
    weights = np.ones(x.shape[:2])
    for _ in range(REWEIGHTED + 1):
        share = weights / weights.sum(axis=1, keepdims=True)
        middle, level = (share[:, None] @ x)[:, 0], share @ target
        root = np.sqrt(weights)
        rows = root[:, :, None] * (x - middle[:, None])
        wanted = root * (target - level[:, None])
        sizes, axes = np.linalg.eigh(np.swapaxes(rows, 1, 2) @ rows)
        rows = rows @ axes
        ratio = 1 / (np.maximum(sizes, 0)[:, None] + penalties)
        along = ratio * (wanted[:, None] @ rows)
        residuals = (wanted[:, None] - along @ np.swapaxes(rows, 1, 2)) / root[:, None]
        hat = share[:, None] + ratio @ np.swapaxes(rows**2, 1, 2)
        left_out = residuals / np.maximum(1 - hat, TINY)
        best = np.abs(left_out).mean(axis=2).argmin(axis=1)
        size = np.abs(residuals[each, best])
        spread = np.median(size, axis=1, keepdims=True) / 0.6745
        weights = np.minimum(1, QUADRATIC * np.maximum(spread, TINY) / np.maximum(size, TINY))
    slopes = (axes @ along[each, best][:, :, None])[:, :, 0]
    return level - (slopes * middle).sum(axis=1), slopes, left_out[each, best]
