"""Forces that vanish by symmetry: what is known of crystals, against what a model finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.spacegroup import crystal
from command_line import untrained_network
from systems import small_network

from forcedelta.evaluation import Evaluator
from forcedelta.models.loaded import LoadedModel
from forcedelta.simulation.guarded import guarded_run
from forcedelta.symmetric import forces_vanish
from md_hooks import Trajectory

TEFLON = Atoms("C2", [[0, 0, 0], [0, 0, 1.25]], cell=[0, 0, 2.5], pbc=[False, False, True])


def rutile(u: float = 0.305) -> Atoms:
    """Oxygen moves along (110) with the free parameter u."""
    return crystal(
        ["Ti", "O"], [(0, 0, 0), (u, u, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]
    )


SYMMETRIC = {
    "diamond": bulk("Si"),
    "diamond, eight atoms": bulk("Si", cubic=True),
    "a supercell": bulk("Si", cubic=True) * (2, 1, 3),
    "rock salt": bulk("NaCl", "rocksalt", a=5.6),
    "one atom in a cell": bulk("Cu"),
    "hcp": bulk("Mg"),
    "graphene": graphene(vacuum=None),
    "an equidistant chain": TEFLON,
    "one atom": Atoms("H"),
}


def dimerised() -> Atoms:
    atoms = TEFLON.copy()
    atoms.positions[1, 2] += 0.05
    return atoms


def displaced(by: float) -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.positions[3, 1] += by
    return atoms


FREE = {
    "rutile": rutile(),
    "a molecule": molecule("CH4"),
    "two atoms": Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]),
    "a slab": fcc111("Cu", (1, 1, 3), vacuum=6, periodic=False),
    "a slab in a cell": fcc111("Cu", (1, 1, 3), vacuum=6, periodic=True),
    "a displaced atom": displaced(0.01),
    "a rattled crystal": displaced(0.3),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_forces_that_vanish(name):
    atoms = SYMMETRIC[name]
    assert forces_vanish(atoms)
    turned = atoms.copy()
    turned.rotate(40, [1, 2, 3], rotate_cell=True)
    turned.positions += 0.37
    assert forces_vanish(turned)


@pytest.mark.parametrize("name", FREE)
def test_forces_that_do_not(name):
    assert not forces_vanish(FREE[name])


def test_rounded_positions_still_count():
    assert forces_vanish(displaced(2e-4))


def test_a_chain_that_is_not_equidistant_keeps_its_inversions():
    # both atoms of a dimerised chain can move along it
    assert not forces_vanish(dimerised())


def test_known_forces_decide_without_a_search():
    crystal_, forces = bulk("Si"), np.zeros((2, 3))
    assert forces_vanish(crystal_, forces, forces)
    forces[1, 0] = 0.2
    assert not forces_vanish(crystal_, np.zeros((2, 3)), forces)
    assert not forces_vanish(crystal_, np.full((2, 3), np.nan))


def test_atoms_at_one_place_are_not_symmetric():
    twice = bulk("Si", cubic=True)
    twice.positions[1] = twice.positions[0]
    assert not forces_vanish(twice)


@pytest.mark.parametrize("name", ["diamond", "graphene", "an equidistant chain", "rutile"])
def test_random_weights_agree(name):
    """The two forces of any equivariant model vanish there, and nowhere else."""
    atoms = {**SYMMETRIC, **FREE}[name].copy()
    atoms.numbers[:] = np.where(atoms.numbers == 22, 14, atoms.numbers)
    network = small_network(torch.float64)
    model = LoadedModel(network, "small", "small", None, network.cutoff, None, "none")
    [found] = Evaluator(model, torch.float64).batch([atoms])
    zero = max(np.abs(found.direct_forces).max(), np.abs(found.conservative_forces).max()) < 1e-9
    assert zero == forces_vanish(atoms)


@pytest.mark.parametrize("displaced", [False, True])
def test_a_run_from_an_ideal_crystal_says_what_its_first_u_means(tmp_path, displaced, caplog):
    atoms = bulk("Si", cubic=True)
    if displaced:
        atoms.rattle(0.05, seed=1)
    model = untrained_network(tmp_path / "solid.safetensors", [14], periodic=True)
    with caplog.at_level("INFO", "forcedelta"):
        guarded_run(atoms, model, steps=2, out=tmp_path / "run.h5")
    u = Trajectory(tmp_path / "run.h5").series["force_delta"]
    assert (u[0] < 1e-5) == (not displaced)
    assert u[-1] > 1e-5  # the atoms have moved
    assert ("vanish by symmetry, and U with them" in caplog.text) == (not displaced)
