"""Two real ASE calculators as one model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.md.verlet import VelocityVerlet

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel, from_calculators

pytestmark = pytest.mark.usefixtures("silent")

DOUBLE = torch.float64
CPU = torch.device("cpu")
SAME = 1e-12


def copper(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def water(seed: int = 0) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    return atoms


def pair() -> LoadedModel:
    """EMT, and EMT with a weak Lennard-Jones potential beside it."""
    weak = LennardJones(sigma=2.2, epsilon=0.01, rc=5.0, smooth=True)
    return from_calculators(SumCalculator([EMT(), weak]), EMT(), elements=["H", "O", "Cu"])


class Counted(EMT):
    """EMT that computes only what it is asked for, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = tuple(all_changes),
    ) -> None:
        self.asked += list(properties)
        super().calculate(atoms, properties, system_changes)
        self.results = {name: self.results[name] for name in properties}


def evaluate(model: LoadedModel, *structures: Atoms, stress: bool = False) -> dict[str, Any]:
    return ForceDelta(model.module)(*Graphs(model, DOUBLE, CPU).batch(structures), stress=stress)


@pytest.mark.parametrize("make", [copper, water])
def test_u_is_equation_1(make: Callable[[], Atoms]) -> None:
    atoms, model = make(), pair()
    found = evaluate(model, atoms)
    direct, conservative = (
        calculator.get_forces(atoms)
        for calculator in (model.module.direct, model.module.conservative)
    )
    assert np.abs(found["direct_forces"].numpy() - direct).max() < SAME
    assert np.abs(found["conservative_forces"].numpy() - conservative).max() < SAME
    expected = np.sqrt(((direct - conservative) ** 2).sum() / (3 * len(atoms)))
    assert expected > 1e-3
    assert float(found["force_delta"]) == pytest.approx(expected, rel=SAME)
    energy = model.module.conservative.get_potential_energy(atoms)
    assert float(found["energy"]) == pytest.approx(energy, rel=SAME)


def test_the_stress_is_the_calculators() -> None:
    """In a skewed cell, with an atom far outside of it."""
    atoms = copper(3)
    atoms.set_cell(atoms.cell.array @ [[1, 0.02, 0], [0, 1.05, 0.01], [0.03, 0, 0.97]], True)
    atoms.positions[2] += 2 * atoms.cell[1]
    found = evaluate(pair(), atoms, stress=True)["stress"][0].numpy()
    expected = EMT().get_property("stress", atoms)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] - expected).max() < 1e-10


def test_a_batch_is_its_structures() -> None:
    structures = [copper(1), water(), copper(2)]
    model = pair()
    together = evaluate(model, *structures, stress=True)
    for key, value in together.items():
        alone = torch.cat([evaluate(model, atoms, stress=True)[key] for atoms in structures])
        assert torch.allclose(value, alone, rtol=SAME, atol=SAME, equal_nan=True), key


def test_conservative_forces_cost_nothing_where_nobody_asks() -> None:
    conservative = Counted()
    model = from_calculators(EMT(), conservative)
    graph = Graphs(model, DOUBLE, CPU).batch([copper()])
    with torch.no_grad():
        model.module(*graph)
    assert conservative.asked == ["energy"]
    ForceDelta(model.module)(*graph)
    assert conservative.asked == ["energy", "forces"]  # the energy was known


def test_it_runs_and_says_what_it_is() -> None:
    model = pair()
    atoms = copper()
    atoms.calc = ForceDeltaCalculator(model, dtype="float64")
    VelocityVerlet(atoms, 2 * units.fs).run(5)
    assert atoms.calc.evaluations == 6
    assert model.name == "SumCalculator / EMT (two ASE calculators, slow)"
    assert atoms.calc.model_info["name"] == model.name
    assert model.library.endswith("(two calculators)")
    assert "slow" in model.metadata["kind"]
    other = from_calculators(EMT(), LennardJones(epsilon=0.02))
    assert other.weights_hash == from_calculators(EMT(), LennardJones(epsilon=0.02)).weights_hash
    assert other.weights_hash != from_calculators(EMT(), LennardJones(epsilon=0.03)).weights_hash
    assert from_calculators(EMT(), LennardJones(), name="mine").name.startswith("mine (two ASE")
    with pytest.raises(ForceDeltaError, match="cannot be exported"):
        model.script()


