"""Neighbour lists: pairs of atoms within a cutoff, periodic images included.

Pairs come from matscipy. It, vesin 0.6.2 and ASE's own list were compared against an exhaustive
search over every combination of periodic directions, skewed cells, cells smaller than the cutoff
and atoms outside the cell: all three were correct. The choice rests on:

- robustness: with one or two periodic directions and an atom 1000 Å or more away, vesin hangs or
  ends the process with a floating-point exception, and a run would lose its last frames. matscipy
  remains correct.
- speed of one build on one core, vesin / matscipy / ASE: 0.03 / 0.02 / 0.33 ms for a molecule of 15
  atoms, 0.6 / 1.6 / 102 ms for 64 and 8 / 11 / 205 ms for 1000 atoms of silicon (5.5 Å). The
  list of a molecule at 300 K lasts about ten steps of 0.5 fs, that of a solid longer, and a step in
  between takes 0.016, 0.04 and 0.4 ms, which hides the difference between the first two.
- order: vesin's own skin leaves the order of the pairs unspecified, and sums would depend on when
  the list was built.
"""

import numpy as np
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError

_ROUNDING = 1e-6  # Å: keeps pairs at the very edge despite rounding in the build
_NEAR = 2.0  # cells
FARTHEST = 1e6
"""Å; matscipy wraps periodic positions cell by cell. A position beyond is unphysical."""
_FLATTEST = 1e-3  # volume over the product of the lengths
_FLAT = 1e-6  # the same; below, the volume may be rounding alone
_EMPTIEST = 1e8  # cell volume over cutoff^3; matscipy keeps an array of that size
_MOST_NEIGHBOURS = 5000  # per atom; diamond has 123 within 5.5 Å


def neighbour_pairs(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs closer than the cutoff, in both directions, ordered by centre, neighbour and shift.

    Args:
        positions: [N, 3] Å; atoms may lie outside the cell.
        cell: [3, 3] Å, rows are the cell vectors; rows of non-periodic directions are
            ignored.
        pbc: [3], which cell vectors are periodic.
        cutoff: Å; may exceed the cell.

    Returns:
        edge_index [2, E] (centre i, neighbour j) and edge_shift [E, 3], integer multiples of the cell vectors:
        ``positions[j] - positions[i] + edge_shift @ cell`` points from the centre to the neighbour.

    Raises:
        ForceDeltaError: positions that are not finite or beyond `FARTHEST`; periodic cell vectors
            that span no volume, or one so small that an atom has thousands of neighbours.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    pbc = np.asarray(pbc, dtype=bool)
    box = _checked_box(positions, cell, pbc, cutoff)
    if len(positions) == 0:
        return np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int64)
    i, j, shift = neighbour_list("ijS", positions=positions, cell=box, pbc=pbc, cutoff=cutoff)
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
    index = np.stack([i[order], j[order]]).astype(np.int64)
    return index, shift[order].astype(np.int64)


