"""The predicted error of the direct forces, with an interval of stated coverage.

    log eps = a + b . x + offset(composition)

with x the logarithms of the signals (`signals.WORDS`) and the energy per atom relative to the mean of
its composition. The interval is that of CV+ (Barber, Candès, Ramdas and Tibshirani, Ann. Stat. 49,
486 (2021)): with mu_-k the model fitted without the labels of fold k, and r_i the absolute residual
of label i of that fold,

    [ the floor(alpha (n + 1))-th smallest of mu_-k(i)(x) - r_i,
      the ceil((1 - alpha) (n + 1))-th smallest of mu_-k(i)(x) + r_i ].

Light to import, as every run with ``--calibration`` reads one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ForceDeltaError
from .signals import ENERGY, FLOOR, WORDS, Signals

Array = NDArray[np.float64]

COVERAGE = 0.9
MARGIN = 0.1
"""A frame is outside the calibrated range of a signal beyond the range of the labels, widened on both
sides by this share of its width: one in ten frames lies outside the bare range of 20 labels."""
UNKNOWN_COMPOSITION = "composition"


@dataclass(frozen=True)
class Coefficients:
    """One fitted model.

    Attributes:
        intercept: a.
        slopes: b by signal; logarithms in eV/Å, and the energy in eV per atom.
        offsets: of log eps by composition; 0 for all others.
        energies: mean predicted energy per atom by composition, eV. The energy of a frame of another
            composition counts as the mean.
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
        centre = self.intercept + self.slope * np.log(np.maximum(u, FLOOR))
        return np.exp(centre), np.exp(centre + self.low), np.exp(centre + self.high)


@dataclass(frozen=True)
class PredictedError:
    """A predicted error of the direct forces of one model.

    Attributes:
        model: name and weights_hash of the model.
        fit: of all labels.
        folds: fitted without the labels of each fold.
        residuals: fold and absolute residual of log eps of labels that the fold left out.
        ranges: lowest and highest value of each signal among the labels, with the margin, in the
            terms of the fit.
        atoms: by element.
        guarantee: coverage and its assumptions, as a sentence.
        quality: of left-out labels: ``factor`` exp(mean |log predicted - log true|), ``spearman``,
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

        Raises:
            ForceDeltaError: the frames lack a signal of the fit.
        """
        missing = [name for name in self.signals if name not in signals.columns]
        if missing:
            raise ForceDeltaError(
                f"the predicted error needs {WORDS[missing[0]]}, which the frames lack: calibrate "
                "again, with labels evaluated by this model"
            )
        folds = np.array([fold for fold, _ in self.residuals])
        sizes = np.array([size for _, size in self.residuals])
        centres = np.stack([fold.log_error(signals) for fold in self.folds])[folds]
        low, high = _ranks(len(sizes))
        ends = (
            np.partition(centres - sizes[:, None], low - 1, axis=0)[low - 1],
            np.partition(centres + sizes[:, None], high - 1, axis=0)[high - 1],
        )
        centre = np.clip(self.fit.log_error(signals), *ends)
        return np.exp(centre), np.exp(ends[0]), np.exp(ends[1])

    def outside(self, signals: Signals) -> dict[str, NDArray[np.bool_]]:
        """Of each signal, and of the composition, whether frames are beyond the labels [n].

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
            "residuals": [list(pair) for pair in self.residuals],
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
        }


def transformed(signals: Signals, energies: Mapping[str, float]) -> dict[str, Array]:
    """The columns of the fit: logarithms, and energies relative to the composition's mean."""
    found = {
        name: np.log(np.maximum(column, FLOOR))
        for name, column in signals.columns.items()
        if name != ENERGY
    }
    if ENERGY in signals.columns:
        pairs = zip(signals.columns[ENERGY], signals.compositions, strict=True)
        found[ENERGY] = np.array([value - energies.get(name, value) for value, name in pairs])
    return found


def _ranks(n: int) -> tuple[int, int]:
    """Ranks of the ends of the interval, counted from 1."""
    alpha = 1 - COVERAGE
    return max(1, math.floor(round(alpha * (n + 1), 9))), min(
        n, math.ceil(round((1 - alpha) * (n + 1), 9))
    )
