"""Structures whose forces vanish by symmetry, on which U says nothing about a model.

The force on an atom is invariant under the symmetry operations that leave its site in place. Where these
operations leave no direction unchanged, as at the sites of diamond, rock salt or perovskite, the force is
zero for every model with the symmetries of space, right or wrong: both predictions are zero, and so is U.
"""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray

SMALL_FORCES = 0.1
"""eV/Å. Larger forces do not vanish by symmetry: positions rounded to `TOLERANCE` leave less than 0.05 of
stiff bonds, and models without exact symmetries less than that."""

TOLERANCE = 1e-3
"""Å, of the symmetry search; files hold three decimals or more."""

_ROUNDINGS = 4
"""An operation moves an atom within the tolerance to another one, and its own shift is as uncertain."""

_VACUUM = 20.0  # Å, more than any gap between layers of a slab


def forces_vanish(
    atoms: Atoms, *forces: NDArray[np.floating], tolerance: float = TOLERANCE
) -> bool:
    """Whether the forces on all atoms vanish by the symmetry of the structure.

    For each site, the number of directions that its site-symmetry group leaves unchanged is the mean
    trace of the rotations of the group, the multiplicity of the trivial representation in that of
    vectors (e.g. Dresselhaus, Dresselhaus & Jorio, Group Theory, 2008, chapter 4). It must be 0 for all sites.
    The operations come from spglib (Togo, Shinohara & Tanaka, Sci. Technol. Adv. Mater. Meth. 4,
    2384822, 2024). A molecule of two or more atoms has no such symmetry, since stretching all of it
    keeps every operation.

    Args:
        atoms: positions and cell in Å; any periodicity. Magnetic moments are ignored.
        forces: [N, 3] eV/Å, known forces. If any is above `SMALL_FORCES`, the symmetry search, which
            takes 10 ms or more, is skipped.
        tolerance: of the symmetry search, Å.
    """
    if any(not (np.linalg.norm(known, axis=1) <= SMALL_FORCES).all() for known in forces):
        return False  # also where they are not finite
    if not atoms.pbc.any():
        return len(atoms) == 1
    return bool((_invariant_directions(atoms, tolerance) == 0).all())


def _invariant_directions(atoms: Atoms, tolerance: float) -> NDArray[np.intp]:
    """[N] the number of directions that the site-symmetry group of each atom leaves unchanged."""
    import spglib  # takes a while, and few structures need it
    from spglib.error import SpglibError

    cell = _with_vacuum(atoms)
    scaled = np.linalg.solve(cell.T, atoms.positions.T).T
    found = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the way in which errors are told
        with contextlib.suppress(SpglibError):  # atoms at one place, for example
            found = spglib.get_symmetry(
                (cell.tolist(), scaled.tolist(), atoms.numbers.tolist()), symprec=tolerance
            )
    if found is None:
        return np.full(len(atoms), 3)
    rotations, shifts = found["rotations"], found["translations"]
    directions = np.empty(len(atoms), dtype=np.intp)
    for k, site in enumerate(scaled):
        moved = rotations @ site + shifts - site
        fixed = np.linalg.norm((moved - np.rint(moved)) @ cell, axis=1) < _ROUNDINGS * tolerance
        traces = np.trace(rotations[fixed], axis1=1, axis2=2)
        directions[k] = round(float(traces.mean()))
    return directions


def _with_vacuum(atoms: Atoms) -> NDArray[np.float64]:
    """[3, 3] Å, the cell with vacuum in directions without periodicity, perpendicular to the others.

    A structure with one or two periodic directions has no more symmetry in it than by itself.
    """
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    open_directions = np.flatnonzero(~atoms.pbc)
    units = cell[open_directions] / np.linalg.norm(cell[open_directions], axis=1)[:, None]
    extent = np.ptp(atoms.positions @ units.T, axis=0).max(initial=0.0)
    cell[open_directions] = units * (extent + _VACUUM)
    return np.asarray(cell, dtype=float)
