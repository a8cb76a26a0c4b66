"""A part of a System as a molecule, and the charges around it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.geometry import find_mic

from forcedelta import ForceDeltaError
from forcedelta.parts import CLOSEST, as_molecule, charges_around
from md_hooks import Environment

CELLS = {
    "cubic": np.eye(3) * 16.0,
    "truncated octahedron": 18.0
    * np.array(
        [[1, 0, 0], [1 / 3, 2 * np.sqrt(2) / 3, 0], [-1 / 3, np.sqrt(2) / 3, np.sqrt(6) / 3]]
    ),
}


def box_of_water(cell: np.ndarray, seed: int = 1) -> tuple[Atoms, Environment]:
    """Ethanol at a corner of a cell and 60 waters anywhere in it, each apart from the ethanol."""
    rng = np.random.default_rng(seed)
    solute, water = molecule("CH3CH2OH"), molecule("H2O").positions
    solute.set_cell(cell)
    solute.pbc = True
    centres = []
    while len(centres) < 60:
        centre = rng.random(3) @ cell
        if find_mic(solute.positions - centre, cell)[1].min() > 3.5:
            centres.append(centre)
    positions = np.concatenate([centre + water for centre in centres])
    environment = Environment(
        np.tile([8, 1, 1], 60), positions, np.tile([-0.834, 0.417, 0.417], 60),
        np.repeat(np.arange(60), 3), cell,
    )  # fmt: skip
    return solute, environment


def shifted(environment: Environment, shifts: np.ndarray) -> Environment:
    """With each particle moved by lattice vectors, integers [M, 3]."""
    return Environment(
        environment.numbers, environment.positions + shifts @ environment.cell,
        environment.charges, environment.molecules, environment.cell,
    )  # fmt: skip


@pytest.mark.parametrize("kind", CELLS)
def test_a_divided_molecule_is_made_whole(kind):
    solute, _ = box_of_water(CELLS[kind])
    shifts = np.random.default_rng(0).integers(-2, 3, (len(solute), 3))
    divided = solute.copy()
    divided.positions += shifts @ CELLS[kind]
    whole = as_molecule(divided)
    np.testing.assert_allclose(whole.get_all_distances(), solute.get_all_distances(), atol=1e-9)
    assert not whole.pbc.any()


def test_two_molecules_and_overlapping_atoms():
    pair = Atoms(
        "HHHH", [[0.1, 0, 0], [0.85, 0, 0], [9.0, 0, 0], [9.0, 0, 0]], cell=[10] * 3, pbc=True
    )
    whole = as_molecule(pair)
    np.testing.assert_allclose(whole.positions[2:, 0], -1.0)


@pytest.mark.parametrize("atoms", [bulk("Si", cubic=True), graphene(size=(3, 3, 1), vacuum=8.0)])
def test_what_is_bonded_to_its_images_is_no_molecule(atoms):
    atoms.pbc = True
    assert as_molecule(atoms) is None


@pytest.mark.parametrize("kind", CELLS)
def test_images_do_not_matter(kind):
    """Waters may come from any image, and even divided."""
    solute, given = box_of_water(CELLS[kind])
    solute = as_molecule(solute)
    positions, charges = charges_around(solute, given)
    rng = np.random.default_rng(2)
    for shifts in (
        np.repeat(rng.integers(-3, 4, (60, 3)), 3, axis=0),
        rng.integers(-3, 4, (180, 3)),
    ):
        again, same = charges_around(solute, shifted(given, shifts))
        np.testing.assert_allclose(again, positions, atol=1e-9)
        np.testing.assert_array_equal(same, charges)


@pytest.mark.parametrize("kind", CELLS)
def test_each_molecule_is_whole_and_nearest(kind):
    solute, given = box_of_water(CELLS[kind])
    solute = as_molecule(solute)
    positions, charges = charges_around(solute, given)
    assert abs(charges.sum()) < 1e-9
    waters = positions.reshape(60, 3, 3)
    np.testing.assert_allclose(np.linalg.norm(waters[:, 1] - waters[:, 0], axis=1), 0.97, atol=0.01)
    centre = solute.positions.mean(axis=0)
    offsets = waters.mean(axis=1) - centre
    nearest = find_mic(offsets, CELLS[kind])[1]
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), nearest, atol=1e-9)


def test_a_cutoff_keeps_whole_molecules():
    solute, given = box_of_water(CELLS["cubic"])
    solute = as_molecule(solute)
    everywhere, _ = charges_around(solute, given)
    positions, charges = charges_around(solute, given, 5.0)
    distances = np.linalg.norm(everywhere[:, None] - solute.positions, axis=-1).min(axis=1)
    wanted = (distances.reshape(60, 3) <= 5.0).any(axis=1)
    assert 0 < wanted.sum() < 60
    np.testing.assert_array_equal(positions, everywhere.reshape(60, 3, 3)[wanted].reshape(-1, 3))
    assert abs(charges.sum()) < 1e-9


def test_particles_without_charge_are_left_out():
    solute = Atoms("H")
    given = Environment(
        np.array([8, 0]), np.array([[4.0, 0, 0], [4.1, 0, 0]]), np.array([0.0, -1.0]),
        np.zeros(2, int), np.zeros((3, 3)),
    )  # fmt: skip
    positions, charges = charges_around(solute, given)
    assert (positions.tolist(), charges.tolist()) == ([[4.1, 0, 0]], [-1.0])


def test_a_charge_on_an_atom():
    given = Environment(
        np.array([11]),
        np.array([[0.9 * CLOSEST, 0, 0]]),
        np.ones(1),
        np.zeros(1, int),
        np.zeros((3, 3)),
    )
    with pytest.raises(ForceDeltaError, match=r"is 0\.90 Å from atom 0"):
        charges_around(Atoms("H"), given)
