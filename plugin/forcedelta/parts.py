"""A part of a System as a molecule: whole, with the nearest images of what surrounds it."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree

from md_hooks.environment import Environment

from .errors import ForceDeltaError

CLOSEST = 1.0
"""Distance of a charge from an atom, Å, below which it is not a neighbour but an overlap."""

_BOND = 1.3  # times the sum of the covalent radii
_TINY = 1e-9  # Å; a distance of 0 would be no edge of the graph


def as_molecule(atoms: Atoms) -> Atoms | None:
    """A part of a System without periodicity, made whole where the box divides it.

    Returns:
        the molecule; None if bonds lead through the box and back, as in a layer or a crystal.
    """
    if not atoms.pbc.any():
        return atoms
    vectors = atoms.get_all_distances(mic=True, vector=True)
    lengths = np.linalg.norm(vectors, axis=-1)
    tree = minimum_spanning_tree(np.triu(lengths + _TINY, 1))
    order, before = breadth_first_order(tree, 0, directed=False)
    positions = atoms.positions.copy()
    for index in order[1:]:
        positions[index] = positions[before[index]] + vectors[before[index], index]
    radii = covalent_radii[atoms.numbers]
    bonded = lengths < _BOND * (radii[:, None] + radii)
    apart = np.linalg.norm(positions - positions[:, None], axis=-1)
    if (apart[bonded] > lengths[bonded] + 1e-3).any():
        return None
    molecule = atoms.copy()
    molecule.positions = positions
    molecule.pbc = False
    molecule.cell = None
    return molecule


def charges_around(
    molecule: Atoms, environment: Environment, cutoff: float | None = None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The charges around a molecule: each molecule of the environment once, in its nearest image.

    Molecules are never divided, so that neutral ones add no charge. In a periodic System the centre of
    each is in the cell around the centre of the molecule; further images are left out.

    Args:
        molecule: of `as_molecule`.
        environment: the particles around it.
        cutoff: Å; only molecules of which a particle is as near as this to an atom. None: all.

    Returns:
        positions [M, 3] (Å) and charges [M] (e), without particles that have none.

    Raises:
        ForceDeltaError: a charge overlaps with an atom.
    """
    _, index = np.unique(environment.molecules, return_inverse=True)
    positions = environment.positions
    if environment.cell.any():
        positions = _nearest(positions, index, environment.cell, molecule.positions.mean(axis=0))
    distances, atoms = cKDTree(molecule.positions).query(positions)
    charged = environment.charges != 0
    if (overlaps := charged & (distances < CLOSEST)).any():
        worst = np.flatnonzero(overlaps)[distances[overlaps].argmin()]
        raise ForceDeltaError(
            f"a charge of the environment is {distances[worst]:.2f} Å from atom {atoms[worst]}: such a frame "
            "is not labelled in its environment"
        )
    if cutoff is not None:
        near = np.zeros(index.max(initial=-1) + 1, dtype=bool)
        near[index[distances <= cutoff]] = True
        charged &= near[index]
    return positions[charged], environment.charges[charged]


def _nearest(
    positions: NDArray[np.floating],
    index: NDArray[np.int64],
    cell: NDArray[np.floating],
    centre: NDArray[np.floating],
) -> NDArray[np.floating]:
    """Positions [M, 3] of whole molecules in their images nearest to a point.

    Args:
        positions: [M, 3] Å.
        index: [M] number of the molecule, from 0 without gaps.
        cell: [3, 3] Å.
        centre: [3] Å.
    """
    order = np.argsort(index, kind="stable")
    placed, of = positions[order], index[order]
    # whole: each particle in its image nearest to the one before it in the molecule
    steps = np.zeros_like(placed)
    steps[1:] = find_mic(placed[1:] - placed[:-1], cell)[0]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    path = np.cumsum(steps, axis=0)
    whole = placed[first][of] + path - path[first][of]
    counts = np.bincount(of)[:, None]
    centres = np.stack([np.bincount(of, axis) for axis in whole.T], axis=1) / counts
    shifts = centre + find_mic(centres - centre, cell)[0] - centres
    found = np.empty_like(whole)
    found[order] = whole + shifts[of]
    return found
