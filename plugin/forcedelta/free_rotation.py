"""The rotation of a free molecule, held still as ASE's `FixCom` holds its centre of mass."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixConstraint
from numpy.typing import NDArray

LINEAR = 0.25
"""Å; a molecule counts as linear where no atom lies further from its long axis. A CO2 that bends at 300 K
stays below, the bent NO2 (0.32 Å) does not."""

BONDED = 1.25
"""Two atoms nearer than this times the sum of their covalent radii belong to one molecule."""

ALONE = 5.0
"""Å; a molecule in a periodic box whose images are further away than this turns freely."""


class FixRotation(FixConstraint):
    """Keeps the angular momentum about the centre of mass at zero.

    For thermostats that rescale velocities. Nothing exchanges energy between the rotation of a free
    molecule and its vibrations, so a rescaling that heats the vibrations by a factor heats the
    rotation by that factor again and again: it spins up, most of all in a temperature ramp.

    A linear molecule loses the two rotations that it has; what its bending vibrations carry about
    the axis stays.

    Args:
        atoms: the molecule, at least two atoms. Whether it is linear is decided here, so give the
            structure that a run began with, also where the run is continued.
    """

    def __init__(self, atoms: Atoms) -> None:
        masses, arms = _about_centre(atoms)
        axis = np.linalg.eigh(_inertia(masses, arms))[1][:, 0]
        away = np.linalg.norm(np.cross(arms, axis), axis=1)
        self._axes = 2 if away.max() < LINEAR else 3

    def get_removed_dof(self, atoms: Atoms) -> int:
        """Degrees of freedom that neither temperature nor thermostat count: 3, or 2 if linear."""
        return self._axes

    def adjust_positions(self, atoms: Atoms, new: NDArray[np.float64]) -> None:
        """Momenta without rotation do not turn the molecule, so there is nothing to adjust."""

    def adjust_momenta(self, atoms: Atoms, momenta: NDArray[np.float64]) -> None:
        """Take the rigid rotation out of momenta [N, 3], in place."""
        self._project(atoms, momenta)

    def adjust_forces(self, atoms: Atoms, forces: NDArray[np.float64]) -> None:
        """Take out of forces [N, 3], eV/Å, the part that would turn the molecule, in place."""
        self._project(atoms, forces)

    def todict(self) -> dict[str, Any]:
        """As ASE's constraints have it."""
        return {"name": "FixRotation", "kwargs": {}}

    def _project(self, atoms: Atoms, vectors: NDArray[np.float64]) -> None:
        """p_i -> p_i - m_i w x r_i, with w such that sum_i r_i x p_i vanishes about the axes held."""
        masses, arms = _about_centre(atoms)
        moments, axes = np.linalg.eigh(_inertia(masses, arms))
        moments, axes = moments[-self._axes :], axes[:, -self._axes :]
        turning = np.cross(arms, vectors).sum(axis=0)
        rate = axes @ ((axes.T @ turning) / moments)
        vectors -= masses[:, None] * np.cross(rate, arms)


def turns_freely(atoms: Atoms) -> bool:
    """Whether nothing hinders the rotation of a structure as a whole.

    True without periodicity, and for one molecule alone in a periodic box: its atoms are bonded to
    each other as they stand, not across a boundary, and no image comes near.
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
