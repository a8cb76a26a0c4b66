"""The force module: eq. 1 and 2, derivatives against finite differences, symmetries, export."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from systems import (
    CUTOFF,
    Counting,
    Graph,
    Springs,
    acetaldehyde,
    graph_of,
    random_rotation,
    small_crystal,
    small_network,
)
from torch import Tensor, nn

from forcedelta import ForceDelta, ForceDeltaError, epsilon

pytestmark = pytest.mark.usefixtures("silent")

FINITE_DIFFERENCE = 1e-4  # Å or strain
DERIVATIVE = 1e-7  # of central differences in float64, relative to the largest
SAME = 1e-12  # two ways to the same float64
FLOAT32 = 2e-5

ignore_script_warning = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def energy_of(model: nn.Module, atoms: Atoms) -> float:
    with torch.no_grad():
        return float(model(*graph_of([atoms]))[0])


def close(left: Tensor | np.ndarray, right: Tensor | np.ndarray, tolerance: float) -> bool:
    left, right = np.asarray(left), np.asarray(right)
    return bool(np.abs(left - right).max() <= tolerance * max(1.0, np.abs(right).max()))


def test_equation_1_by_hand() -> None:
    """F_c = -r and F_nc = -r/4, so that u_i = 3/4 |r_i| / sqrt(3)."""
    first = Atoms("H2", [[0, 0, 1], [2, 0, 0]])
    second = Atoms("H", [[3, 4, 0]])
    result = ForceDelta(Springs(share=0.25))(*graph_of([first, second]))
    expected = 0.75 / math.sqrt(3) * np.array([1.0, 2.0, 5.0])
    assert close(result["force_deltas"], expected, SAME)
    assert close(
        result["force_delta"],
        [math.sqrt((expected[0] ** 2 + expected[1] ** 2) / 2), expected[2]],
        SAME,
    )
    assert close(result["energy"], [2.5, 12.5], SAME)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_of_u_is_the_mean_of_squares(dtype: torch.dtype) -> None:
    structures = [acetaldehyde(), small_crystal()]
    result = ForceDelta(small_network(dtype))(*graph_of(structures, dtype))
    u, per_atom = result["force_delta"].numpy(), result["force_deltas"].numpy()
    assert result["force_delta"].dtype == dtype
    assert result["energy"].dtype == torch.float64
    assert np.allclose(u[0] ** 2, np.mean(per_atom[:7] ** 2), rtol=1e-5)
    assert np.allclose(u[1] ** 2, np.mean(per_atom[7:] ** 2), rtol=1e-5)
    assert (u > 0).all()


def test_float32_agrees_with_float64() -> None:
    """Also in the energy, whose references of thousands of eV float32 would round to meV."""
    structures = [acetaldehyde(), small_crystal()]
    single = ForceDelta(small_network(torch.float32))(
        *graph_of(structures, torch.float32), stress=True
    )
    double = ForceDelta(small_network())(*graph_of(structures), stress=True)
    for key in ("energy", "direct_forces", "conservative_forces", "force_deltas", "force_delta"):
        difference = (single[key].double() - double[key]).abs().max()
        assert difference < FLOAT32 * max(1.0, float(double["force_delta"].max())), key


@pytest.mark.parametrize("stress", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_one_forward_and_one_backward(stress: bool, create_graph: bool) -> None:
    model = Counting(small_network())
    ForceDelta(model)(*graph_of([small_crystal()]), stress=stress, create_graph=create_graph)
    assert (model.forwards, model.backwards) == (1, 1)


def test_parameters_are_left_alone() -> None:
    network = small_network()
    frozen = network.energy_head[0].weight.requires_grad_(False)
    ForceDelta(network)(*graph_of([acetaldehyde()]))
    for name, parameter in network.named_parameters():
        assert parameter.grad is None, name
        assert parameter.requires_grad == (parameter is not frozen), name


def test_results_are_detached_and_arguments_untouched() -> None:
    graph = graph_of([small_crystal()])
    before = [tensor.clone() for tensor in graph]
    result = ForceDelta(small_network())(*graph, stress=True)
    assert not any(tensor.requires_grad for tensor in result.values())
    assert all(torch.equal(a, b) for a, b in zip(before, graph, strict=True))
    assert not graph[0].requires_grad


def test_no_grad_changes_nothing() -> None:
    force_delta, graph = ForceDelta(small_network()), graph_of([acetaldehyde()])
    with torch.no_grad():
        inside = force_delta(*graph)
    outside = force_delta(*graph)
    assert all(torch.equal(inside[key], outside[key]) for key in outside)


@pytest.mark.parametrize("make", [acetaldehyde, small_crystal])
@pytest.mark.parametrize("tensors", [0, 3])
def test_conservative_forces_are_minus_the_gradient(
    make: Callable[[], Atoms], tensors: int
) -> None:
    atoms, network = make(), small_network(tensors=tensors)
    forces = ForceDelta(network)(*graph_of([atoms]))["conservative_forces"]
    expected = np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for k in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, k] += sign * FINITE_DIFFERENCE
                expected[i, k] -= sign * energy_of(network, moved) / (2 * FINITE_DIFFERENCE)
    assert np.abs(expected).max() > 1e-2
    assert close(forces, expected, DERIVATIVE)


def test_stress_is_the_strain_derivative() -> None:
    atoms, network = small_crystal(), small_network()
    stress = ForceDelta(network)(*graph_of([atoms]), stress=True)["stress"][0].numpy()
    expected = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            for sign in (1, -1):
                deformation = np.eye(3)
                deformation[a, b] += sign * FINITE_DIFFERENCE
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ deformation)
                moved.positions = atoms.positions @ deformation
                expected[a, b] += sign * energy_of(network, moved) / (2 * FINITE_DIFFERENCE)
    expected /= atoms.get_volume()
    assert np.abs(expected).max() > 1e-3
    assert close(stress, stress.T, SAME)
    assert close(stress, 0.5 * (expected + expected.T), DERIVATIVE)


def test_stress_is_symmetric_for_models_that_are_not_rotation_invariant() -> None:
    class Oriented(Springs):
        def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
            x, y, _ = graph[0].unbind(1)
            return (x * y * y).sum()[None], torch.zeros_like(graph[0])

    atoms = small_crystal()
    x, y, _ = atoms.positions.T
    stress = ForceDelta(Oriented())(*graph_of([atoms]), stress=True)["stress"][0]
    assert close(stress, stress.T, SAME)
    expected = 0.5 * (2 * x * x * y + y**3).sum() / atoms.get_volume()
    assert close(stress[0, 1], expected, SAME)


def test_stress_changes_nothing_else_and_needs_a_volume() -> None:
    graph = graph_of([acetaldehyde(), small_crystal()])
    force_delta = ForceDelta(small_network())
    without, result = force_delta(*graph), force_delta(*graph, stress=True)
    assert "stress" not in without
    assert all(close(result[key], without[key], SAME) for key in without)
    assert torch.isnan(result["stress"][0]).all()
    assert torch.isfinite(result["stress"][1]).all()


def test_batch_equals_single_structures() -> None:
    structures = [acetaldehyde(1), small_crystal(), Atoms("O", [[1.0, 2, 3]]), acetaldehyde(2)]
    force_delta = ForceDelta(small_network())
    together = force_delta(*graph_of(structures))
    alone = [force_delta(*graph_of([atoms])) for atoms in structures]
    for key, value in together.items():
        assert close(value, torch.cat([result[key] for result in alone]), SAME), key


@pytest.mark.parametrize("make", [acetaldehyde, small_crystal])
def test_symmetries(make: Callable[[], Atoms]) -> None:
    """Permutation, translation and rotation; the pairs are handed over in any order."""
    atoms = make()
    force_delta = ForceDelta(small_network())
    expected = force_delta(*graph_of([atoms]), stress=True)
    order = np.random.default_rng(0).permutation(len(atoms))
    rotation = random_rotation(1)
    moved = atoms[order]
    moved.set_cell(atoms.cell.array @ rotation.T)
    moved.positions = (moved.positions + np.array([3.0, -40.0, 7.0])) @ rotation.T
    positions, numbers, cell, index, shift, batch = graph_of([moved])
    shuffled = torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(0))
    result = force_delta(
        positions, numbers, cell, index[:, shuffled], shift[shuffled], batch, stress=True
    )
    for key in ("energy", "force_delta"):
        assert close(result[key], expected[key], 1e-10), key
    assert close(result["force_deltas"], expected["force_deltas"][order], 1e-10)
    for key in ("direct_forces", "conservative_forces"):
        assert close(result[key], expected[key].numpy()[order] @ rotation.T, 1e-10), key
    if atoms.pbc.all():
        turned = rotation @ expected["stress"][0].numpy() @ rotation.T
        assert close(result["stress"][0], turned, 1e-10)


@pytest.mark.parametrize("make", [acetaldehyde, small_crystal])
def test_gradient_of_u(make: Callable[[], Atoms]) -> None:
    """The direction of an adversarial attack (eq. 3), against central differences."""
    atoms, force_delta = make(), ForceDelta(small_network())
    positions, *rest = graph_of([atoms])
    positions.requires_grad_(True)
    u = force_delta(positions, *rest, create_graph=True)["force_delta"]
    (gradient,) = torch.autograd.grad(u.sum(), [positions])
    expected = np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for k in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, k] += sign * FINITE_DIFFERENCE
                value = float(force_delta(*graph_of([moved]))["force_delta"])
                expected[i, k] += sign * value / (2 * FINITE_DIFFERENCE)
    assert np.abs(expected).max() > 1e-3
    assert close(gradient, expected, 1e-6)


@pytest.mark.parametrize(
    "positions", [[[0.0, 0, 0]], [[0.0, 0, 0], [1.0, 2, 2]]], ids=["U = 0", "one u_i = 0"]
)
def test_gradient_where_the_difference_vanishes(positions: list[list[float]]) -> None:
    """A square root at 0 must not turn the gradient of everything into NaN."""
    start, *rest = graph_of([Atoms(["H"] * len(positions), positions)])
    start.requires_grad_(True)
    result = ForceDelta(Springs())(start, *rest, create_graph=True)
    total = result["force_delta"].sum() + result["force_deltas"].sum()
    (gradient,) = torch.autograd.grad(total, [start])
    assert result["force_deltas"][0] == 0
    assert torch.isfinite(gradient).all()
    assert (gradient[0] == 0).all()


def test_lone_atom_has_no_force_and_no_difference() -> None:
    result = ForceDelta(small_network())(*graph_of([Atoms("O", [[5.0, 0, 0]])]))
    assert (result["conservative_forces"] == 0).all()
    assert (result["direct_forces"] == 0).all()
    assert result["force_delta"] == 0
    assert torch.isfinite(result["energy"]).all()


class Constant(Springs):
    """An energy that autograd cannot follow back to the positions; ``weight`` keeps a graph."""

    def __init__(self, weight: float | None) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(torch.tensor(weight))

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        energy = torch.zeros(cell.shape[0], dtype=positions.dtype)
        weight = self.weight
        if weight is not None:
            energy = energy + weight * positions.detach().sum()
        return energy, torch.zeros_like(positions)


@pytest.mark.parametrize("weight", [None, 2.0])
def test_energy_without_a_graph_is_an_error(weight: float | None) -> None:
    with pytest.raises(ForceDeltaError, match=r"no conservative forces: look for .*detach\(\)"):
        ForceDelta(Constant(weight))(*graph_of([acetaldehyde()]))


@pytest.mark.parametrize("weight", [None, 2.0])
def test_energy_of_no_pairs_may_be_constant(weight: float | None) -> None:
    result = ForceDelta(Constant(weight))(*graph_of([Atoms("O")]), stress=True)
    assert (result["conservative_forces"] == 0).all()


def spoil(graph: Graph, place: int, value: Tensor) -> list[Tensor]:
    return [value if k == place else tensor for k, tensor in enumerate(graph)]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(7, 2), "positions must be floats of shape"),
        (0, torch.zeros(7, 3, dtype=torch.long), "positions must be floats"),
        (0, torch.zeros(0, 3, dtype=torch.float64), "empty"),
        (1, torch.zeros(6, dtype=torch.long), r"numbers and batch must have shape \[7\]"),
        (2, torch.zeros(3, 3, dtype=torch.float64), r"cell must have shape \[S, 3, 3\]"),
        (2, torch.zeros(1, 3, 3), "must be torch.float64"),
        (3, torch.zeros(4, 2, dtype=torch.long), "edge_index and edge_shift"),
        (4, torch.zeros(4, 3, dtype=torch.float64), "edge_index and edge_shift"),
    ],
)
def test_shapes_that_do_not_fit(place: int, value: Tensor, message: str) -> None:
    with pytest.raises(ForceDeltaError, match=message):
        ForceDelta(small_network())(*spoil(graph_of([acetaldehyde()]), place, value))


def test_model_that_returns_other_shapes() -> None:
    class Transposed(Springs):
        def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
            energy, direct = super().forward(*graph)
            return energy, direct.T

    with pytest.raises(ForceDeltaError, match=r"shape \[N, 3\]"):
        ForceDelta(Transposed())(*graph_of([acetaldehyde()]))


LOAD = """
import sys
sys.modules["forcedelta"] = None  # as on a machine that does not have it
import torch
module = torch.jit.load(sys.argv[1])
cases = torch.load(sys.argv[2])
torch.save([module(*graph, stress=True) for graph in cases for _ in range(3)], sys.argv[3])
"""


@pytest.mark.slow
@ignore_script_warning
@pytest.mark.parametrize(("dtype", "tensors"), [(torch.float32, 0), (torch.float64, 3)])
def test_exported_module_runs_without_the_package(
    tmp_path: Path, dtype: torch.dtype, tensors: int
) -> None:
    """Also for other numbers of atoms, pairs and structures than any it has seen."""
    force_delta = ForceDelta(small_network(dtype, tensors=tensors))
    exported = torch.jit.script(force_delta)
    exported(*graph_of([acetaldehyde()], dtype))
    exported.save(tmp_path / "module.pt")
    cases = [
        graph_of(structures, dtype)
        for structures in (
            [acetaldehyde(3)],
            [small_crystal()],
            [Atoms("O")],
            [small_crystal(2), acetaldehyde(4), acetaldehyde(5)],
        )
    ]
    torch.save(cases, tmp_path / "cases.pt")
    arguments = [tmp_path / name for name in ("module.pt", "cases.pt", "results.pt")]
    subprocess.run([sys.executable, "-c", LOAD, *arguments], check=True, timeout=600)
    results = torch.load(tmp_path / "results.pt")
    tolerance = SAME if dtype == torch.float64 else 1e-5
    for k, graph in enumerate(cases):
        expected = force_delta(*graph, stress=True)
        for result in results[3 * k : 3 * k + 3]:  # the executor optimises after the first calls
            assert result.keys() == expected.keys()
            for key, value in expected.items():
                assert np.allclose(
                    result[key], value, rtol=tolerance, atol=tolerance, equal_nan=True
                ), key


@ignore_script_warning
def test_exported_module_differentiates_u() -> None:
    force_delta = ForceDelta(small_network())
    exported = torch.jit.script(force_delta)
    gradients = []
    for module in (force_delta, exported):
        positions, *rest = graph_of([acetaldehyde()])
        positions.requires_grad_(True)
        u = module(positions, *rest, create_graph=True)["force_delta"]
        gradients.append(torch.autograd.grad(u.sum(), [positions])[0])
    assert close(gradients[0], gradients[1], SAME)


@ignore_script_warning
def test_exported_module_says_what_is_wrong() -> None:
    exported = torch.jit.script(ForceDelta(Constant(None)))
    with pytest.raises(torch.jit.Error, match="has no autograd graph"):
        exported(*graph_of([acetaldehyde()]))


def test_epsilon_by_hand() -> None:
    """Equation 2; without a batch all atoms are one structure."""
    forces = torch.tensor([[1.0, 2, 2], [0, 0, 0], [0, 3, 0]], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 4]], dtype=torch.float64)
    batch = torch.tensor([0, 0, 1])
    assert close(epsilon(forces, reference, batch), [math.sqrt(9 / 6), 5 / math.sqrt(3)], SAME)
    assert close(epsilon(forces, reference), [math.sqrt(34 / 9)], SAME)


@pytest.mark.parametrize(
    ("reference", "batch", "message"),
    [
        (torch.zeros(2, 3), None, r"not \[3, 3\] and \[2, 3\]"),
        (torch.zeros(3, 3), torch.zeros(2, dtype=torch.long), r"batch must have shape \[3\]"),
    ],
)
def test_epsilon_of_shapes_that_do_not_fit(
    reference: Tensor, batch: Tensor | None, message: str
) -> None:
    with pytest.raises(ForceDeltaError, match=message):
        epsilon(torch.zeros(3, 3), reference, batch)


def test_cutoff_is_smooth() -> None:
    """Energy and force of a pair vanish at the cutoff, so that U has no jumps there."""
    force_delta = ForceDelta(small_network())
    at = [
        force_delta(*graph_of([Atoms("CO", [[0, 0, 0], [CUTOFF + offset, 0, 0]])]))
        for offset in (-1e-4, 1e-4)
    ]
    assert abs(at[0]["energy"] - at[1]["energy"]) < 1e-9
    assert close(at[0]["conservative_forces"], at[1]["conservative_forces"], 1e-6)
