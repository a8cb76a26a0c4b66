"""Structures that a model is tested on."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.build import molecule as ase_molecule

from forcedelta.verify.probe import displaced


def molecule(name: str = "CH3CHO", charge: int = 0, spin: int = 1) -> Atoms:
    """A molecule of ASE's collection without a cell, atoms off their symmetric places.

    Args:
        name: see `ase.build.molecule`.
        charge: total charge, e, stored in ``info`` for models that take one.
        spin: multiplicity 2S + 1, likewise.
    """
    atoms = displaced(ase_molecule(name))
    atoms.info.update(charge=charge, spin=spin)
    return atoms


def crystal(
    symbol: str = "Si", crystalstructure: str | None = None, a: float | None = None
) -> Atoms:
    """A conventional cubic cell of an element, atoms off their symmetric places.

    Args:
        symbol: the element.
        crystalstructure: see `ase.build.bulk`; None: that of the element.
        a: lattice constant, Å; None: that of the element.
    """
    atoms = displaced(bulk(symbol, crystalstructure, a, cubic=True), 0.1)
    atoms.info.update(charge=0, spin=1)
    return atoms


def small_cell(symbol: str = "Si", length: float = 3.1) -> Atoms:
    """Two atoms in a skewed cell that is shorter than the cutoff, one of them outside of it.

    Each atom sees several images of the other one and of itself.

    Args:
        symbol: the element.
        length: of the cell's vectors, Å, about.
    """
    shape = np.array([[1.0, 0.0, 0.0], [0.23, 0.94, 0.0], [-0.2, 0.16, 1.06]])
    scaled = [[0.0, 0.0, 0.0], [0.27, 0.24, 0.26]]
    atoms = Atoms([symbol] * 2, scaled_positions=scaled, cell=length * shape, pbc=True)
    atoms = displaced(atoms, 0.1)
    atoms.positions[1] += atoms.cell[0]
    atoms.info.update(charge=0, spin=1)
    return atoms


def standard() -> tuple[Atoms, ...]:
    """One of each: H, C and O in a molecule, Si in a crystal and in a small cell."""
    return molecule(), crystal(), small_cell()
