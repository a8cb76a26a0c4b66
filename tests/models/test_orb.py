"""Orb models: both forces, energies and stress against orb-models itself and finite differences."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from orb_networks import (
    KINDS,
    STRUCTURES,
    acetaldehyde,
    expected,
    graph,
    regressor,
    rock_salt,
    small,
    small_cell,
)
from torch import Tensor

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel

pytestmark = pytest.mark.usefixtures("silent")


def energies(model: LoadedModel, arguments: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return model.module(*arguments)[0].sum()


def slope(energy: list[Tensor], step: float) -> float:
    """Derivative from values at -2, -1, 1 and 2 steps."""
    return float(energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / (12 * step)


@pytest.mark.parametrize("graph_is", ["fixed", "rebuilt"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_conservative_forces_are_finite_differences(
    kind: str, structure: str, graph_is: str
) -> None:
    model = small(kind, most=20 if graph_is == "fixed" else 120)
    atoms = STRUCTURES[structure]()
    start = graph(atoms, model)
    forces = ForceDelta(model.module)(*start)["conservative_forces"]
    index, shift = model.module.select(*start[:1], *start[2:6])
    step = 1e-3
    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = rng.normal(size=(len(atoms), 3))
        direction /= np.linalg.norm(direction)
        values = []
        for times in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions += times * step * direction
            arguments = graph(moved, model)
            if graph_is == "fixed":
                positions = start[0] + times * step * torch.tensor(direction)
                arguments = (positions, *start[1:3], index, shift, *start[5:])
            values.append(energies(model, arguments))
        projected = float((forces * torch.tensor(direction)).sum())
        assert -slope(values, step) == pytest.approx(projected, abs=1e-6 * float(forces.norm()))


@pytest.mark.parametrize("make", [rock_salt, small_cell])
@pytest.mark.parametrize("kind", KINDS)
def test_stress_is_the_strain_derivative(kind: str, make: object) -> None:
    model = small(kind, most=120)
    atoms = make()
    stress = ForceDelta(model.module)(*graph(atoms, model), stress=True)["stress"][0].numpy()
    np.testing.assert_allclose(stress, stress.T, atol=1e-15)
    rng = np.random.default_rng(3)
    for _ in range(3):
        strain = rng.normal(size=(3, 3))
        strain = 0.5 * (strain + strain.T)
        values = []
        for times in (-2, -1, 1, 2):
            strained = atoms.copy()
            strained.set_cell(atoms.cell @ (np.eye(3) + times * 1e-4 * strain), scale_atoms=True)
            values.append(energies(model, graph(strained, model)))
        derivative = slope(values, 1e-4) / atoms.get_volume()
        assert derivative == pytest.approx(
            (stress * strain).sum(), abs=1e-6 * np.linalg.norm(stress)
        )


def linear() -> Atoms:
    """Carbon dioxide on a skewed axis: no torque along it can be removed."""
    atoms = molecule("CO2")
    atoms.rotate(40, (1, 2, 3))
    atoms.positions[1] *= 1.05
    return atoms


@pytest.mark.parametrize("most", [20, 120])
@pytest.mark.parametrize(
    "make", [*STRUCTURES.values(), linear, lambda: molecule("H2"), lambda: molecule("CH4")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_energy_and_direct_forces_are_those_of_orb_models(
    kind: str, make: object, most: int
) -> None:
    atoms = make()
    atoms.info.setdefault("charge", 0)
    atoms.info.setdefault("spin", 1)
    model = small(kind, most)
    energy, direct, *_ = model.module(*graph(atoms, model))
    theirs = expected(kind, atoms, most)
    assert float(energy) == pytest.approx(theirs["energy"], abs=1e-11)
    np.testing.assert_allclose(direct.numpy(), theirs["forces"], atol=1e-11)


def test_float32_keeps_the_digits_of_the_energy() -> None:
    """A hundred times the reference energy of an atom, and still a micro-eV of the rest."""
    atoms = bulk("U", "bcc", a=3.5, cubic=True).repeat((2, 2, 2))
    atoms.rattle(0.05, seed=0)
    exact = energies(small("v2"), graph(atoms, small("v2")))
    single = small("v2", dtype=torch.float32)
    rounded = energies(single, graph(atoms, single, torch.float32))
    assert rounded.dtype == torch.float64
    assert float(exact) == pytest.approx(float(rounded), abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_its_structures(kind: str) -> None:
    model = small(kind)
    structures = [acetaldehyde(), rock_salt(), linear(), Atoms("H"), small_cell()]
    structures[2].info.update(charge=0, spin=1)
    structures[3].info.update(charge=0, spin=2)
    force_delta = ForceDelta(model.module)
    together = force_delta(*graph(structures, model), stress=True)
    owner = graph(structures, model)[5]
    for number, atoms in enumerate(structures):
        alone = force_delta(*graph(atoms, model), stress=True)
        for key, value in alone.items():
            of_atoms = len(together[key]) == len(owner)
            mine = together[key][owner == number] if of_atoms else together[key][number][None]
            torch.testing.assert_close(mine, value, rtol=0, atol=1e-11, equal_nan=True)


def test_a_lone_atom_has_no_forces() -> None:
    model = small("v3")
    result = ForceDelta(model.module)(*graph(Atoms("Ne"), model))
    assert torch.isfinite(result["energy"]).all()
    assert not result["direct_forces"].any()
    assert not result["conservative_forces"].any()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind: str, structure: str) -> None:
    """The gradient of U, which attacks follow, against finite differences."""
    model = small(kind)
    arguments = list(graph(STRUCTURES[structure](), model))
    index, shift = model.module.select(arguments[0], *arguments[2:6])
    arguments[3:5] = index, shift
    force_delta = ForceDelta(model.module)
    positions = arguments.pop(0)
    live = positions.clone().requires_grad_(True)
    u = force_delta(live, *arguments, create_graph=True)["force_delta"].sum()
    gradient = torch.autograd.grad(u, live)[0]
    direction = torch.tensor(np.random.default_rng(1).normal(size=positions.shape))
    step = 1e-4
    values = [
        force_delta(positions + times * step * direction, *arguments)["force_delta"]
        for times in (-2, -1, 1, 2)
    ]
    assert slope(values, step) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_twenty_neighbours_jump_and_more_are_smooth() -> None:
    """An atom passes another on its way to being the 20th neighbour of a third."""
    atoms = bulk("Al", cubic=True).repeat((3, 3, 3))
    atoms.rattle(0.02, seed=4)
    distances = atoms.get_distances(0, range(1, len(atoms)), mic=True)
    order = 1 + np.argsort(distances)
    last, next_ = int(order[19]), int(order[20])
    gap = distances[next_ - 1] - distances[last - 1]
    toward = atoms.get_distance(next_, 0, mic=True, vector=True)
    toward /= np.linalg.norm(toward)

    def across(most: int) -> tuple[float, float]:
        model = small("v3", most)
        values = []
        for way in (gap - 1e-7, gap + 1e-7):
            moved = atoms.copy()
            moved.positions[next_] += way * toward
            arguments = graph(moved, model)
            values.append(float(energies(model, arguments)))
        forces = ForceDelta(model.module)(*arguments)["conservative_forces"]
        smooth = -2e-7 * float(forces[next_] @ torch.tensor(toward))
        return values[1] - values[0], smooth

    jump, smooth = across(20)
    assert abs(jump) > 1000 * abs(smooth)
    step, smooth = across(120)
    assert step == pytest.approx(smooth, abs=1e-11)


@pytest.mark.parametrize("most", [4, 20, 120])
def test_the_choice_of_neighbours(most: int) -> None:
    """The nearest ones of each atom, in the given order, and the same when chosen again."""
    model = small("v3", most)
    arguments = graph([rock_salt(), bulk("Al", cubic=True), molecule("H2O")], model)
    positions, cell, batch = arguments[0], arguments[2], arguments[5]
    index, shift = model.module.select(positions, cell, *arguments[3:6])
    again = model.module.select(positions, cell, index, shift, batch)
    assert torch.equal(again[0], index)
    assert torch.equal(again[1], shift)

    def lengths(index: Tensor, shift: Tensor) -> Tensor:
        images = torch.bmm(shift[:, None], cell[batch[index[0]]])[:, 0]
        return (positions[index[1]] + images - positions[index[0]]).norm(dim=1)

    every = lengths(arguments[3], arguments[4])
    kept = lengths(index, shift)
    for atom in range(len(positions)):
        nearest = every[arguments[3][0] == atom].sort().values[:most]
        mine = kept[index[0] == atom]
        torch.testing.assert_close(mine.sort().values, nearest, rtol=0, atol=1e-12)
    assert torch.equal(index[0], index[0].sort().values)


@pytest.mark.parametrize("kind", ["v3", "omol"])
def test_expected_errors_are_means_over_the_bins(kind: str) -> None:
    """`forces_error` of orb-models' loss is a mean over components; the bins are its own."""
    atoms = rock_salt()
    model = small(kind)
    result = ForceDelta(model.module)(*graph(atoms, model))["expected_errors"]
    edges = regressor(kind).heads["confidence"].bin_edges.numpy()
    probabilities = expected(kind, atoms)["confidence"]
    middle = 0.5 * (edges[1:] + edges[:-1])
    np.testing.assert_allclose(result.numpy(), probabilities @ middle, atol=1e-12)
    assert not hasattr(small("v2").module.network.regressor.heads, "confidence")
    assert "expected_errors" not in ForceDelta(small("v2").module)(*graph(atoms, small("v2")))


