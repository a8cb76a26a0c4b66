"""Structures that an attack must not reach: atoms too close, molecules in fragments."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import ForceDeltaError
from ..neighbours import neighbour_pairs

BONDED = 1.4
"""Atoms closer than this times the sum of their covalent radii are one fragment: 2.1 Å for C-C."""


class Plausibility:
    """Geometric limits for the structures on the paths from one structure.

    Args:
        atoms: the structure as given.
        closest: shortest distance of two atoms, in sums of their covalent radii.
        dissociation: fragments may come apart.

    Raises:
        ForceDeltaError: the structure itself is beyond the limits.
    """

    def __init__(self, atoms: Atoms, closest: float, dissociation: bool) -> None:
        self._radii = covalent_radii[atoms.numbers]
        self._symbols = [chemical_symbols[number] for number in atoms.numbers]
        self._closest = closest
        self._dissociation = True
        why = self.why_not(atoms)
        if why:
            raise ForceDeltaError(f"{atoms.symbols}: {why} at the start: pass a smaller --closest")
        self._fragments, _ = self._connected(atoms)
        self._dissociation = dissociation

    def why_not(self, atoms: Atoms) -> str:
        """Why a structure is beyond the limits; "" if it is within."""
        try:
            count, worst = self._connected(atoms)
        except ForceDeltaError as error:
            return str(error)
        if worst is not None:
            i, j, distance = worst
            return f"{self._symbols[i]}{i} and {self._symbols[j]}{j} only {distance:.2f} Å apart"
        if not self._dissociation and count > self._fragments:
            return f"dissociation into {count} fragments"
        return ""

    def _connected(self, atoms: Atoms) -> tuple[int, tuple[int, int, float] | None]:
        """Number of fragments, and the closest pair if it is too close."""
        cutoff = 2.0 * max(BONDED, self._closest) * float(self._radii.max())
        pairs, ratio, distance = _pairs(atoms, self._radii, cutoff)
        bonds = pairs[:, ratio < BONDED]
        size = len(atoms)
        graph = coo_array((np.ones(bonds.shape[1]), (bonds[0], bonds[1])), shape=(size, size))
        count = int(connected_components(graph, directed=False)[0])
        if not ratio.size or ratio.min() >= self._closest:
            return count, None
        at = int(np.argmin(ratio))
        i, j = sorted(pairs[:, at].tolist())
        return count, (i, j, float(distance[at]))


def bonds_of(atoms: Atoms) -> NDArray[np.int64]:
    """[B, 2] bonded pairs i < j: closer than 1.3 times the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    pairs, ratio, _ = _pairs(atoms, radii, 2.6 * float(radii.max()))
    found = pairs[:, (ratio < 1.3) & (pairs[0] < pairs[1])]
    return np.unique(found.T, axis=0)


def _pairs(
    atoms: Atoms, radii: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pairs [2, E], their distances over the sums of covalent radii [E], and the distances [E] in Å."""
    pairs, shift = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = atoms.positions[pairs[1]] - atoms.positions[pairs[0]] + shift @ atoms.cell.array
    distance = np.linalg.norm(vectors, axis=1)
    return pairs, distance / (radii[pairs[0]] + radii[pairs[1]]), distance
