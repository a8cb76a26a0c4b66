"""Rank correlations of the Force Delta and of trivial predictors with the true errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

RESAMPLES, BATCH = 1000, 100
LEVEL = 0.95
MEASURES = ("spearman", "auroc_tolerance", "auroc_worst_tenth")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval; None if the labels do not determine it."""

    value: float | None
    low: float | None
    high: float | None


def spearman(predictor: Array, error: Array) -> Array:
    """Spearman's rank correlation along the last axis; NaN if one of them is constant."""
    x, y = rankdata(predictor, axis=-1), rankdata(error, axis=-1)
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def auroc(predictor: Array, positive: NDArray[np.bool_]) -> Array:
    """Probability that a positive has the larger predictor than a negative, along the last axis.

    Ties count half; NaN if all or none are positive.
    """
    ranks = rankdata(predictor, axis=-1)
    n = positive.sum(axis=-1)
    pairs = n * (positive.shape[-1] - n)
    wins = (ranks * positive).sum(axis=-1) - n * (n + 1) / 2
    return np.divide(wins, pairs, out=np.full(np.shape(wins), np.nan), where=pairs > 0)


def worst_tenth(error: Array) -> NDArray[np.bool_]:
    """Mask of the largest tenth of the errors along the last axis."""
    return error >= np.quantile(error, 0.9, axis=-1, keepdims=True)


def ranking(
    predictors: Mapping[str, Array],
    error: Array,
    tolerance: float,
    seed: int = 0,
    worth: float | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Spearman's r_s, and AUROC for errors above the tolerance and for the worst tenth.

    Intervals are from the percentile bootstrap over the resamples in which the measure is defined;
    if it is undefined in more than a tenth of them, there is no interval. Correlated labels are
    resampled in their effective number.

    Args:
        predictors: values [n] of each predictor by name.
        error: true errors [n], eV/Å.
        tolerance: largest acceptable error, eV/Å.
        seed: random seed of the bootstrap.
        worth: effective number of independent labels; n by default.

    Returns:
        estimates by predictor and measure (`MEASURES`).
    """
    names = list(predictors)
    columns = np.stack([predictors[name] for name in names])
    size = len(error) if worth is None else max(2, int(worth))

    def measures(rows: NDArray[np.int64]) -> Array:
        values, errors = columns[:, rows], error[rows]
        large = errors > tolerance
        worst = worst_tenth(errors)
        return np.stack(
            [
                measure
                for value in values
                for measure in (spearman(value, errors), auroc(value, large), auroc(value, worst))
            ]
        )

    rng = np.random.default_rng(seed)
    resampled = np.concatenate(
        [measures(rng.integers(0, len(error), (BATCH, size))) for _ in range(RESAMPLES // BATCH)],
        axis=-1,
    )
    everything = measures(np.arange(len(error)))
    estimates = [estimate(*pair) for pair in zip(everything, resampled, strict=True)]
    return {
        name: dict(zip(MEASURES, estimates[3 * row : 3 * row + 3], strict=True))
        for row, name in enumerate(names)
    }


def estimate(value: float, resampled: Array) -> Estimate:
    """A measure with the percentile interval of its values in the resamples, see `ranking`."""
    if not np.isfinite(value):
        return Estimate(None, None, None)
    known = resampled[np.isfinite(resampled)]
    if len(known) < 0.9 * len(resampled):
        return Estimate(float(value), None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def at_thresholds(
    thresholds: Array, force_delta: Array, error: Array, tolerance: float
) -> list[dict[str, Any]]:
    """Effect of thresholds on U on the labels, one row per threshold.

    A row has the ``threshold`` (eV/Å); ``passing``, the share of labels at or below it; ``risk``, the
    share of errors above the tolerance among these (None if no label passes); ``precision``, the share
    of errors above the tolerance among the labels above the threshold (None if there are none);
    ``recall``, the share of all errors above the tolerance whose labels are above the threshold (None
    if there are no such errors).
    """
    bad = error > tolerance
    rows = []
    for threshold in thresholds:
        held = force_delta > threshold
        rows.append(
            {
                "threshold": float(threshold),
                "passing": float(np.mean(~held)),
                "risk": _share(bad & ~held, ~held),
                "precision": _share(bad & held, held),
                "recall": _share(bad & held, bad),
            }
        )
    return rows


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def as_facts(ranked: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """A ranking as plain dictionaries."""
    return {
        name: {measure: asdict(estimate) for measure, estimate in measures.items()}
        for name, measures in ranked.items()
    }
