"""EquiformerV2: forces against finite differences, with and without our part of the gradient."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from eqv2_files import write_checkpoint
from systems import acetaldehyde, graph_of, random_rotation, small_crystal

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.models.eqv2.catalogue import FAMILY
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model

if FAMILY.problem():
    pytest.skip(f"EquiformerV2: {FAMILY.problem()}", allow_module_level=True)

STEP = 1e-5  # Å or strain: the network has features as narrow as 0.02 Å
DERIVATIVE = 1e-7  # of central differences in float64, relative to the largest
WRONG = 0.1  # and what they are off without our part, at least


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("eqv2") / "small.pt"
    write_checkpoint(path)
    return load_model(path, torch.float64, architecture="eqV2")


@pytest.fixture
def uncorrected(model: LoadedModel) -> Iterator[LoadedModel]:
    """The gradient as the library leaves it."""
    model.module.frames.live = False
    yield model
    model.module.frames.live = True


def rattled_crystal() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


STRUCTURES = [acetaldehyde, rattled_crystal, small_crystal]


def energy(model: LoadedModel, atoms: Atoms) -> float:
    with torch.no_grad():
        return float(model.module(*graph_of([atoms], cutoff=model.cutoff))[0])


def error_of_forces(model: LoadedModel, atoms: Atoms, fixed: bool, directions: int = 8) -> float:
    """The largest error of F_c, relative to the largest force, along some directions."""
    graph = list(graph_of([atoms], cutoff=model.cutoff))
    if fixed:
        graph[3:5] = model.module.select(graph[0], *graph[2:])
    forces = ForceDelta(model.module)(*graph)["conservative_forces"].numpy()
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(directions):
        i, k = generator.integers(len(atoms)), generator.integers(3)
        energies = []
        for sign in (1, -1):
            if fixed:
                positions = graph[0].clone()
                positions[i, k] += sign * STEP
                with torch.no_grad():
                    energies.append(float(model.module(positions, *graph[1:])[0]))
            else:
                moved = atoms.copy()
                moved.positions[i, k] += sign * STEP
                energies.append(energy(model, moved))
        errors.append(forces[i, k] + (energies[0] - energies[1]) / (2 * STEP))
    return float(np.abs(errors).max() / np.abs(forces).max())


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed graph", "rebuilt graph"])
@pytest.mark.parametrize("make", STRUCTURES)
def test_conservative_forces_are_minus_the_gradient(
    model: LoadedModel, make: Callable[[], Atoms], fixed: bool
) -> None:
    assert error_of_forces(model, make(), fixed) < DERIVATIVE


@pytest.mark.parametrize("make", STRUCTURES)
def test_the_librarys_own_gradient_is_rejected(
    uncorrected: LoadedModel, make: Callable[[], Atoms]
) -> None:
    assert error_of_forces(uncorrected, make(), fixed=True) > WRONG


def test_the_correction_changes_no_result(model: LoadedModel) -> None:
    graph = graph_of([rattled_crystal()], cutoff=model.cutoff)
    right = ForceDelta(model.module)(*graph)
    model.module.frames.live = False
    wrong = ForceDelta(model.module)(*graph)
    model.module.frames.live = True
    for key in ("energy", "direct_forces"):
        assert torch.equal(right[key], wrong[key]), key
    assert not torch.equal(right["conservative_forces"], wrong["conservative_forces"])


@pytest.mark.parametrize("live", [True, False])
def test_stress_is_the_strain_derivative(model: LoadedModel, live: bool) -> None:
    """Edges turn with the cell too: the library's own gradient is wrong here as well."""
    atoms = small_crystal()
    model.module.frames.live = live
    graph = graph_of([atoms], cutoff=model.cutoff)
    stress = ForceDelta(model.module)(*graph, stress=True)["stress"][0].numpy()
    model.module.frames.live = True
    expected = np.zeros((3, 3))
    for a in range(3):
        for b in range(a + 1):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * STEP
            strain[b, a] += 0.5 * STEP
            for sign in (1, -1):
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=False)
                moved.positions = atoms.positions @ (np.eye(3) + sign * strain)
                expected[a, b] += sign * energy(model, moved) / (2 * STEP)
            expected[b, a] = expected[a, b]
    expected /= atoms.get_volume()
    error = np.abs(stress - expected).max() / np.abs(expected).max()
    assert error < DERIVATIVE if live else error > WRONG / 10


def test_edges_along_each_axis(model: LoadedModel) -> None:
    """Along y, where frames lie as they are, naive derivatives of their angles are NaN, and angles
    have half of the digits; along x and z the library's choice of frames jumps."""
    atoms = Atoms("OH3Si", [[0, 0, 0], [0, 1.1, 0], [0, -1.2, 0], [0, 0, 1.0], [1.6, 0, 0]])
    assert error_of_forces(model, atoms, fixed=True, directions=15) < 10 * DERIVATIVE


def test_turning_a_structure_changes_little(model: LoadedModel) -> None:
    """As little as another choice of frames does; these are all that is not invariant."""
    atoms, rotation = acetaldehyde(), random_rotation(1)
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    first = ForceDelta(model.module)(*graph_of([atoms], cutoff=model.cutoff))
    second = ForceDelta(model.module)(*graph_of([turned], cutoff=model.cutoff))
    for key in ("direct_forces", "conservative_forces"):
        expected = first[key].numpy() @ rotation.T
        assert np.abs(second[key].numpy() - expected).max() < 0.1 * np.abs(expected).max(), key


def test_second_derivatives_are_refused(model: LoadedModel) -> None:
    with pytest.raises(ForceDeltaError, match="second derivatives"):
        ForceDelta(model.module)(
            *graph_of([acetaldehyde()], cutoff=model.cutoff), create_graph=True
        )


def test_parameters_get_no_gradient(model: LoadedModel) -> None:
    ForceDelta(model.module)(*graph_of([acetaldehyde()], cutoff=model.cutoff))
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_frames_are_those_of_a_seed(model: LoadedModel, tmp_path: Path) -> None:
    """The same configuration has the same numbers, and a run's random numbers are its own."""
    graph = graph_of([rattled_crystal()], cutoff=model.cutoff)
    force_delta = ForceDelta(model.module)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = force_delta(*graph), force_delta(*graph)
    assert torch.equal(torch.rand(3), expected)
    for key in first:
        assert torch.equal(first[key], second[key]), key
    model.module.frame_seed = 1
    other = force_delta(*graph)
    model.module.frame_seed = 0
    noise = float((first["energy"] - other["energy"]).abs())
    assert 1e-6 < noise < 1e-2  # eV: the network of the test has coarse grids
    assert not torch.equal(first["conservative_forces"], other["conservative_forces"])


def test_turning_the_frames_about_their_edges_is_part_of_the_gradient(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it an error of the size of the noise remains."""
    from forcedelta.models.eqv2 import frames

    monkeypatch.setattr(frames, "_cotangents", lambda random, along, z: torch.zeros(len(z)))
    assert 1e-4 < error_of_forces(model, acetaldehyde(), fixed=True) < 1e-2