def near_the_first(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    index: NDArray[np.int64],
    shift: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions relative to the first atom, of the periodic images near it, for use in float32.

    float32 has seven digits. Atoms of an unwrapped trajectory move thousands of Å away, and their
    distances would lose those digits. Atoms within `_NEAR` cells stay where they are.

    Args:
        positions: [N, 3] Å.
        cell: [3, 3] Å, with rows of zeros in directions that are not periodic.
        pbc: [3].
        index: [2, E] from `neighbour_pairs`.
        shift: [E, 3] from `neighbour_pairs`.

    Returns:
        positions [N, 3] in Å, and the shifts [E, 3] that belong to them.
    """
    relative = positions - positions[:1]
    if not pbc.any() or not len(positions):
        return relative, shift
    cells = relative @ np.linalg.inv(complete_cell(cell))
    away = np.where(pbc & (np.abs(cells) > _NEAR), np.round(cells), 0.0)
    if not away.any():
        return relative, shift
    cells_away = away.astype(np.int64)
    return relative - away @ cell, shift + cells_away[index[1]] - cells_away[index[0]]


class NeighbourList:
    """The neighbour list of a moving structure, rebuilt only when necessary.

    A build finds the pairs within cutoff + skin; they are valid until an atom has moved by more than
    half of the skin. Each call selects the pairs within the true cutoff. The pairs and their order
    depend only on positions, cell and cutoff, never on when the list was built.

    In a cell that is periodic in three directions and changes (NPT), moves are measured relative to
    the cell, and compression reduces the allowed move: with F the deformation since the
    build and s its smallest singular value, a pair that was farther than cutoff + skin is now
    farther than ``s (cutoff + skin) - 2 max|move|``.

    Attributes:
        cutoff: Å.
        skin: Å.
        builds: number of builds so far.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        """Cutoff and skin in Å.

        Raises:
            ForceDeltaError: a cutoff that is not positive, or a skin below 0.
        """
        if not (cutoff > 0 and skin >= 0):
            raise ForceDeltaError(
                "a neighbour list needs a positive cutoff and a skin of 0 Å or more, "
                f"not {cutoff} and {skin}"
            )
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.builds = 0
        self._positions: NDArray[np.float64] = np.empty((0, 3))
        self._cell: NDArray[np.float64] = np.empty((0, 3))
        self._pbc: NDArray[np.bool_] = np.empty(0, bool)
        self._index: NDArray[np.int64] = np.empty((2, 0), np.int64)
        self._shift: NDArray[np.int64] = np.empty((0, 3), np.int64)
        self._offset: NDArray[np.float64] = np.empty((3, 0))
        self._offset_cell: NDArray[np.float64] = self._cell

    def pairs(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs within the cutoff: arguments, result and errors as for ``neighbour_pairs``."""
        pbc = np.asarray(pbc, dtype=bool)
        cell = _periodic_part(cell, pbc)
        if not self._covers(positions, cell, pbc):
            self._index, self._shift = neighbour_pairs(
                positions, cell, pbc, self.cutoff + self.skin + _ROUNDING
            )
            self._positions = np.array(positions, dtype=np.float64)
            self._cell, self._pbc = cell, pbc
            self._offset_cell = np.empty((0, 3))
            self.builds += 1
        # elementwise: a matrix product may round the same pair differently in another list
        along = np.ascontiguousarray(positions.T)
        vector = along.take(self._index[1], axis=1)
        vector -= along.take(self._index[0], axis=1)
        if pbc.any():
            if not np.array_equal(cell, self._offset_cell):
                self._offset, self._offset_cell = _offsets(self._shift, cell), cell
            vector += self._offset
        vector *= vector
        near = np.flatnonzero(vector[0] + vector[1] + vector[2] < self.cutoff * self.cutoff)
        return self._index.take(near, axis=1), self._shift.take(near, axis=0)

    def _covers(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> bool:
        """Whether every pair within the cutoff now was within cutoff + skin at the build."""
        if positions.shape != self._positions.shape or not np.array_equal(pbc, self._pbc):
            return False
        if np.array_equal(cell, self._cell):
            moves = positions - self._positions
            reach = 0.5 * self.skin
        elif pbc.all() and np.isfinite(cell).all():
            deformation = np.linalg.solve(self._cell, cell)
            smallest = np.linalg.svd(deformation, compute_uv=False)[-1]
            moves = positions - self._positions @ deformation
            reach = 0.5 * (smallest * (self.cutoff + self.skin) - self.cutoff)
        else:
            return False
        moves *= moves
        # NaN is not covered
        return bool(reach >= 0 and moves.sum(axis=1).max(initial=0.0) <= reach * reach)


def _periodic_part(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(pbc[:, None], cell, 0.0)


def _offsets(shift: NDArray[np.int64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    s = np.ascontiguousarray(shift.T).astype(np.float64)[:, None]
    c = cell[:, :, None]
    result: NDArray[np.float64] = s[0] * c[0] + s[1] * c[1] + s[2] * c[2]
    return result


def _checked_box(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
) -> NDArray[np.float64]:
    """The cell with non-periodic vectors replaced by arbitrary independent ones."""
    usable = (np.abs(positions) < FARTHEST).all(axis=1)  # False for NaN, too
    if not usable.all():
        raise ForceDeltaError(
            f"the position of atom {int(np.argmin(usable))}, counted from 0, is not a finite "
            f"number within {FARTHEST:.0e} Å; correct the structure"
        )
    if not pbc.any():
        return np.eye(3)
    if not np.isfinite(cell[pbc]).all() or not cell[pbc].any(axis=1).all():
        raise ForceDeltaError(
            "the cell vectors of periodic directions are missing or not finite; set a cell in Å, "
            'or pbc=False (pbc="F F F" in extended XYZ) for a molecule'
        )
    longest = np.abs(cell[pbc]).max()
    if longest >= FARTHEST:  # before lengths and volumes overflow
        raise ForceDeltaError(
            f"a cell vector of {longest:.3g} Å is too long for a neighbour list, which reaches "
            f"{FARTHEST:.0e} Å; give the cell vectors in Å, or pbc=False "
            '(pbc="F F F" in extended XYZ) for a molecule'
        )
    lengths = np.linalg.norm(cell[pbc], axis=1)
    box: NDArray[np.float64] = complete_cell(_periodic_part(cell, pbc))
    volume = abs(np.linalg.det(box))
    if volume < _FLAT * lengths.prod():
        raise ForceDeltaError(
            "the cell vectors of periodic directions do not span a volume; "
            "give vectors that do not lie in a plane"
        )
    if volume < _FLATTEST * lengths.prod():
        raise ForceDeltaError(
            f"the cell is too skewed for a neighbour list: with vectors of "
            f"{', '.join(f'{length:.4g}' for length in lengths)} Å its volume is {volume / lengths.prod():.1g} of a "
            f"right-angled cell's, and at least {_FLATTEST:g} is needed; give shorter vectors of the same lattice "
            "(ase.build.niggli_reduce)"
        )
    atoms = len(positions)
    if pbc.all() and atoms * (4.0 / 3.0) * np.pi * cutoff**3 > _MOST_NEIGHBOURS * volume:
        raise ForceDeltaError(
            f"the cell of {volume:.3g} Å^3 holds {atoms} atoms, an unphysical density; "
            "give the cell vectors in Å"
        )
    if pbc.all() and volume > _EMPTIEST * cutoff**3:
        raise ForceDeltaError(
            f"the cell of {volume:.3g} Å^3 is too large for a neighbour list of cutoff {cutoff:g} Å; "
            "give the cell vectors in Å"
        )
    return box
