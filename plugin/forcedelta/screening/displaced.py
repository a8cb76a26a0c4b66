"""Displaced copies of a structure: no force vanishes by symmetry in them."""

from __future__ import annotations

import numpy as np
from ase import Atoms

FEWEST_ATOMS = 16
"""Cells with fewer atoms are doubled along their shortest periodic vector until they have so many.

A displacement of the only atom of a cell, with all its images, is a translation: U stays 0. In cells of a
few atoms the copies sample few vibrations; for silicon at 0.02 Å, U of `mlearn` is 0.004 eV/Å in the cell of
two atoms, 0.007 to 0.009 in those of 16 to 216."""


def enlarged(atoms: Atoms) -> Atoms:
    """A structure, its cell repeated if it has fewer than `FEWEST_ATOMS` atoms.

    The images of atom i are atoms i, i + N, i + 2N, ... of the result. Structures with a charge or an
    open shell are left as they are, since both would have to grow with the cell.
    """
    neutral = not atoms.info.get("charge") and atoms.info.get("spin", 1) == 1
    repeats = np.ones(3, dtype=int)
    if atoms.pbc.any() and neutral:
        lengths = np.where(atoms.pbc, np.linalg.norm(atoms.cell.array, axis=1), np.inf)
        while len(atoms) * repeats.prod() < FEWEST_ATOMS:
            repeats[np.argmin(lengths * repeats)] *= 2
    if repeats.prod() == 1:
        return atoms
    large = atoms.repeat(tuple(repeats))
    large.info = dict(atoms.info)
    return large


def displaced(atoms: Atoms, rattle: float, copies: int, seed: int, geometry: str) -> list[Atoms]:
    """Copies with normally distributed displacements of all coordinates.

    The random numbers depend on ``seed`` and the structure alone, not on its place among others.

    Args:
        atoms: the structure, with at least `FEWEST_ATOMS` atoms if it is a crystal.
        rattle: standard deviation, Å.
        copies: their number.
        seed: 0 or larger.
        geometry: hash of the structure in hexadecimal digits.
    """
    random = np.random.default_rng([seed, int(geometry, 16)])
    made = []
    for _ in range(copies):
        copy = atoms.copy()
        copy.positions += random.normal(scale=rattle, size=copy.positions.shape)
        made.append(copy)
    return made
