"""Magnetic moments that a spin-polarised calculation of a crystal starts from.

A calculation that begins without moments ends without them, also where the ground state has some:
at the dangling bonds of a surface, in iron. Those of the Materials Project are taken, ferromagnetic,
on which the published models of crystals were trained.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from md_hooks.electronic_state import ElectronicState

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


def with_moments(atoms: Atoms, polarised: bool, total: int | None = None) -> Atoms:
    """A copy with these as its initial magnetic moments.

    Args:
        atoms: the structure.
        polarised: see `moments`.
        total: what they have to add up to: their mean is shifted; None: as they are.
    """
    copy = atoms.copy()
    start = moments(atoms, polarised)
    if total is not None:
        start = start + (total - start.sum()) / len(start)
    copy.set_initial_magnetic_moments(start)
    return copy


def words(polarised: bool) -> str:
    """For the description of a reference code."""
    if not polarised:
        return "no spin polarisation"
    return "spin-polarised, start with the moments of the frame or ferromagnetic"


CHARGE_WORDS = "charge and total moment of the frame, with a uniform background"
"""For the description of a reference code of crystals."""


def charge_and_moment(
    atoms: Atoms, polarised: bool, electrons: float | None = None
) -> tuple[int, int | None]:
    """Total charge (e) and total magnetic moment (Bohr magnetons) of a crystal; None: any moment.

    Args:
        atoms: with charge and multiplicity (`md_hooks.electronic_state`), as far as they are said.
        polarised: whether spins may differ.
        electrons: those of the neutral cell that are calculated; None: all.

    Raises:
        ForceDeltaError: a moment that cannot be without spin polarisation or with this number of
            electrons, or more charge than electrons.
        HookError: a charge or multiplicity that is no whole number.
    """
    known = ElectronicState.of(atoms)
    charge = known.charge or 0
    left = round(int(atoms.numbers.sum()) if electrons is None else electrons) - charge
    if left < 0:
        raise ForceDeltaError(
            f"{atoms.symbols} with charge {charge} has {left} electrons: give a charge that can be"
        )
    if known.spin is None:
        return charge, None
    moment = known.spin - 1
    if moment > left or (left - moment) % 2:
        raise ForceDeltaError(
            f"{atoms.symbols} with charge {charge} has {left} electrons, which cannot have the "
            f"multiplicity {known.spin}: give charge and spin (2S+1) that fit"
        )
    if moment and not polarised:
        raise ForceDeltaError(
            f"{atoms.symbols} has the multiplicity {known.spin}, which needs spin polarisation: give "
            "--set spin_polarised=true"
        )
    return charge, moment if polarised else None
