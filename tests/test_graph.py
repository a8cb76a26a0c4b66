"""Graphs for one structure and for many; models that take a charge, or expect errors."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from systems import CUTOFF, Counting, Springs, acetaldehyde, small_crystal, small_network
from torch import Tensor, nn

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.graph import Graphs, charge_and_spin
from forcedelta.models import LoadedModel

pytestmark = pytest.mark.usefixtures("silent")


class Charged(Springs):
    """Springs whose constant grows with the charge, and which expects errors of 0.1 |r|."""

    takes_charge_spin = True
    gives_expected_errors = True

    def forward(self, *graph: Tensor) -> Any:
        positions, batch, charge_spin = graph[0], graph[5], graph[6]
        energy, direct = super().forward(*graph[:6])
        scale = 1 + charge_spin[:, 0]
        return energy * scale, direct * scale[batch, None], 0.1 * positions.norm(dim=1)


def loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel(module, "toy", "0" * 16, None, CUTOFF, None, "tests")


def ion(charge: Any = 1, spin: Any = 1) -> Atoms:
    atoms = molecule("OH")
    atoms.info.update(charge=charge, spin=spin)
    return atoms


def test_a_batch_holds_the_graphs_of_its_structures() -> None:
    model = loaded(small_network())
    structures = [acetaldehyde(), small_crystal(), acetaldehyde(3)]
    graphs = Graphs(model, torch.float64, torch.device("cpu"))
    together = ForceDelta(model.module)(*graphs.batch(structures))
    for number, atoms in enumerate(structures):
        single = graphs.at(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)
        alone = ForceDelta(model.module)(*single)
        mine = graphs.batch(structures)[5] == number
        for key in ("direct_forces", "conservative_forces", "force_deltas"):
            torch.testing.assert_close(together[key][mine], alone[key], rtol=0, atol=1e-12)
        torch.testing.assert_close(together["energy"][number], alone["energy"][0])


def test_rows_of_directions_that_are_not_periodic_are_zero() -> None:
    atoms = small_crystal()
    atoms.pbc = [True, False, True]
    graphs = Graphs(loaded(small_network()), torch.float64, torch.device("cpu"))
    single = graphs.at(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)
    for graph in (single, graphs.batch([atoms])):
        assert graph[2][0, 1].tolist() == [0.0, 0.0, 0.0]
        assert (graph[4][:, 1] == 0).all()


def test_charge_and_spin_reach_the_model() -> None:
    atoms = ion()
    atoms.calc = ForceDeltaCalculator(loaded(Charged()))
    charged = atoms.get_potential_energy()
    assert atoms.calc.results["expected_errors"].shape == (2,)
    atoms.info.update(charge=0, spin=2)
    assert charged == pytest.approx(2 * atoms.get_potential_energy())
    pytest.importorskip("openmm", reason="needs OpenMM")
    from forcedelta.openmm.force import make_evaluator

    evaluator = make_evaluator(
        loaded(Charged()), atoms.numbers, False, "direct", "float32", "cpu", 1, 1
    )
    in_openmm = evaluator.evaluate(atoms.positions / 10, None, True)
    assert in_openmm.energy == pytest.approx(charged)
    np.testing.assert_allclose(in_openmm.expected_errors, atoms.calc.results["expected_errors"])


def test_steps_without_gradient_expect_errors_too() -> None:
    atoms = ion()
    atoms.calc = ForceDeltaCalculator(loaded(Charged()), every=2)
    atoms.get_forces()
    atoms.positions += 0.1
    atoms.get_forces()
    assert "force_delta" not in atoms.calc.results
    assert "expected_errors" in atoms.calc.results


@pytest.mark.parametrize(
    ("charge", "spin", "message"),
    [
        (0.5, 1, "whole number of e, not 0.5"),
        ("many", 1, "whole number of e, not 'many'"),
        (np.nan, 1, "whole number of e"),
        (1, 0, "whole number of 1 or more"),
        (0, 1, "are incompatible: with 9 electrons the multiplicity must be even"),
        (1, 2, "with 8 electrons the multiplicity must be odd"),
        (10, 1, "are incompatible"),
    ],
)
def test_charges_and_spins_that_cannot_be(charge: Any, spin: Any, message: str) -> None:
    with pytest.raises(ForceDeltaError, match=message):
        charge_and_spin(ion(charge, spin), loaded(Charged()))


def test_a_missing_charge_is_asked_for() -> None:
    atoms = molecule("OH")
    atoms.calc = ForceDeltaCalculator(loaded(Charged()))
    with pytest.raises(ForceDeltaError, match="pass --charge and --spin"):
        atoms.get_forces()
    graph = Graphs(loaded(Springs()), torch.float32, torch.device("cpu")).batch([atoms])
    with pytest.raises(ForceDeltaError, match=r"pass charge_spin of shape \[1, 2\], not None"):
        ForceDelta(Charged())(*graph)
    assert charge_and_spin(atoms, loaded(Springs())) is None


def test_first_derivatives_only() -> None:
    module = Counting(small_network())
    module.first_order_only = True
    graph = Graphs(loaded(module), torch.float64, torch.device("cpu")).batch([acetaldehyde()])
    with pytest.raises(ForceDeltaError, match="does not support second derivatives"):
        ForceDelta(module)(*graph, create_graph=True)
    assert module.forwards == 0
    ForceDelta(module)(*graph)
