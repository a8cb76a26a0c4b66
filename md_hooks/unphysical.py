"""Unphysical structures, which are not worth a reference calculation."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import complete_cell

CLOSEST = 0.6
"""Two atoms closer than this times the sum of their covalent radii overlap: 0.37 Å for H-H,
0.64 Å for C-H, 0.91 Å for C-C, 1.33 Å for Si-Si. Thermal motion does not bring atoms this close."""


def overlap(atoms: Atoms) -> str | None:
    """A description of the most overlapping pair of atoms, or None without overlap.

    Args:
        atoms: positions in Å, all finite; neighbours across periodic boundaries count.
    """
    radii = covalent_radii[atoms.numbers]
    if len(atoms) < 2 and not atoms.pbc.any():
        return None
    from ase.neighborlist import primitive_neighbor_list  # SciPy takes a second to import

    first, second, distance = primitive_neighbor_list(
        "ijd",
        atoms.pbc,
        complete_cell(atoms.cell),
        atoms.positions,
        cutoff=CLOSEST * radii,  # one radius per atom: a pair counts below the sum of the two
    )
    if not len(distance):
        return None
    worst = int(np.argmin(distance / (radii[first] + radii[second])))
    names = " and ".join(
        f"{chemical_symbols[int(atoms.numbers[atom])]}{atom}"
        for atom in (first[worst], second[worst])
    )
    return f"{names} are {distance[worst]:.2f} Å apart"


def unphysical(atoms: Atoms) -> str | None:
    """Why a structure is unphysical, or None if no reason was found.

    Args:
        atoms: positions and cell in Å.
    """
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "positions are not finite"
    return overlap(atoms)
