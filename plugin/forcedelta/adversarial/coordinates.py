"""What an attack moves: all atoms, atoms and cell, or torsions.

Every coordinate q is a length in Å, so that one step size, cap and random displacement serve all: a
strain is multiplied by the cube root of the volume, an angle by the longest lever that it turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from ..errors import ForceDeltaError
from ..force_delta_gradient import ForceDeltaGradient
from .plausibility import bonds_of
from .settings import AttackSettings

FloatArray = NDArray[np.float64]
Torsion = tuple[int, int, int, int]


class Cartesian:
    """The positions of all atoms that are not held by `ase.constraints.FixAtoms`.

    Attributes:
        size: number of coordinates.
        strain: whether the derivatives by strain are needed.
    """

    strain = False

    def __init__(self, atoms: Atoms) -> None:
        self._free = np.ones((len(atoms), 1))
        for constraint in atoms.constraints:
            if not isinstance(constraint, FixAtoms):
                raise ForceDeltaError(
                    f"an attack cannot keep the constraint {type(constraint).__name__}: remove it, or "
                    "use FixAtoms"
                )
            self._free[constraint.index] = 0.0
        if not self._free.any():
            raise ForceDeltaError(f"all atoms of {atoms.symbols} are fixed: free some of them")
        self.size = 3 * len(atoms)

    def slopes(self, found: ForceDeltaGradient, atoms: Atoms) -> tuple[FloatArray, FloatArray]:
        """dU/dq and dE/dq [size], eV/Å^2 and eV/Å."""
        uphill = found.gradient * self._free
        return uphill.ravel(), (-found.evaluation.conservative_forces * self._free).ravel()

    def moved(self, atoms: Atoms, shift: FloatArray) -> Atoms:
        """A copy whose coordinates are changed by ``shift`` [size], Å."""
        copy = atoms.copy()
        # not through set_positions, which would ask the constraints
        copy.positions += shift.reshape(-1, 3) * self._free
        return copy

    def largest(self, atoms: Atoms, shift: FloatArray) -> float:
        """The largest displacement of an atom by ``shift``, Å."""
        return float(np.linalg.norm(shift.reshape(-1, 3) * self._free, axis=1).max())


class CartesianAndStrain:
    """Positions and a symmetric strain of a periodic structure; attributes as `Cartesian`."""

    strain = True

    def __init__(self, atoms: Atoms) -> None:
        if not atoms.pbc.all():
            raise ForceDeltaError(
                f"{atoms.symbols} is not periodic in three directions: omit --strain"
            )
        if atoms.constraints:
            raise ForceDeltaError(
                "a strain moves all atoms: remove the constraints, or omit --strain"
            )
        self._atoms = Cartesian(atoms)
        self._length = float(atoms.get_volume() ** (1 / 3))
        self.size = self._atoms.size + 9

    def slopes(self, found: ForceDeltaGradient, atoms: Atoms) -> tuple[FloatArray, FloatArray]:
        """See `Cartesian.slopes`."""
        uphill, energy = self._atoms.slopes(found, atoms)
        assert found.strain is not None
        assert found.evaluation.stress is not None
        virial = found.evaluation.stress * atoms.get_volume()
        return (
            np.concatenate([uphill, found.strain.ravel() / self._length]),
            np.concatenate([energy, virial.ravel() / self._length]),
        )

    def moved(self, atoms: Atoms, shift: FloatArray) -> Atoms:
        """See `Cartesian.moved`; the strain acts on positions and cell."""
        copy = self._atoms.moved(atoms, shift[:-9])
        deformation = np.eye(3) + self._strain(shift)
        copy.set_cell(copy.cell.array @ deformation)
        copy.positions = copy.positions @ deformation
        return copy

    def largest(self, atoms: Atoms, shift: FloatArray) -> float:
        """See `Cartesian.largest`; a strain displaces atoms by up to a cell's length."""
        strained = float(np.abs(self._strain(shift)).max()) * self._length
        return max(self._atoms.largest(atoms, shift[:-9]), strained)

    def _strain(self, shift: FloatArray) -> FloatArray:
        strain = shift[-9:].reshape(3, 3) / self._length
        return 0.5 * (strain + strain.T)


