"""Drift of the conserved energy of a run: the slope of a straight line through it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .h5md.trajectory import Trajectory

BLOCKS = 16
"""A series is averaged over this many blocks before the fit."""

FEWEST_BLOCKS = 4
"""A fit to fewer points has no uncertainty worth stating."""

CONSERVED_ENERGY = "conserved_energy"
"""Name of the series, and of the entry of `Frame.extra`, eV."""

_MEV_PER_PS = 1e6  # eV/fs


@dataclass(frozen=True)
class Drift:
    """Drift of a conserved energy.

    Attributes:
        value: meV/atom/ps.
        error: standard error, meV/atom/ps.
    """

    value: float
    error: float

    def __str__(self) -> str:
        """The drift with its standard error and unit, the error to two digits."""
        digits = 2
        if self.error > 0:
            digits = min(6, max(0, 1 - math.floor(math.log10(self.error))))
        return f"{self.value:+.{digits}f} ± {self.error:.{digits}f} meV/atom/ps"


def drift(time: ArrayLike, energy: ArrayLike, atoms: int) -> Drift | None:
    """The drift of a series of conserved energies.

    A straight line is fitted to the means of `BLOCKS` blocks of equal length. The standard error
    comes from the scatter of these means about the line, so that it holds for energies that are
    correlated over less than a block, as those of consecutive steps are, and also grows where the
    drift is not uniform.

    Args:
        time: [S] fs, increasing.
        energy: [S] eV; values that are not finite are left out.
        atoms: number of atoms.

    Returns:
        None for fewer than `FEWEST_BLOCKS` finite values.
    """
    times, energies = np.asarray(time, dtype=float), np.asarray(energy, dtype=float)
    known = np.isfinite(energies)
    times, energies = times[known], energies[known]
    count = min(BLOCKS, len(times))
    if count < FEWEST_BLOCKS:
        return None
    edges = np.linspace(0, len(times), count + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(times)))
    with np.errstate(over="ignore", invalid="ignore"):  # an explosion has energies without bounds
        # relative to the first value: totals of all electrons would cost digits
        means = np.add.reduceat(energies - energies[0], edges) / sizes
        return line_through(np.add.reduceat(times, edges) / sizes, means, atoms)


def line_through(times: ArrayLike, energies: ArrayLike, atoms: int) -> Drift | None:
    """The slope of a straight line by least squares, with its standard error.

    Args:
        times: [B] fs.
        energies: [B] eV.
        atoms: number of atoms.

    Returns:
        None for fewer than `FEWEST_BLOCKS` points, or where the slope is not finite.
    """
    x, y = np.asarray(times, dtype=float), np.asarray(energies, dtype=float)
    if len(x) < FEWEST_BLOCKS:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        x = x - x.mean()
        y = y - y.mean()
        spread = float(x @ x)
        slope = float(x @ y) / spread if spread > 0 else math.nan
        rest = y - slope * x
        error = math.sqrt(float(rest @ rest) / (len(x) - 2) / spread) if spread > 0 else math.nan
    if not math.isfinite(slope) or not math.isfinite(error):
        return None
    return Drift(slope * _MEV_PER_PS / atoms, error * _MEV_PER_PS / atoms)


def drift_of(trajectory: Trajectory, leg: int | None = None) -> Drift | None:
    """The drift of a recorded run.

    The conserved energy jumps between two legs of a run (`Trajectory.legs`) if anything was changed in
    between, so the drift is that of one leg, with its neighbours up to such a change.

    Args:
        trajectory: the file.
        leg: number of a leg; by default, the last one.

    Returns:
        None for an ensemble without conserved energy, and for a run that is too short.
    """
    energies = trajectory.series.get(CONSERVED_ENERGY)
    legs = trajectory.legs
    if energies is None or not len(trajectory) or not legs:
        return None
    first = last = len(legs) - 1 if leg is None else leg - 1
    while first > 0 and legs[first].seamless:
        first -= 1
    while last + 1 < len(legs) and legs[last + 1].seamless:
        last += 1
    steps = trajectory.series["step"]
    rows = slice(
        *np.searchsorted(steps, (legs[first].after_step, legs[last].last_step), side="right")
    )
    times = trajectory.series["time"][rows]
    return drift(times, energies[rows], len(trajectory.frame(0).numbers))