def test_charge_and_spin_matter() -> None:
    atoms = acetaldehyde()
    model = small("omol")
    first = energies(model, graph(atoms, model))
    atoms.info.update(charge=1)
    assert float(energies(model, graph(atoms, model))) == pytest.approx(
        expected("omol", atoms)["energy"], abs=1e-11
    )
    atoms.info.update(charge=0, spin=1)
    assert abs(float(first - energies(model, graph(atoms, model)))) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_invariances(kind: str) -> None:
    model = small(kind, most=120)
    atoms = rock_salt()
    here = ForceDelta(model.module)(*graph(atoms, model))
    order = np.random.default_rng(0).permutation(len(atoms))
    moved = atoms[order]
    moved.info.update(atoms.info)
    moved.positions += [0.3, -20.0, 5.0]
    moved.positions[2] += 2 * moved.cell[1]
    there = ForceDelta(model.module)(*graph(moved, model))
    torch.testing.assert_close(here["energy"], there["energy"], rtol=0, atol=1e-11)
    for key in ("direct_forces", "conservative_forces", "force_deltas"):
        torch.testing.assert_close(here[key][order], there[key], rtol=0, atol=1e-11)


def test_one_pass_each_way_and_no_gradients_of_parameters() -> None:
    model = small("v3")
    passes = {"forward": 0, "backward": 0}
    layer = model.module.network.regressor.model.gnn_stacks[0]

    def count(_: object, __: object, output: tuple[Tensor, ...]) -> None:
        passes["forward"] += 1
        output[1].register_hook(lambda _: passes.update(backward=passes["backward"] + 1))

    layer.register_forward_hook(count)
    ForceDelta(model.module)(*graph(rock_salt(), model), stress=True)
    assert passes == {"forward": 1, "backward": 1}
    assert all(not one.requires_grad and one.grad is None for one in model.module.parameters())


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_the_default_dtype_does_not_matter_and_stays(
    kind: str, dtype: torch.dtype, default: torch.dtype
) -> None:
    before = torch.get_default_dtype()
    model = small(kind, dtype=dtype)
    arguments = graph(rock_salt(), model, dtype)
    reference = ForceDelta(model.module)(*arguments)
    torch.set_default_dtype(default)
    try:
        result = ForceDelta(model.module)(*arguments)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(before)
    for key, value in reference.items():
        assert torch.equal(result[key], value)