class Torsions:
    """Torsions of a molecule: the smaller part beyond each bond turns about it.

    Args:
        atoms: a molecule.
        torsions: four atoms each, of which the middle ones are bonded, or "all": every bond outside
            a ring whose ends carry other atoms.

    Attributes:
        size: number of torsions.
    """

    strain = False

    def __init__(self, atoms: Atoms, torsions: Sequence[Torsion] | Literal["all"]) -> None:
        if atoms.pbc.any():
            raise ForceDeltaError(
                f"{atoms.symbols} is periodic, and torsions are for molecules: omit --torsion"
            )
        if atoms.constraints:
            raise ForceDeltaError(
                "torsions move fixed atoms, too: remove the constraints, or omit --torsion"
            )
        bonds = bonds_of(atoms)
        axes = _rotatable(atoms, bonds) if torsions == "all" else _axes(atoms, bonds, torsions)
        if not axes:
            raise ForceDeltaError(f"{atoms.symbols} has no bond to turn about: omit --torsion")
        self._axes = axes
        self._turned = [_beyond(bonds, len(atoms), axis) for axis in axes]
        levers = [
            _levers(atoms.positions, *pair).max() for pair in zip(axes, self._turned, strict=True)
        ]
        self._levers = np.array(levers)
        self.size = len(axes)

    def slopes(self, found: ForceDeltaGradient, atoms: Atoms) -> tuple[FloatArray, FloatArray]:
        """See `Cartesian.slopes`."""
        uphill, energy = np.empty(self.size), np.empty(self.size)
        for k, ((b, c), turned) in enumerate(zip(self._axes, self._turned, strict=True)):
            axis = atoms.positions[c] - atoms.positions[b]
            moves = np.cross(
                axis / np.linalg.norm(axis), atoms.positions[turned] - atoms.positions[b]
            )
            uphill[k] = (moves * found.gradient[turned]).sum()
            energy[k] = -(moves * found.evaluation.conservative_forces[turned]).sum()
        return uphill / self._levers, energy / self._levers

    def moved(self, atoms: Atoms, shift: FloatArray) -> Atoms:
        """See `Cartesian.moved`."""
        copy = atoms.copy()
        for (b, c), turned, angle in zip(
            self._axes, self._turned, shift / self._levers, strict=True
        ):
            origin = copy.positions[b]
            axis = copy.positions[c] - origin
            turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
            copy.positions[turned] = origin + turn.apply(copy.positions[turned] - origin)
        return copy

    def largest(self, atoms: Atoms, shift: FloatArray) -> float:
        """See `Cartesian.largest`."""
        moved = self.moved(atoms, shift).positions - atoms.positions
        return float(np.linalg.norm(moved, axis=1).max())


Coordinates = Cartesian | CartesianAndStrain | Torsions


def coordinates_of(atoms: Atoms, settings: AttackSettings) -> Coordinates:
    """What the settings move in a structure.

    Raises:
        ForceDeltaError: strain without a cell, torsions that do not exist, constraints that cannot
            be kept.
    """
    if settings.strain:
        return CartesianAndStrain(atoms)
    if settings.torsions is not None:
        return Torsions(atoms, settings.torsions)
    return Cartesian(atoms)


def _axes(
    atoms: Atoms, bonds: NDArray[np.int64], torsions: Sequence[Torsion]
) -> list[tuple[int, int]]:
    known = {tuple(bond) for bond in bonds.tolist()}
    axes = []
    for four in torsions:
        text = "-".join(map(str, four))
        if max(four) >= len(atoms) or len(set(four)) < 4:
            raise ForceDeltaError(
                f"--torsion {text}: give four different atoms of {atoms.symbols}, 0 to {len(atoms) - 1}"
            )
        for pair in pairwise(four):
            if tuple(sorted(pair)) not in known:
                raise ForceDeltaError(
                    f"--torsion {text}: atoms {pair[0]} and {pair[1]} of {atoms.symbols} are not bonded"
                )
        if _beyond(bonds, len(atoms), four[1:3]).size == 0:
            raise ForceDeltaError(
                f"--torsion {text}: the bond {four[1]}-{four[2]} of {atoms.symbols} is part of a ring"
            )
        axes.append((four[1], four[2]))
    return axes


def _rotatable(atoms: Atoms, bonds: NDArray[np.int64]) -> list[tuple[int, int]]:
    neighbours = np.bincount(bonds.ravel(), minlength=len(atoms))
    return [
        (b, c)
        for b, c in bonds.tolist()
        if min(neighbours[b], neighbours[c]) > 1 and _beyond(bonds, len(atoms), (b, c)).size
    ]


def _beyond(bonds: NDArray[np.int64], size: int, axis: tuple[int, ...]) -> NDArray[np.int64]:
    """The atoms on the smaller side of a bond; none if it is part of a ring."""
    kept = bonds[~(np.sort(bonds, axis=1) == np.sort(axis)).all(axis=1)]
    graph = coo_array((np.ones(len(kept)), (kept[:, 0], kept[:, 1])), shape=(size, size))
    _, part = connected_components(graph, directed=False)
    if part[axis[0]] == part[axis[1]]:
        return np.empty(0, dtype=np.int64)
    sides = [np.flatnonzero(part == part[end]) for end in axis]
    return min(sides, key=len)


def _levers(positions: FloatArray, axis: tuple[int, int], turned: NDArray[np.int64]) -> FloatArray:
    """Distances of atoms from an axis, Å; at least 0.1 Å, for linear groups."""
    along = positions[axis[1]] - positions[axis[0]]
    moves = np.cross(along / np.linalg.norm(along), positions[turned] - positions[axis[0]])
    return np.maximum(np.linalg.norm(moves, axis=1), 0.1)
