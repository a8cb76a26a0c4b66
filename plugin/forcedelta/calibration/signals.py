"""What a frame tells of its error without a reference: U and the signals that come with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.linalg import orth

from md_hooks import Frame

Array = NDArray[np.float64]

ENERGY = "energy_per_atom"
UNCERTAINTY = "energy_uncertainty"
RIGID = "rigid_force"
WORDS = {
    "force_delta": "U",
    "worst_atom": "largest u",
    ENERGY: "energy per atom",
    "force_rms": "RMS of the forces",
    RIGID: "net force and torque",
    "expected_error": "the model's expected error",
    UNCERTAINTY: "the model's energy uncertainty",
}
"""Signals by name: all in eV/Å, and the energy, of which the median of the composition is subtracted,
and the energy uncertainty, in eV per atom."""
FLOOR = 1e-4
"""eV/Å; logarithms are of values at least this large. References are not converged to less."""


@dataclass(frozen=True)
class Signals:
    """Signals of n frames.

    Attributes:
        columns: [n] each, by the names of `WORDS`; finite. The energies are as predicted, per atom.
        compositions: of each frame, such as "C5H8O2" [n].
    """

    columns: Mapping[str, Array]
    compositions: Sequence[str]

    def __len__(self) -> int:
        return len(self.compositions)

    def subset(self, rows: NDArray[np.int64]) -> Signals:
        """Those of some frames."""
        return Signals(
            {name: column[rows] for name, column in self.columns.items()},
            [self.compositions[row] for row in rows],
        )


def composition(numbers: NDArray[np.integer]) -> str:
    """The reduced formula of atomic numbers [N], elements in the order of their symbols."""
    counts = Counter(chemical_symbols[int(number)] for number in numbers)
    divisor = reduce(math.gcd, counts.values())
    return "".join(
        f"{symbol}{count // divisor if count > divisor else ''}"
        for symbol, count in sorted(counts.items())
    )


def rigid_force(
    positions: NDArray[np.floating], forces: NDArray[np.floating], pbc: NDArray[np.bool_]
) -> float:
    """RMS of the part of direct forces that moves a structure as a whole, eV/Å.

    The exact forces have no such part without an external field, so that it is a part of the error:
    eps is at least as large. It is that of the net force and, without periodicity, of the net torque;
    NaN where positions or forces are not finite.

    Args:
        positions: [N, 3], Å.
        forces: direct forces [N, 3], eV/Å.
        pbc: (3,).
    """
    if not (np.isfinite(positions).all() and np.isfinite(forces).all()):
        return math.nan
    modes = [np.broadcast_to(axis, positions.shape) for axis in np.eye(3)]
    if not np.any(pbc):
        arms = positions - positions.mean(axis=0)
        size = float(np.abs(arms).max()) or 1.0
        modes += [np.cross(axis, arms / size) for axis in np.eye(3)]
    # a linear molecule has two rotations, a single atom none
    basis = orth(np.reshape(modes, (len(modes), -1)).T.astype(float), rcond=1e-3)
    return float(np.linalg.norm(basis.T @ np.ravel(forces)) / np.sqrt(forces.size))


def frame_signals(frame: Frame) -> dict[str, float] | None:
    """The signals of a frame; None without U. What is unknown or not finite is left out."""
    if frame.force_delta is None or frame.worst_force_delta is None:
        return None
    direct = frame.forces if frame.direct_forces is None else frame.direct_forces
    found = {
        "force_delta": float(frame.force_delta),
        "worst_atom": frame.worst_force_delta,
        ENERGY: float(frame.energy) / len(frame.numbers),
        "force_rms": float(np.sqrt(np.mean(np.square(direct, dtype=float)))),
        RIGID: rigid_force(frame.positions, direct, frame.pbc),
        "expected_error": float(frame.extra.get("expected_error", math.nan)),
        UNCERTAINTY: float(frame.extra.get(UNCERTAINTY, math.nan)) / len(frame.numbers),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}