def test_structures_that_orb_models_does_not_know() -> None:
    atoms = rock_salt()
    atoms.pbc = [True, True, False]
    model = small("v3")
    with pytest.raises(ForceDeltaError, match="periodic in one or two directions"):
        model.module(*graph(atoms, model))
    arguments = list(graph([rock_salt(), small_cell()], model))
    arguments[5] = arguments[5].flip(0)
    with pytest.raises(ForceDeltaError, match="lie together"):
        model.module(*arguments)
    charged = small("omol")
    with pytest.raises(ForceDeltaError, match="charge and the spin"):
        charged.module(*graph(rock_salt(), charged)[:6])


def test_a_molecule_in_a_box_is_a_molecule() -> None:
    """orb-models leaves the torque where there is a cell, periodic or not; the energy is the same."""
    boxed = acetaldehyde()
    boxed.center(vacuum=5.0)
    model = small("v3")
    graphs = Graphs(model, torch.float64, torch.device("cpu"))
    in_box = model.module(*graphs.batch([boxed]))
    alone = model.module(*graphs.batch([acetaldehyde()]))
    torch.testing.assert_close(in_box[1], alone[1], rtol=0, atol=1e-11)
    assert float(in_box[0]) == pytest.approx(expected("v3", boxed)["energy"], abs=1e-11)
