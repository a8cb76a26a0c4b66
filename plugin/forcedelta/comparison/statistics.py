"""Statistics of a comparison: functions of arrays, without files and models.

M models, n structures, N atoms; U and errors in eV/Å, energies in eV per atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from forcedelta.calibration.correlation import independent
from forcedelta.ranking import BATCH, RESAMPLES, Estimate, estimate, ranking, spearman

Array = NDArray[np.float64]
Ranked = dict[str, dict[str, Estimate]]

FEWEST = 3
"""Fewest structures of which a rank correlation is given: two always agree or disagree."""
MEASURES = ("spearman", "auroc_worst_tenth")
_NOTHING = Estimate(None, None, None)
_DIGITS = 9  # of mean energies, eV per atom: differences below come from rounding
_LAST_DIGITS = 8 * float(np.finfo(np.float32).eps)


def rms(vectors: NDArray[np.floating]) -> float:
    """Root mean square over all 3N components of [N, 3]."""
    return float(np.sqrt(np.mean(np.square(vectors, dtype=float))))


def ensemble(
    forces: NDArray[np.floating], reference: NDArray[np.floating] | None
) -> tuple[float, float]:
    """Disagreement of an ensemble on one structure, and the error of its mean.

    Args:
        forces: direct forces of the M members [M, N, 3], eV/Å.
        reference: forces of the reference [N, 3]; None: there is no label.

    Returns:
        the RMS over the 3N components of the sample standard deviation over the members (U_var), and
        the RMS error of the members' mean (NaN without a label), eV/Å.
    """
    members = forces.astype(float)
    spread = float(np.sqrt(members.var(axis=0, ddof=1).mean()))
    return spread, np.nan if reference is None else rms(members.mean(axis=0) - reference)


def relative_energy(energy: Array, compositions: Sequence[str]) -> Array:
    """Energies per atom [M, n] less their mean over the structures of the same composition.

    Absolute energies of different compositions cannot be compared. A composition that occurs once
    has 0, and so has one whose energies are equal to the last digits of float32: batches add up in
    different orders.
    """
    relative = energy.copy()
    names = np.array(compositions)
    for name in dict.fromkeys(compositions):
        rows = names == name
        found = energy[:, rows]
        equal = np.ptp(found, axis=1) <= _LAST_DIGITS * np.abs(found).max(axis=1)
        off_mean = found - found.mean(axis=1, keepdims=True)
        relative[:, rows] = np.where(equal[:, None], 0.0, off_mean)
    return np.round(relative, _DIGITS)


def group_means(values: Array, groups: Sequence[str]) -> Array:
    """Means [G] of values [M, n] over models and the structures of each group, in order of appearance."""
    names = np.array(groups)
    return np.array([values[:, names == name].mean() for name in dict.fromkeys(groups)])


def correlate(predictors: Mapping[str, Array], error: Array, worth: float | None = None) -> Ranked:
    """Spearman's r_s and AUROC of the worst tenth of each predictor (`forcedelta.ranking`).

    Args:
        predictors: values [n] by name. One that is not finite everywhere has no estimates.
        error: true errors [n], eV/Å.
        worth: equivalent number of independent structures, for the intervals; n by default.

    Returns:
        estimates by predictor and measure; without a value where a predictor or the error is constant,
        or where there are fewer than `FEWEST` structures.
    """
    known = {name: x for name, x in predictors.items() if np.isfinite(x).all()}
    found: Ranked = {name: dict.fromkeys(MEASURES, _NOTHING) for name in predictors}
    if len(error) < FEWEST or not known:
        return found
    ranked = ranking(known, error, np.inf, worth=worth)
    constant = np.ptp(error) == 0
    for name, values in known.items():
        if not constant and np.ptp(values) > 0:
            found[name] = {measure: ranked[name][measure] for measure in MEASURES}
    return found


def r_s(predictor: Array, error: Array) -> float | None:
    """Spearman's rank correlation [n]; None where it is undefined, see `correlate`."""
    known = np.isfinite(predictor) & np.isfinite(error)
    if known.sum() < FEWEST:
        return None
    value = float(spearman(predictor[known], error[known]))
    return value if np.isfinite(value) else None


