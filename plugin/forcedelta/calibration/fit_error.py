"""From labels to a predicted error: robust fits weighted by cross-validation, intervals by CV+."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ForceDeltaError
from ..ranking import spearman
from .atom_errors import fit_atoms
from .log_linear import LogLinear, fit
from .predicted_error import COVERAGE, MARGIN, Coefficients, PredictedError, transformed
from .signals import ENERGY, FLOOR, Signals

if TYPE_CHECKING:
    from .labels import Labels

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

FEWEST = 10
"""Labels; fewer do not give a finite interval."""
FOLDS = 20
RESIDUALS = 500
"""At most so many labels, drawn at random, give the interval of a prediction: each step of a run
computes one."""
COMPOSITIONS = 20
"""At most so many compositions, the most frequent ones, have an offset and a median energy."""
DIGITS = 7


def predicted_error(labels: Labels, seed: int = 0) -> PredictedError:
    """The predicted error of the direct forces from labels.

    Args:
        labels: of one model and one reference, with signals.
        seed: of the folds.

    Raises:
        ForceDeltaError: fewer than `FEWEST` labels, or labels without signals.
    """
    n = len(labels)
    if n < FEWEST:
        raise ForceDeltaError(
            f"a predicted error needs at least {FEWEST} labels, and there are {n}: label more frames "
            "(forcedelta calibrate --suggest)"
        )
    if labels.signals is None:
        raise ForceDeltaError("the labels have no signals: read them with read_labels")
    signals, target = labels.signals, np.log(np.maximum(labels.epsilon, FLOOR))
    fold, unit = folds_of(labels.source, seed)
    fitted = fit_signals(signals, target)
    found = cross_validated(signals, target, fold)
    left_out = left_out_predictions(found, signals, fold)
    residual = np.abs(target - left_out)
    kept = np.random.default_rng(seed).permutation(n)[:RESIDUALS]
    singles = {
        name: factor(target - left_out_predictions(
            cross_validated(Signals({name: column}, signals.compositions), target, fold), signals, fold
        ))
        for name, column in signals.columns.items()
    }  # fmt: skip
    best = min(singles, key=lambda name: singles[name])
    return PredictedError(
        model=dict(labels.model),
        fit=fitted,
        folds=found,
        residuals=[(int(fold[row]), _rounded(float(residual[row]))) for row in kept],
        ranges=_ranges(transformed(signals, fitted.energies)),
        atoms=fit_atoms(labels.atoms),
        guarantee=_guarantee(n, unit, int(fold.max()) + 1),
        quality={
            "labels": n,
            "factor": factor(target - left_out),
            "spearman": _number(spearman(left_out, target)),
            "best_single": {"signal": best, "factor": singles[best]},
        },
    )


def fit_signals(signals: Signals, target: Array) -> Coefficients:
    """Fit log errors [n] by the signals."""
    common = [name for name, _ in Counter(signals.compositions).most_common(COMPOSITIONS)]
    member = {name: np.array([name == c for c in signals.compositions]) for name in common}
    energies = {}
    if ENERGY in signals.columns:
        column = signals.columns[ENERGY]
        energies = {name: _rounded(float(np.median(column[rows]))) for name, rows in member.items()}
    else:
        energies = dict.fromkeys(common, 0.0)
    columns = transformed(signals, energies)
    names = common if len(set(signals.compositions)) > 1 else []
    offsets = {f"offset of {name}": member[name].astype(float) for name in names}
    found = fit(columns, target, offsets)
    return _coefficients(found, names, energies)


def _coefficients(
    found: LogLinear, compositions: Sequence[str], energies: Mapping[str, float]
) -> Coefficients:
    slopes = {name: _rounded(slope) for name, slope in zip(found.names, found.slopes, strict=True)}
    offsets = {name: slopes.pop(f"offset of {name}") for name in compositions}
    return Coefficients(_rounded(found.intercept), slopes, offsets, dict(energies))


def cross_validated(signals: Signals, target: Array, fold: Indices) -> list[Coefficients]:
    """The fits without the labels of each fold."""
    rows = [np.flatnonzero(fold != k) for k in range(int(fold.max()) + 1)]
    return [fit_signals(signals.subset(kept), target[kept]) for kept in rows]


def left_out_predictions(found: Sequence[Coefficients], signals: Signals, fold: Indices) -> Array:
    """log eps [n] of each label, from the fit that left it out."""
    return np.array([one.log_error(signals) for one in found])[fold, np.arange(len(fold))]


def folds_of(sources: Sequence[str | None], seed: int = 0) -> tuple[Indices, str]:
    """The fold of each label [n], and what is left out as a whole.

    Frames of one run resemble each other and are left out together if there are at least `FEWEST`
    runs (a label of unknown run counts as one); otherwise frames are left out one by one.
    """
    names = [f"label {row}" if run is None else f"run {run}" for row, run in enumerate(sources)]
    unit = "runs" if any(run is not None for run in sources) else "labels"
    groups = np.unique(names, return_inverse=True)[1]
    if groups.max() + 1 < FEWEST:
        groups, unit = np.arange(len(names)), "frames"
    count = int(groups.max()) + 1
    shuffled = np.random.default_rng(seed).permutation(count) % min(FOLDS, count)
    return shuffled[groups], unit


def factor(residual: Array) -> float:
    """exp(mean |log predicted - log true|), the typical factor between the two."""
    return float(np.exp(np.abs(residual).mean()))


def _ranges(columns: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, column in columns.items():
        low, high = float(column.min()), float(column.max())
        margin = MARGIN * (high - low)
        found[name] = (_rounded(low - margin), _rounded(high + margin))
    return found


def _guarantee(n: int, unit: str, folds: int) -> str:
    assumed = {
        "labels": "labels and new frames are exchangeable",
        "runs": "runs are exchangeable, and a new frame is of a run like them",
        "frames": "frames are exchangeable; those of one run are taken as independent",
    }[unit]
    return (
        f"The intervals cover {COVERAGE:.0%} of the errors of frames drawn like the {n} labels (CV+ "
        f"with {folds} folds; with no further assumption, {worst_coverage(n, folds):.0%} is proven). "
        f"Assumed: {assumed}. Outside the range of the labels there is no guarantee."
    )


def worst_coverage(n: int, folds: int) -> float:
    """Proven coverage of CV+, whatever the distribution: theorem 4 of Barber et al."""
    size = n / folds
    excess = min(2 * (1 - 1 / folds) / (size + 1), (1 - folds / n) / (folds + 1))
    return max(0.0, 2 * COVERAGE - 1 - excess)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
