"""Constraint on the rotation of a free molecule, as ASE's `FixCom` constrains its centre of mass."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixConstraint
from numpy.typing import NDArray

LINEAR = 0.25
"""Å; a molecule counts as linear if no atom lies further from its long axis. CO2 bending at 300 K
stays below this distance, bent NO2 (0.32 Å) does not."""

BONDED = 1.25
"""Atoms closer than this multiple of the sum of their covalent radii are bonded."""

ALONE = 5.0
"""Å; a molecule in a periodic box rotates freely if its images are further away than this."""


class FixRotation(FixConstraint):
    """Keeps the angular momentum about the centre of mass at zero.

    For thermostats that rescale velocities. The rotation of a free molecule does not exchange energy
    with its vibrations, so every rescaling that heats the vibrations also heats the rotation: the
    molecule spins up, most of all in a temperature ramp.

    A linear molecule loses its two rotations; the angular momentum of its bending vibrations about
    the axis stays.

    Args:
        atoms: the molecule, at least two atoms. It determines whether the molecule is linear, so
            pass the initial structure of a run also when continuing it.
    """

    def __init__(self, atoms: Atoms) -> None:
        masses, arms = _about_centre(atoms)
        axis = np.linalg.eigh(_inertia(masses, arms))[1][:, 0]
        away = np.linalg.norm(np.cross(arms, axis), axis=1)
        self._axes = 2 if away.max() < LINEAR else 3

    def get_removed_dof(self, atoms: Atoms) -> int:
        """Number of constrained degrees of freedom: 3, or 2 for a linear molecule."""
        return self._axes

    def adjust_positions(self, atoms: Atoms, new: NDArray[np.float64]) -> None:
        """Nothing to adjust: momenta without rotation do not turn the molecule."""

    def adjust_momenta(self, atoms: Atoms, momenta: NDArray[np.float64]) -> None:
        """Remove the rigid rotation from momenta [N, 3], in place."""
        self._project(atoms, momenta)

    def adjust_forces(self, atoms: Atoms, forces: NDArray[np.float64]) -> None:
        """Remove the net torque from forces [N, 3], eV/Å, in place."""
        self._project(atoms, forces)

    def todict(self) -> dict[str, Any]:
        """The constraint as a dictionary, in ASE's format."""
        return {"name": "FixRotation", "kwargs": {}}

    def _project(self, atoms: Atoms, vectors: NDArray[np.float64]) -> None:
        """p_i -> p_i - m_i w x r_i, with w such that sum_i r_i x p_i vanishes about the constrained axes."""
        masses, arms = _about_centre(atoms)
        moments, axes = np.linalg.eigh(_inertia(masses, arms))
        moments, axes = moments[-self._axes :], axes[:, -self._axes :]
        turning = np.cross(arms, vectors).sum(axis=0)
        rate = axes @ ((axes.T @ turning) / moments)
        vectors -= masses[:, None] * np.cross(rate, arms)


def turns_freely(atoms: Atoms) -> bool:
    """Whether a structure can rotate freely as a whole.

    True without periodicity, and for a single molecule in a periodic box whose bonds do not cross a
    boundary and whose images are further away than `ALONE`.
    """
    if not atoms.pbc.any():
        return True
    from ase.neighborlist import natural_cutoffs, neighbor_list  # SciPy takes a second to import
    from scipy.sparse.csgraph import connected_components

    if neighbor_list("S", atoms, ALONE).any():
        return False
    reach = np.array(natural_cutoffs(atoms, mult=BONDED))
    bonded = atoms.get_all_distances() < reach[:, None] + reach
    return bool(connected_components(bonded, directed=False)[0] == 1)


def _about_centre(atoms: Atoms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Masses [N] and positions [N, 3] about the centre of mass."""
    masses = atoms.get_masses()
    return masses, atoms.positions - masses @ atoms.positions / masses.sum()


def _inertia(masses: NDArray[np.float64], arms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tensor of inertia [3, 3], amu Å^2."""
    squares = np.einsum("i,ij,ij->", masses, arms, arms)
    return squares * np.eye(3) - np.einsum("i,ij,ik->jk", masses, arms, arms)