def within_groups(predictor: Array, error: Array, groups: Sequence[str]) -> float | None:
    """Mean over the groups of r_s within each [n]; None where it is defined in none of them."""
    names = np.array(groups)
    each = [r_s(predictor[names == name], error[names == name]) for name in dict.fromkeys(groups)]
    return mean_and_spread(each)[0]


def worth(predictor: Array, error: Array, runs: Sequence[str | None], times: Array) -> float:
    """Equivalent number of independent structures behind a rank correlation.

    Frames of one run, or of one path of an attack, resemble each other
    (`forcedelta.calibration.correlation`). The deviations are the influence function of the
    correlation of the standardised ranks x and y, x y - r (x^2 + y^2) / 2 (Devlin, Gnanadesikan and
    Kettenring, Biometrika 62, 531 (1975)).
    """
    if len(error) < FEWEST or np.ptp(predictor) == 0 or np.ptp(error) == 0:
        return float(len(error))
    x, y = (_standardised(rankdata(values)) for values in (predictor, error))
    product = x * y
    influence = product - product.mean() * (x * x + y * y) / 2
    return independent(runs, times, (influence - influence.mean())[None]).worth


def _standardised(values: Array) -> Array:
    return np.asarray((values - values.mean()) / values.std())


def against_ensemble(
    force_delta: Array,
    error: Array,
    spread: Array,
    error_of_mean: Array,
    worth: float,
    seed: int = 0,
) -> dict[str, Estimate]:
    """U of single models against the disagreement of their ensemble, each for its own error.

    All intervals are from the same resamples of the structures, so that of the difference is paired.

    Args:
        force_delta, error: U and the error of the direct forces of each model [M, n].
        spread: disagreement of the ensemble [n].
        error_of_mean: of the mean of the members' forces [n].
        worth: equivalent number of independent structures.
        seed: random seed of the bootstrap.

    Returns:
        "mean": mean over the models of r_s(U, error); "ensemble": r_s(spread, error_of_mean);
        "difference": the first less the second.
    """
    count = spread.size
    if count < FEWEST:
        return dict.fromkeys(("mean", "ensemble", "difference"), _NOTHING)

    def measured(rows: NDArray[np.int64]) -> Array:
        single = np.stack(
            [spearman(u[rows], e[rows]) for u, e in zip(force_delta, error, strict=True)]
        )
        mean = single.mean(axis=0)
        of_ensemble = spearman(spread[rows], error_of_mean[rows])
        return np.stack([mean, of_ensemble, mean - of_ensemble])

    rng = np.random.default_rng(seed)
    size = max(2, int(worth))
    resampled = np.concatenate(
        [measured(rng.integers(0, count, (BATCH, size))) for _ in range(RESAMPLES // BATCH)],
        axis=-1,
    )
    values = measured(np.arange(count))
    names = ("mean", "ensemble", "difference")
    return {name: estimate(v, r) for name, v, r in zip(names, values, resampled, strict=True)}


def mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of the values that are known; None without two of them."""
    known = np.array([value for value in values if value is not None])
    return (
        float(known.mean()) if known.size else None,
        float(known.std(ddof=1)) if known.size > 1 else None,
    )


def better_controls(values: Mapping[str, float | None], own: str = "force_delta") -> list[str]:
    """Names of the predictors with a larger value of a measure than U: losses of U.

    Args:
        values: of a measure by predictor; None where it is undefined.
        own: name of U among them.
    """
    mine = values[own]
    return [
        name
        for name, value in values.items()
        if name != own and value is not None and (mine is None or value > mine)
    ]


def values_of(ranked: Ranked, measure: str = "spearman") -> dict[str, float | None]:
    """The values of a measure by predictor."""
    return {name: measures[measure].value for name, measures in ranked.items()}
