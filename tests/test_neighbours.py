"""Neighbour lists: against an exhaustive search, and with reuse against without."""

import itertools

import numpy as np
import pytest
from ase.build import bulk, molecule
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.neighbours import NeighbourList, neighbour_pairs

pytestmark = pytest.mark.usefixtures("silent")

CUTOFF = 4.3  # Å

CELLS = {
    "smaller than the cutoff": np.diag([3.0, 3.5, 2.6]),
    "triclinic": np.array([[4.0, 0, 0], [1.5, 3.8, 0], [-1.2, 0.9, 4.4]]),
    "left-handed and skewed": np.array([[3.5, 2.8, 0], [4.0, 0, 0], [0.3, 2.9, 3.4]]),
    "larger than the cutoff": np.diag([12.0, 13.0, 14.0]),
}

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def exhaustive(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> list[tuple[int, ...]]:
    """(centre, neighbour, shift) of all pairs, in order; slow and plain."""
    found = []
    images = [range(-9, 10) if periodic else [0] for periodic in pbc]
    for shift in itertools.product(*images):
        vectors = positions[None] - positions[:, None] + np.array(shift) @ cell
        for i, j in np.argwhere((vectors**2).sum(-1) < CUTOFF**2):
            if i != j or any(shift):
                found.append((int(i), int(j), *shift))
    return sorted(found)


def as_list(pairs: Pairs) -> list[tuple[int, ...]]:
    index, shift = pairs
    return [tuple(row) for row in np.concatenate([index.T, shift], 1).tolist()]


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("spread", [1.0, 3.0], ids=["inside", "unwrapped"])
def test_all_pairs_in_canonical_order(name: str, pbc: tuple[bool, ...], spread: float) -> None:
    cell, periodic = CELLS[name], np.array(pbc)
    rng = np.random.default_rng(3)
    positions = (rng.random((6, 3)) - (spread > 1) * 0.5) * spread @ cell
    expected = exhaustive(positions, cell, periodic)
    assert as_list(neighbour_pairs(positions, cell, periodic, CUTOFF)) == expected
    assert as_list(NeighbourList(CUTOFF, skin=0.7).pairs(positions, cell, periodic)) == expected


@pytest.mark.parametrize(
    ("pbc", "cell"),
    [
        ((False, False, False), np.zeros((3, 3))),
        ((True, True, False), np.diag([4.0, 5.0, 0.0])),
        ((False, True, False), np.diag([0.0, 5.0, 0.0])),
        ((True, True, False), np.array([[4.0, 0, 0], [0, 5.0, 0], [4.0, 5.0, 0]])),
    ],
    ids=["molecule", "slab", "wire", "unused vector in the plane"],
)
def test_vectors_that_are_not_periodic_do_not_matter(
    pbc: tuple[bool, ...], cell: NDArray[np.float64]
) -> None:
    positions = np.random.default_rng(0).random((6, 3)) * 6
    periodic = np.array(pbc)
    expected = exhaustive(positions, np.where(periodic[:, None], cell, 0), periodic)
    assert as_list(neighbour_pairs(positions, cell, periodic, CUTOFF)) == expected


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False), (True, True, True)])
def test_reuse_is_bitwise_the_same(pbc: tuple[bool, ...]) -> None:
    """Over a trajectory that no one wraps; one list is built at every frame, the other when needed."""
    cell, periodic = CELLS["triclinic"], np.array(pbc)
    rng = np.random.default_rng(1)
    positions = rng.random((8, 3)) @ cell
    velocities = rng.normal(size=(8, 3)) * 0.02 + 0.01
    kept = NeighbourList(CUTOFF, skin=0.6)
    for _ in range(150):
        positions += velocities + rng.normal(size=(8, 3)) * 0.01
        reused = kept.pairs(positions, cell, periodic)
        fresh = NeighbourList(CUTOFF, skin=0.6).pairs(positions, cell, periodic)
        without = neighbour_pairs(positions, cell, periodic, CUTOFF)
        for other in (fresh, without):
            assert all(np.array_equal(a, b) for a, b in zip(reused, other, strict=True))
    assert 5 < kept.builds < 60


def test_reuse_while_the_cell_changes() -> None:
    """As in NPT: atoms follow the cell, which breathes and shears by a few percent."""
    rng = np.random.default_rng(2)
    atoms = bulk("Si", cubic=True)
    start, fractional = atoms.cell.array.copy(), atoms.get_scaled_positions() + np.array([0, 3, -2])
    kept = NeighbourList(CUTOFF, skin=0.6)
    for step in range(120):
        fractional += rng.normal(size=fractional.shape) * 1e-3
        strain = 0.08 * np.sin(step / 15) * np.array([[1, 0.5, 0], [0, -0.3, 0], [0.2, 0, 0.8]])
        cell = start @ (np.eye(3) + strain)
        reused = kept.pairs(fractional @ cell, cell, atoms.pbc)
        fresh = neighbour_pairs(fractional @ cell, cell, atoms.pbc, CUTOFF)
        assert all(np.array_equal(a, b) for a, b in zip(reused, fresh, strict=True))
    assert 1 < kept.builds < 30


def test_compression_without_the_atoms_uses_up_the_skin() -> None:
    """Pairs that the shrinking cell brings within the cutoff must not be missed."""
    atoms = bulk("Si", cubic=True)
    kept = NeighbourList(CUTOFF, skin=0.5)
    for factor in np.linspace(1.0, 0.7, 40):
        cell = atoms.cell.array * factor
        positions = atoms.positions * factor
        reused = kept.pairs(positions, cell, atoms.pbc)
        fresh = neighbour_pairs(positions, cell, atoms.pbc, CUTOFF)
        assert all(np.array_equal(a, b) for a, b in zip(reused, fresh, strict=True))