def test_second_derivatives_are_refused() -> None:
    model = pair()
    graph = Graphs(model, DOUBLE, CPU).batch([copper()])
    with pytest.raises(ForceDeltaError, match="does not support second derivatives"):
        ForceDelta(model.module)(*graph, create_graph=True)


class Charged(Calculator):
    """Springs whose strength depends on the charge and the spin in ``atoms.info``."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Any, properties: Any, system_changes: Any) -> None:
        super().calculate(atoms, properties, system_changes)
        strength = 1.0 + atoms.info["charge"] + 0.1 * atoms.info["spin"]
        centred = atoms.positions - atoms.positions.mean(axis=0)
        self.results = {
            "energy": 0.5 * strength * (centred**2).sum(),
            "forces": -strength * centred,
        }


def test_charge_and_spin_reach_the_calculators() -> None:
    model = from_calculators(EMT(), Charged(), charge_spin=True)
    atoms = water()
    calculator = ForceDeltaCalculator(model, dtype="float64")
    with pytest.raises(ForceDeltaError, match="total charge and the spin multiplicity"):
        calculator.get_potential_energy(atoms)
    energies = []
    for charge, spin in ((0, 1), (1, 2)):
        atoms.info |= {"charge": charge, "spin": spin}
        energies.append(float(evaluate(model, atoms)["energy"]))
    both = [atoms.copy(), atoms.copy()]
    both[0].info["charge"], both[0].info["spin"] = 0, 1
    batch = evaluate(model, *both)
    assert batch["energy"].tolist() == pytest.approx(energies, rel=1e-12)
    assert torch.allclose(2 * batch["conservative_forces"][:3], batch["conservative_forces"][3:])
    assert energies[1] / energies[0] == pytest.approx(2.2 / 1.1, rel=1e-9)


class Broken(EMT):
    def calculate(self, *_: Any, **__: Any) -> None:
        raise ValueError("no licence for this machine\nsecond line")


class Short(EMT):
    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.results["forces"] = self.results["forces"][:-1]


class EnergyOnly(Calculator):
    implemented_properties = ("energy",)


def test_errors_name_the_calculator() -> None:
    calculator = EMT()
    with pytest.raises(ForceDeltaError, match="are the same object"):
        from_calculators(calculator, calculator)
    with pytest.raises(ForceDeltaError, match=r"direct calculator, EnergyOnly, does not .* forces"):
        from_calculators(EnergyOnly(), EMT())
    with pytest.raises(ForceDeltaError, match="conservative calculator, EnergyOnly"):
        from_calculators(EMT(), EnergyOnly())
    with pytest.raises(ForceDeltaError, match="no element 'Xy'"):
        from_calculators(EMT(), LennardJones(), elements=["Cu", "Xy"])
    with pytest.raises(
        ForceDeltaError,
        match=r"direct calculator, Broken, failed to compute forces for Cu4 .*no licence",
    ) as caught:
        evaluate(from_calculators(Broken(), EMT()), copper())
    assert "second line" not in str(caught.value)
    with pytest.raises(
        ForceDeltaError, match="conservative calculator, Broken, failed to compute energy"
    ):
        evaluate(from_calculators(EMT(), Broken()), copper())
    with pytest.raises(ForceDeltaError, match=r"shape \[3, 3\] for 4 atoms"):
        evaluate(from_calculators(Short(), EMT()), copper())
    with pytest.raises(ForceDeltaError, match=r"conservative .*shape \[3, 3\] for 4 atoms"):
        evaluate(from_calculators(EMT(), Short()), copper())
    with pytest.raises(ForceDeltaError, match="EMT, failed to compute forces for Xe"):
        evaluate(from_calculators(EMT(), LennardJones()), Atoms("Xe"))
