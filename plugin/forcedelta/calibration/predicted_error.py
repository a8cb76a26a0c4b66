"""The predicted error of the direct forces, with an interval of stated coverage.

    log eps = a + b . x + offset(composition)

with x the logarithms of the signals (`signals.WORDS`) and the energy per atom relative to the median of
its composition, s asinh(E / s) with s = `ENERGY_SCALE`, so that an energy far from those of the labels
counts as its logarithm. The interval is that of CV+ (Barber, Candès, Ramdas and Tibshirani, Ann. Stat. 49,
486 (2021)): with mu_-k the model fitted without the labels of fold k, and r_i the absolute residual
of label i of that fold,

    [ the floor(alpha (n + 1))-th smallest of mu_-k(i)(x) - r_i,
      the ceil((1 - alpha) (n + 1))-th smallest of mu_-k(i)(x) + r_i ].

Light to import, as every run with ``--calibration`` reads one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ..errors import ForceDeltaError
from .signals import ENERGY, FLOOR, WORDS, Signals

Array = NDArray[np.float64]

COVERAGE = 0.9
MARGIN = 0.1
"""A frame is outside the calibrated range of a signal beyond the range of the labels, widened on both
sides by this share of its width: one in ten frames lies outside the bare range of 20 labels."""
UNKNOWN_COMPOSITION = "composition"
ENERGY_SCALE = 0.1
"""eV per atom; energies of thermal frames differ by less: k_B T is 0.1 eV at 1160 K."""


@dataclass(frozen=True)
class Coefficients:
    """One fitted model.

    Attributes:
        intercept: a.
        slopes: b by signal; logarithms in eV/Å, and the energy in eV per atom.
        offsets: of log eps by composition; 0 for all others.
        energies: median predicted energy per atom by composition, eV. The energy of a frame of another
            composition counts as the median.
    """

    intercept: float
    slopes: dict[str, float]
    offsets: dict[str, float] = field(default_factory=dict)
    energies: dict[str, float] = field(default_factory=dict)

    def log_error(self, signals: Signals) -> Array:
        """log eps [n], eps in eV/Å."""
        x = transformed(signals, self.energies)
        start = np.array([self.offsets.get(name, 0.0) for name in signals.compositions])
        return self.intercept + sum((b * x[name] for name, b in self.slopes.items()), start)


class Stacked:
    """Several fits evaluated at once, as for each step of a run.

    Args:
        fits: the fits.
    """

    def __init__(self, fits: Sequence[Coefficients]) -> None:
        self._fits = fits
        used = [name for name in WORDS if any(name in one.slopes for one in fits)]
        self._names = [name for name in used if name != ENERGY]
        slopes = [[one.slopes.get(name, 0.0) for name in self._names] for one in fits]
        self._slopes = np.array(slopes).reshape(len(fits), len(self._names))
        self._intercept = np.array([one.intercept for one in fits])
        self._energy = np.array([one.slopes.get(ENERGY, 0.0) for one in fits])
        self._known: dict[str, tuple[Array, Array, Array]] = {}

    def log_errors(self, signals: Signals) -> Array:
        """log eps [fits, n]; `Coefficients.log_error` of each fit."""
        shape = (len(self._names), len(signals))
        x = np.array([signals.columns[name] for name in self._names]).reshape(shape)
        found: Array = self._slopes @ np.log(np.maximum(x, FLOOR))
        energy = signals.columns.get(ENERGY, np.zeros(len(signals)))
        for name in set(signals.compositions):
            rows = np.array([name == one for one in signals.compositions])
            start, slope, median = self._of(name)
            above = scaled_energy(energy[rows] - median[:, None])
            found[:, rows] += start[:, None] + slope[:, None] * above
        return found

    def _of(self, composition: str) -> tuple[Array, Array, Array]:
        """Intercept with offset, slope of the energy, and median energy of a composition [fits]."""
        if composition not in self._known:
            known = np.array([composition in one.energies for one in self._fits])
            self._known[composition] = (
                self._intercept
                + np.array([one.offsets.get(composition, 0.0) for one in self._fits]),
                np.where(known, self._energy, 0.0),
                np.array([one.energies.get(composition, 0.0) for one in self._fits]),
            )
        return self._known[composition]


@dataclass(frozen=True)
class AtomError:
    """The predicted error of the atoms of one element: log e_i = a + b log u_i.

    Attributes:
        intercept, slope: a and b; u_i and e_i = sqrt(|F_nc,i - F_ref,i|^2 / 3) in eV/Å.
        low, high: quantiles of the residuals of left-out frames, between which a share of
            `COVERAGE` of the atoms lies.
        coverage: share of the atoms of left-out frames within such quantiles of the other frames.
        atoms, frames: their number among the labels.
    """

    intercept: float
    slope: float
    low: float
    high: float
    coverage: float
    atoms: int
    frames: int

    def predict(self, u: Array) -> tuple[Array, Array, Array]:
        """Predicted e_i with the ends of its interval [n] each, eV/Å.

        Args:
            u: u_i of atoms of the element [n], eV/Å.
        """
        return _power_law(u, self.intercept, self.slope, np.exp(self.low), np.exp(self.high))


def _power_law(
    u: Array, intercept: Any, slope: Any, low: Any, high: Any
) -> tuple[Array, Array, Array]:
    """exp(a + b log u), and this times low and times high [N] each; the coefficients are numbers or [N]."""
    centre = np.exp(intercept + slope * np.log(np.maximum(u, FLOOR)))
    return centre, low * centre, high * centre


@dataclass(frozen=True)
class PredictedError:
    """A predicted error of the direct forces of one model.

    Attributes:
        model: name and weights_hash of the model.
        fit: of all labels.
        folds: fitted without the labels of each fold.
        residuals: fold, and absolute residual of the logarithm of eps, of labels that the fold left out.
        ranges: lowest and highest value of each signal among the labels, with the margin, in the
            terms of the fit (logarithms of eV/Å; energies in eV per atom).
        atoms: by element.
        guarantee: coverage and its assumptions, as a sentence.
        quality: of left-out labels: ``factor``, ``exp(mean |log predicted - log true|)``, ``spearman``,
            ``labels``, and ``best_single``, the name and the factor of the best single signal.
    """

    model: dict[str, str]
    fit: Coefficients
    folds: list[Coefficients]
    residuals: list[tuple[int, float]]
    ranges: dict[str, tuple[float, float]]
    atoms: dict[str, AtomError]
    guarantee: str
    quality: dict[str, Any]

    @property
    def signals(self) -> list[str]:
        """The signals used by any of the fits."""
        return [name for name in WORDS if any(name in f.slopes for f in [self.fit, *self.folds])]

    def predict(self, signals: Signals) -> tuple[Array, Array, Array]:
        """Predicted errors with the ends of their intervals [n] each, eV/Å.

        Args:
            signals: of n frames.

        Raises:
            ForceDeltaError: the frames lack a signal of the fit.
        """
        missing = [name for name in self.signals if name not in signals.columns]
        if missing:
            raise ForceDeltaError(
                f"the predicted error needs {WORDS[missing[0]]}, which the frames lack: calibrate "
                "again, with labels evaluated by this model"
            )
        folds, sizes = self._residuals
        fitted = self._stacked.log_errors(signals)
        centres = fitted[1:][folds]
        low, high = _ranks(len(sizes))
        lower = np.partition(centres - sizes, low - 1, axis=0)[low - 1]
        upper = np.partition(centres + sizes, high - 1, axis=0)[high - 1]
        centre = np.minimum(np.maximum(fitted[0], lower), upper)
        return np.exp(centre), np.exp(lower), np.exp(upper)

    def predict_atoms(
        self, numbers: NDArray[np.integer], u: NDArray[np.floating]
    ) -> tuple[Array, Array, Array]:
        """Predicted errors of atoms with the ends of their intervals [N] each, eV/Å.

        They are those of `AtomError.predict` for each element, and NaN for elements without an entry
        in ``atoms``.

        Args:
            numbers: atomic numbers [N].
            u: u_i [N], eV/Å.
        """
        return _power_law(np.asarray(u, dtype=float), *self._elements[:, numbers])

    def without_atoms(self, numbers: NDArray[np.integer]) -> list[str]:
        """The elements among atomic numbers [N] whose atoms have no predicted error, by symbol."""
        unknown = np.isnan(self._elements[0, numbers])
        return [chemical_symbols[number] for number in np.unique(numbers[unknown])]

    @cached_property
    def _elements(self) -> Array:
        """Coefficients of `_power_law` [4, elements], by atomic number; NaN without an entry."""
        found = np.full((4, len(chemical_symbols)), np.nan)
        for symbol, one in self.atoms.items():
            ends = np.exp(one.low), np.exp(one.high)
            found[:, atomic_numbers[symbol]] = one.intercept, one.slope, *ends
        return found

    @cached_property
    def _residuals(self) -> tuple[NDArray[np.int64], Array]:
        """Fold [r] and absolute residual [r, 1] of the labels."""
        folds, sizes = zip(*self.residuals, strict=True)
        return np.array(folds), np.array(sizes)[:, None]

    @cached_property
    def _stacked(self) -> Stacked:
        return Stacked([self.fit, *self.folds])

    def outside(self, signals: Signals) -> dict[str, NDArray[np.bool_]]:
        """Of each of the ``signals``, and of the composition, whether frames are beyond the labels [n].

        A prediction there is extrapolated.
        """
        known = [name in self.fit.energies for name in signals.compositions]
        found = {UNKNOWN_COMPOSITION: ~np.array(known)}
        for name, column in transformed(signals, self.fit.energies).items():
            low, high = self.ranges.get(name, (-math.inf, math.inf))
            found[name] = ~((low <= column) & (column <= high))
        return found

    def as_dict(self) -> dict[str, Any]:
        """The content of its file, JSON-able."""
        return {
            **asdict(self),
            "energy_scale": ENERGY_SCALE,
            "residuals": [list(pair) for pair in self.residuals],
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
        }


def transformed(signals: Signals, energies: Mapping[str, float]) -> dict[str, Array]:
    """The columns of the fit: logarithms, and energies relative to the composition's median."""
    found = {
        name: np.log(np.maximum(column, FLOOR))
        for name, column in signals.columns.items()
        if name != ENERGY
    }
    if ENERGY in signals.columns:
        pairs = zip(signals.columns[ENERGY], signals.compositions, strict=True)
        found[ENERGY] = scaled_energy(
            np.array([value - energies.get(name, value) for value, name in pairs])
        )
    return found


def scaled_energy(energy: Array) -> Array:
    """Energies per atom, eV: themselves where small, and growing as logarithms beyond `ENERGY_SCALE`."""
    found: Array = ENERGY_SCALE * np.arcsinh(energy / ENERGY_SCALE)
    return found


def _ranks(n: int) -> tuple[int, int]:
    """Ranks of the ends of the interval, counted from 1."""
    alpha = 1 - COVERAGE
    return max(1, math.floor(round(alpha * (n + 1), 9))), min(
        n, math.ceil(round((1 - alpha) * (n + 1), 9))
    )