def test_cell_that_changes_under_atoms_at_rest() -> None:
    """The images move although no atom does, and the more the farther an atom was left unwrapped."""
    atoms = bulk("Si", cubic=True)
    atoms.positions[2] += 50 * atoms.cell.array[0]
    kept = NeighbourList(CUTOFF, skin=1.0)
    for factor in np.linspace(1.0, 0.98, 20):
        cell = atoms.cell.array * factor
        reused = kept.pairs(atoms.positions, cell, atoms.pbc)
        fresh = neighbour_pairs(atoms.positions, cell, atoms.pbc, CUTOFF)
        assert all(np.array_equal(a, b) for a, b in zip(reused, fresh, strict=True))


def test_built_anew_only_beyond_half_the_skin() -> None:
    atoms = molecule("C6H6")
    neighbours = NeighbourList(CUTOFF, skin=0.5)

    def builds_after(move: float) -> int:
        moved = atoms.positions.copy()
        moved[3, 1] += move
        neighbours.pairs(moved, atoms.cell.array, atoms.pbc)
        return neighbours.builds

    assert [builds_after(move) for move in (0.0, 0.0, 0.24, -0.24, 0.26)] == [1, 1, 1, 1, 2]


def test_skin_of_zero_is_built_at_every_move() -> None:
    atoms = molecule("H2O")
    neighbours = NeighbourList(CUTOFF, skin=0.0)
    for move in (0.0, 0.0, 1e-9):
        atoms.positions[0, 0] += move
        neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc)
    assert neighbours.builds == 2


def test_other_periodicity_or_number_of_atoms_is_another_system() -> None:
    atoms = bulk("Si", cubic=True)
    neighbours = NeighbourList(CUTOFF)
    periodic = neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc)
    open_ = neighbours.pairs(atoms.positions, atoms.cell.array, np.zeros(3, bool))
    fewer = neighbours.pairs(atoms.positions[:4], atoms.cell.array, np.zeros(3, bool))
    assert neighbours.builds == 3
    assert periodic[0].shape[1] > open_[0].shape[1] > fewer[0].shape[1]


def test_atom_that_left_a_slab() -> None:
    """The libraries differ here: some hang or end the process."""
    rng = np.random.default_rng(0)
    cell = np.diag([20.0, 20.0, 20.0])
    positions = rng.random((20, 3)) * 20
    pbc = np.array([True, False, False])
    near = neighbour_pairs(positions[1:], cell, pbc, CUTOFF)
    positions[0] = [5.0, 8e5, -8e5]
    index, shift = neighbour_pairs(positions, cell, pbc, CUTOFF)
    assert np.array_equal(index - 1, near[0])
    assert np.array_equal(shift, near[1])


@pytest.mark.parametrize(
    ("positions", "cell", "message"),
    [
        ([[0, 0, 0], [0, np.nan, 0]], np.eye(3) * 9, "position of atom 1, counted from 0"),
        ([[np.inf, 0, 0], [0, 0, 0]], np.eye(3) * 9, "position of atom 0"),
        ([[0, 0, 0], [1e30, 0, 0]], np.eye(3) * 9, "position of atom 1"),
        ([[0, 0, 0]], np.zeros((3, 3)), "missing or not finite"),
        ([[0, 0, 0]], np.diag([5.0, 5.0, 0.0]), "missing or not finite"),
        ([[0, 0, 0]], np.array([[5.0, 0, 0], [0, 5, 0], [5, 5, 1e-9]]), "do not span a volume"),
        ([[0, 0, 0]], np.full((3, 3), np.nan), "missing or not finite"),
        ([[0, 0, 0]], np.eye(3) * 0.3, "an unphysical density"),
        ([[0, 0, 0]], np.eye(3) * 1e5, "too large for a neighbour list"),
    ],
)
def test_what_has_no_neighbour_list(
    positions: list[list[float]], cell: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ForceDeltaError, match=message):
        NeighbourList(CUTOFF).pairs(np.array(positions, float), cell, np.ones(3, bool))


def test_positions_that_stop_being_numbers_are_noticed_at_reuse() -> None:
    atoms = molecule("H2O")
    neighbours = NeighbourList(CUTOFF)
    neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc)
    atoms.positions[1] = np.nan
    with pytest.raises(ForceDeltaError, match="position of atom 1"):
        neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_cell_that_breaks_down_is_noticed_at_reuse(value: float) -> None:
    atoms = bulk("Si", cubic=True)
    neighbours = NeighbourList(CUTOFF)
    neighbours.pairs(atoms.positions, atoms.cell.array, atoms.pbc)
    cell = atoms.cell.array.copy()
    cell[1] = value
    with pytest.raises(ForceDeltaError, match="missing or not finite"):
        neighbours.pairs(atoms.positions, cell, atoms.pbc)


@pytest.mark.parametrize(("cutoff", "skin"), [(0.0, 0.5), (-1.0, 0.5), (np.nan, 0.5), (5.0, -0.1)])
def test_cutoff_and_skin_out_of_range(cutoff: float, skin: float) -> None:
    with pytest.raises(ForceDeltaError, match="positive cutoff and a skin of 0"):
        NeighbourList(cutoff, skin)


def test_lone_atom_and_nothing() -> None:
    none = np.zeros((3, 3)), np.zeros(3, bool)
    for atoms in (0, 1):
        index, shift = neighbour_pairs(np.zeros((atoms, 3)), *none, CUTOFF)
        assert index.shape == (2, 0)
        assert shift.shape == (0, 3)
