"""dU/dr and dU/d(strain): against differences of U, for models with and without second derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from systems import Counting, Springs, acetaldehyde, small_crystal, small_network

from forcedelta import ForceDeltaError
from forcedelta.force_delta_gradient import GradientEvaluator, Method, slope_error
from forcedelta.models import LoadedModel, from_calculators

pytestmark = pytest.mark.usefixtures("silent")

DOUBLE = torch.float64
METHODS: tuple[Method, ...] = ("second derivatives", "differences")


def loaded(module: torch.nn.Module) -> LoadedModel:
    return LoadedModel(module.eval(), "network", "", None, module.cutoff, None, "", stress=True)


def evaluator(method: Method | None = None, dtype: torch.dtype = DOUBLE) -> GradientEvaluator:
    return GradientEvaluator(loaded(small_network(dtype)), dtype, method=method)


def slope(evaluate: GradientEvaluator, atoms: Atoms, way: np.ndarray, step: float = 1e-4) -> float:
    sides = []
    for sign in (1.0, -1.0):
        moved = atoms.copy()
        moved.positions += sign * step * way
        sides.append(evaluate.batch([moved])[0].force_delta)
    return (sides[0] - sides[1]) / (2.0 * step)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("atoms", [acetaldehyde(), small_crystal()], ids=["molecule", "crystal"])
def test_gradient_along_every_coordinate(method: Method, atoms: Atoms) -> None:
    evaluate = evaluator(method)
    [found] = evaluate.gradient_batch([atoms])
    measured = np.zeros((len(atoms), 3))
    for place in np.ndindex(measured.shape):
        way = np.zeros_like(measured)
        way[place] = 1.0
        measured[place] = slope(evaluate, atoms, way)
    scale = np.abs(measured).max()
    assert scale > 1e-3
    np.testing.assert_allclose(found.gradient, measured, atol=2e-5 * scale)
    assert slope_error(evaluate, atoms, found) < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_gradient_by_strain(method: Method) -> None:
    atoms, evaluate, step = small_crystal(), evaluator(method), 1e-5
    [found] = evaluate.gradient_batch([atoms], strain=True)
    assert found.strain is not None
    np.testing.assert_allclose(found.strain, found.strain.T)
    measured = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        sides = []
        for sign in (1.0, -1.0):
            eps = np.zeros((3, 3))
            eps[a, b] += 0.5 * sign * step
            eps[b, a] += 0.5 * sign * step
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + eps))
            moved.positions = atoms.positions @ (np.eye(3) + eps)
            sides.append(evaluate.batch([moved])[0].force_delta)
        measured[a, b] = (sides[0] - sides[1]) / (2.0 * step)
    np.testing.assert_allclose(found.strain, measured, atol=1e-4 * np.abs(measured).max())


@pytest.mark.parametrize("strain", [False, True])
def test_both_methods_agree_for_a_batch_of_different_systems(strain: bool) -> None:
    structures = [small_crystal(), small_crystal(seed=1), bulk("Si", cubic=True)]
    structures[2].rattle(0.1, seed=2)
    if not strain:
        structures.append(acetaldehyde())
    one, other = (evaluator(method).gradient_batch(structures, strain) for method in METHODS)
    for a, b in zip(one, other, strict=True):
        scale = np.abs(a.gradient).max()
        np.testing.assert_allclose(a.gradient, b.gradient, atol=1e-5 * scale)
        assert a.evaluation.force_delta == pytest.approx(b.evaluation.force_delta, rel=1e-12)
        assert a.evaluation.energy == pytest.approx(b.evaluation.energy, rel=1e-12)
        np.testing.assert_allclose(a.evaluation.direct_forces, b.evaluation.direct_forces)
        if strain:
            assert a.strain is not None
            assert b.strain is not None
            np.testing.assert_allclose(a.strain, b.strain, atol=1e-5 * np.abs(a.strain).max())
            np.testing.assert_allclose(a.evaluation.stress, b.evaluation.stress, atol=1e-12)


def test_evaluation_is_that_of_an_evaluator() -> None:
    atoms = small_crystal()
    evaluate = evaluator()
    [found] = evaluate.gradient_batch([atoms], strain=True)
    [exact] = evaluate.batch([atoms])
    np.testing.assert_allclose(found.evaluation.conservative_forces, exact.conservative_forces)
    np.testing.assert_allclose(found.evaluation.force_deltas, exact.force_deltas)
    np.testing.assert_allclose(found.evaluation.stress, exact.stress)


def test_batch_equals_single() -> None:
    structures = [acetaldehyde(), acetaldehyde(seed=1), small_crystal()]
    evaluate = evaluator()
    together = evaluate.gradient_batch(structures)
    for atoms, found in zip(structures, together, strict=True):
        [alone] = evaluate.gradient_batch([atoms])
        np.testing.assert_allclose(found.gradient, alone.gradient, rtol=1e-9, atol=1e-12)


def test_number_of_forward_passes() -> None:
    for method, expected in (("second derivatives", 1), ("differences", 3)):
        counting = Counting(small_network())
        evaluate = GradientEvaluator(loaded(counting), DOUBLE, method=method)  # type: ignore[arg-type]
        evaluate.gradient_batch([acetaldehyde(), small_crystal()])
        assert counting.forwards == evaluate.passes == expected


def test_rigid_motion_changes_nothing() -> None:
    atoms = acetaldehyde()
    [found] = evaluator().gradient_batch([atoms])
    np.testing.assert_allclose(found.gradient.sum(0), 0.0, atol=1e-10)
    torque = np.cross(atoms.positions, found.gradient).sum(0)
    np.testing.assert_allclose(torque, 0.0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_where_both_forces_are_the_same(method: Method) -> None:
    model = loaded(Springs(share=1.0))
    evaluate = GradientEvaluator(model, DOUBLE, method=method)
    [found] = evaluate.gradient_batch([acetaldehyde()])
    assert found.evaluation.force_delta == 0.0
    np.testing.assert_array_equal(found.gradient, 0.0)
    assert slope_error(evaluate, acetaldehyde(), found) == 0.0


@pytest.mark.parametrize("strain", [False, True])
def test_two_ase_calculators_have_a_gradient(strain: bool) -> None:
    """Whose direct forces have no derivative: that of curl-free and of rotating forces."""
    model = from_calculators(Swirling(), EMT(), elements=["Cu"])
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    evaluate = GradientEvaluator(model, DOUBLE)
    assert evaluate.method == "differences"
    [found] = evaluate.gradient_batch([atoms], strain)
    assert slope_error(evaluate, atoms, found) < 1e-3
    way = np.random.default_rng(0).normal(size=(4, 3))
    assert float((found.gradient * way).sum()) == pytest.approx(
        slope(evaluate, atoms, way), rel=1e-3
    )
    with pytest.raises(ForceDeltaError, match="does not support second derivatives"):
        GradientEvaluator(model, DOUBLE, method="second derivatives")


class Swirling(LennardJones):
    """Forces that no energy has: their Jacobian is not symmetric."""

    def calculate(self, *arguments: object, **named: object) -> None:
        """Turn the forces with the height of the atoms."""
        super().calculate(*arguments, **named)
        z = self.atoms.positions[:, 2]
        x, y = self.results["forces"][:, 0].copy(), self.results["forces"][:, 1].copy()
        self.results["forces"][:, 0] = np.cos(z) * x - np.sin(z) * y
        self.results["forces"][:, 1] = np.sin(z) * x + np.cos(z) * y


def test_float32_is_close_to_float64() -> None:
    atoms = acetaldehyde()
    [exact] = evaluator().gradient_batch([atoms])
    for method in METHODS:
        [found] = evaluator(method, torch.float32).gradient_batch([atoms])
        scale = np.abs(exact.gradient).max()
        np.testing.assert_allclose(found.gradient, exact.gradient, atol=1e-2 * scale)
