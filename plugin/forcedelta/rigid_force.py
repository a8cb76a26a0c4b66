"""Net force and torque of direct forces: errors that need no reference."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orth


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
