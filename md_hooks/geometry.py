"""Whether a structure still is what a run began with: distances, molecules, volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import complete_cell
from numpy.typing import NDArray

from .frame import Frame
from .unphysical import CLOSEST

BONDED = 1.25
"""Two atoms nearer than this times the sum of their covalent radii are bonded at the start."""

APART = 2.0
"""Atoms of a molecule have come apart where no chain of distances below this times the sum of the
covalent radii connects them: 1.94 Å for O-H, 3.0 Å for C-C, 4.4 Å for Si-Si. An atom that changes
its partner stays connected."""

CLOSER = 0.8
"""Atoms that overlapped from the start count only where they come nearer by this factor."""

VOLUME = 2.0
"""Factor of volume, up or down, that no burn-in at constant temperature and pressure has."""


@dataclass(frozen=True)
class Geometry:
    """The structure at the beginning.

    Attributes:
        numbers: [N] atomic numbers.
        molecules: [N] number of the molecule of each atom, atoms that are bonded being of one.
        closest: the shortest distance in sums of covalent radii; infinite for a lone atom.
        volume: of the cell, Å^3; 0 without one.
    """

    numbers: NDArray[np.integer]
    molecules: NDArray[np.integer]
    closest: float
    volume: float

    def state(self) -> dict[str, Any]:
        """JSON-able, for a restart."""
        return {
            "numbers": self.numbers.tolist(), "molecules": self.molecules.tolist(),
            "closest": None if self.closest == np.inf else self.closest, "volume": self.volume,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Geometry:
        """That of a `state`."""
        closest = np.inf if state["closest"] is None else state["closest"]
        return cls(
            np.array(state["numbers"]), np.array(state["molecules"]), closest, state["volume"]
        )

    @classmethod
    def of(cls, frame: Frame) -> Geometry:
        """That of a frame."""
        first, second, distance = _pairs(frame, APART)
        near = distance < BONDED
        molecules = _connected(len(frame.numbers), first[near], second[near])
        return cls(frame.numbers, molecules, float(distance.min(initial=np.inf)), _volume(frame))

    def broken(self, frame: Frame, closest: float = CLOSEST) -> str | None:
        """What is no structure any more in a later frame, in words; None where all is well.

        Frames of another system, as audits have them, are not compared.

        Args:
            frame: positions and cell finite.
            closest: two atoms nearer than this times the sum of their covalent radii overlap.
        """
        if not np.array_equal(frame.numbers, self.numbers):
            return None
        volume = _volume(frame)
        if self.volume > 0 and not 1 / VOLUME < volume / self.volume < VOLUME:
            return f"the volume changed from {self.volume:.4g} to {volume:.4g} Å^3"
        first, second, distance = _pairs(frame, APART)
        if len(distance):
            worst = int(distance.argmin())
            if distance[worst] < min(closest, CLOSER * self.closest):
                pair = first[worst], second[worst]
                length = distance[worst] * covalent_radii[self.numbers[list(pair)]].sum()
                return f"{_atom(pair[0], self.numbers)} and {_atom(pair[1], self.numbers)} are {length:.2f} Å apart"
        parts = _connected(len(self.numbers), first, second)
        # a molecule is whole where all of its atoms lie in the part of its first atom
        _, leader, member = np.unique(self.molecules, return_index=True, return_inverse=True)
        lost = np.flatnonzero(parts != parts[leader[member]])
        if not len(lost):
            return None
        atom, other = int(lost[0]), int(leader[member[lost[0]]])
        return (
            f"a molecule came apart: no bond or contact connects {_atom(atom, self.numbers)} with "
            f"{_atom(other, self.numbers)} any more"
        )


def _pairs(
    frame: Frame, reach: float
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]:
    """Pairs i, j within ``reach`` sums of covalent radii, and their distances in these sums."""
    radii = covalent_radii[frame.numbers]
    if frame.pbc.any():
        from ase.neighborlist import primitive_neighbor_list  # SciPy takes a second to import

        first, second, distance = primitive_neighbor_list(
            "ijd", frame.pbc, complete_cell(frame.cell), frame.positions, cutoff=reach * radii
        )
    else:  # not with bins, of which atoms that fly apart would need many
        from scipy.spatial import KDTree

        pairs = KDTree(frame.positions).query_pairs(2 * reach * radii.max(), output_type="ndarray")
        first, second = pairs.T
        distance = np.linalg.norm(frame.positions[second] - frame.positions[first], axis=1)
    scaled = distance / (radii[first] + radii[second])
    near = scaled < reach
    return first[near], second[near], scaled[near]


def _connected(
    atoms: int, first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.integer]:
    """[atoms] number of the connected part that each atom belongs to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(atoms, atoms))
    labels: NDArray[np.integer] = connected_components(graph, directed=False)[1]
    return labels


def _volume(frame: Frame) -> float:
    return float(abs(np.linalg.det(frame.cell))) if frame.pbc.all() else 0.0


def _atom(atom: int, numbers: NDArray[np.integer]) -> str:
    return f"{chemical_symbols[int(numbers[atom])]}{atom}"
