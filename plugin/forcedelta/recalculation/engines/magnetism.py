"""Magnetic moments that a spin-polarised calculation of a crystal starts from.

A calculation that begins without moments ends without them, also where the ground state has some:
at the dangling bonds of a surface, in iron. Those of the Materials Project are taken, ferromagnetic,
on which the published models of crystals were trained.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

MOMENTS = {
    "V": 5.0, "Cr": 5.0, "Mn": 5.0, "Fe": 5.0, "Ni": 5.0, "Mo": 5.0, "Ce": 5.0, "Eu": 10.0, "W": 5.0,
}  # fmt: skip
"""Bohr magnetons, of neutral elements in the Materials Project's input sets (pymatgen)."""

OTHERS = 0.6
"""Bohr magnetons, of all others."""


def moments(atoms: Atoms, polarised: bool) -> NDArray[np.float64]:
    """[N] Bohr magnetons: those of the structure if it has some, else by element; zero if not polarised."""
    if not polarised:
        return np.zeros(len(atoms))
    own: NDArray[np.float64] = atoms.get_initial_magnetic_moments()
    if own.shape == (len(atoms),) and own.any():
        return own
    return np.array([MOMENTS.get(symbol, OTHERS) for symbol in atoms.symbols])


def with_moments(atoms: Atoms, polarised: bool) -> Atoms:
    """A copy with these as its initial magnetic moments."""
    copy = atoms.copy()
    copy.set_initial_magnetic_moments(moments(atoms, polarised))
    return copy


def words(polarised: bool) -> str:
    """For the description of an engine."""
    return "spin-polarised, ferromagnetic start" if polarised else "no spin polarisation"
