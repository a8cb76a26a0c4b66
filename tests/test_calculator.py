"""The ASE calculator: results, evaluations counted, stress, and input that is bad or becomes bad."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.calculators.calculator as ase_calculator
import ase.io
import ase.outputs
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.io.trajectory import Trajectory
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.melchionna import MelchionnaNPT
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from systems import (
    DIRECT_KEYS,
    KEYS,
    Counting,
    acetaldehyde,
    calculator,
    calm_network,
    graph_of,
    slab,
    small_crystal,
    with_calculator,
)

from forcedelta import ForceDelta, ForceDeltaError, load_model
from forcedelta.ase import ForceDeltaCalculator, PropertyUnavailableError

pytestmark = pytest.mark.usefixtures("silent")

TIMESTEP = 0.5 * units.fs


@pytest.mark.parametrize("make", [acetaldehyde, small_crystal])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_results_are_those_of_the_force_module(
    make: Callable[[], Atoms], forces: str, dtype: str, tolerance: float
) -> None:
    atoms = with_calculator(make(), forces=forces, dtype=dtype)
    periodic = bool(atoms.pbc.all())
    energy, driving = atoms.get_potential_energy(), atoms.get_forces()
    results = atoms.calc.results
    expected = ForceDelta(calm_network(torch.float64))(*graph_of([atoms]), stress=True)
    assert set(results) == KEYS | ({"stress"} if periodic else set())
    assert energy == results["energy"] == results["free_energy"]
    assert isinstance(results["force_delta"], float)
    assert np.array_equal(driving, results[f"{forces}_forces"])
    for key in ("energy", "direct_forces", "conservative_forces", "force_deltas", "force_delta"):
        assert np.allclose(results[key], expected[key], atol=tolerance, rtol=0), key
        if key not in ("energy", "force_delta"):
            assert results[key].dtype == np.float64
    if periodic:
        assert np.allclose(
            atoms.get_stress(voigt=False), expected["stress"][0], atol=tolerance, rtol=0
        )
    assert atoms.calc.evaluations == 1


def test_asking_again_evaluates_nothing() -> None:
    atoms = with_calculator(small_crystal())
    for _ in range(2):
        atoms.get_forces()
        atoms.get_potential_energy(force_consistent=True)
        atoms.get_stress()
        atoms.calc.get_property("force_deltas", atoms)
        atoms.calc.get_property("force_delta")
        atoms.get_initial_charges()
    assert atoms.calc.evaluations == 1
    atoms.positions[0, 0] += 1e-12
    atoms.get_forces()
    assert atoms.calc.evaluations == 2


@pytest.mark.parametrize("change", ["positions", "cell", "pbc", "numbers"])
def test_any_change_evaluates_again(change: str) -> None:
    atoms = with_calculator(small_crystal())
    before = atoms.get_potential_energy()
    match change:
        case "positions":
            atoms.positions[0, 2] += 0.01
        case "cell":
            atoms.cell[2, 2] += 0.01
        case "pbc":
            atoms.pbc[2] = False
        case "numbers":
            atoms.numbers[0] = 6
    assert atoms.get_potential_energy() != before
    assert atoms.calc.evaluations == 2


def test_handed_out_arrays_are_copies() -> None:
    atoms = with_calculator(acetaldehyde())
    atoms.get_forces()[:] = 0
    atoms.calc.results["forces"][:] = 0
    assert atoms.calc.results["direct_forces"].any()
    assert np.array_equal(atoms.calc.atoms.positions, atoms.positions)
    atoms.positions += 1
    assert not np.array_equal(atoms.calc.atoms.positions, atoms.positions)


def test_lists_of_ase_stay_as_they_are() -> None:
    before = list(ase_calculator.all_properties), set(ase.outputs.all_outputs)
    atoms = with_calculator(acetaldehyde())
    atoms.get_forces()
    assert "force_delta" in atoms.calc.implemented_properties
    assert (list(ase_calculator.all_properties), set(ase.outputs.all_outputs)) == before
    assert "force_delta" not in ase_calculator.all_properties
    assert "force_delta" not in ase_calculator.Calculator.implemented_properties


def test_calculate_can_be_called_directly() -> None:
    calc = calculator()
    calc.calculate(acetaldehyde())
    assert set(calc.results) == KEYS
    assert np.array_equal(calc.get_property("forces"), calc.results["forces"])
    assert calc.evaluations == 1
    with pytest.raises(ForceDeltaError, match="pass atoms"):
        calculator().calculate()


# --- dynamics -----------------------------------------------------------------------------------


def dynamics(name: str, atoms: Atoms) -> MolecularDynamics:
    rng = np.random.default_rng(0)
    nvt: dict[str, Any] = {"timestep": TIMESTEP, "temperature_K": 300}
    damp = {"tdamp": 50 * units.fs, "pdamp": 500 * units.fs, "pressure_au": 0.0}
    match name:
        case "nve":
            return VelocityVerlet(atoms, TIMESTEP)
        case "langevin":
            return Langevin(atoms, **nvt, friction=0.01 / units.fs, fixcm=False, rng=rng)
        case "bussi":
            return Bussi(atoms, **nvt, taut=100 * units.fs, rng=rng)
        case "nose-hoover":
            return NoseHooverChainNVT(atoms, **nvt, tdamp=50 * units.fs)
        case "npt, isotropic":
            return IsotropicMTKNPT(atoms, **nvt, **damp)
        case "npt, flexible":
            return MTKNPT(atoms, **nvt, **damp)
        case "npt, Melchionna":
            atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
            return MelchionnaNPT(atoms, **nvt, externalstress=0.0, ttime=25 * units.fs, pfactor=1.0)
        case "npt, Langevin":
            return LangevinBAOAB(
                atoms,
                **nvt,
                T_tau=100 * units.fs,
                externalstress=0.0,
                P_tau=1000 * units.fs,
                P_mass=3e4,
                hydrostatic=True,
                rng=rng,
            )
    raise AssertionError(name)


NVT = ["nve", "langevin", "bussi", "nose-hoover"]
NPT = ["npt, isotropic", "npt, flexible", "npt, Melchionna", "npt, Langevin"]


@pytest.mark.parametrize(
    ("name", "make"),
    [*((name, acetaldehyde) for name in NVT), *((name, small_crystal) for name in NVT + NPT)],
)
def test_one_evaluation_per_step(
    name: str, make: Callable[[], Atoms], capfd: pytest.CaptureFixture[str]
) -> None:
    """With an observer that reads all there is to read; counted in the model itself."""
    model = Counting(calm_network())
    atoms = make()
    atoms.calc = ForceDeltaCalculator(ForceDelta(model))
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(1))
    run = dynamics(name, atoms)
    capfd.readouterr()  # one of them says that it sets the momentum to zero
    seen = []

    def observe() -> None:
        assert np.array_equal(atoms.calc.atoms.positions, atoms.positions)
        atoms.get_temperature()
        atoms.get_forces()
        seen.append((atoms.get_potential_energy(), atoms.calc.results["force_delta"]))
        if atoms.pbc.all():
            atoms.get_stress(include_ideal_gas=True)

    run.attach(observe, 1)
    volume = atoms.cell.volume
    run.run(12)
    assert (model.forwards, model.backwards) == (13, 13)
    assert atoms.calc.evaluations == 13
    assert len(set(seen)) == 13
    assert np.isfinite(seen).all()
    assert (atoms.cell.volume != volume) == (name in NPT)


def test_conservative_forces_conserve_the_energy() -> None:
    """The direct ones of a random network do not, so that this tells which drive the run."""
    drift = {}
    for forces in ("direct", "conservative"):
        atoms = with_calculator(acetaldehyde(), forces=forces, dtype="float64")
        atoms.set_momenta(np.random.default_rng(0).normal(size=(7, 3)) * 0.3)
        run = VelocityVerlet(atoms, 0.2 * units.fs)
        start = atoms.get_total_energy()
        run.run(100)
        drift[forces] = abs(atoms.get_total_energy() - start)
    assert drift["conservative"] < 1e-4
    assert drift["direct"] > 10 * drift["conservative"]


def test_relaxation_of_positions_and_cell() -> None:
    """Energy, conservative forces and stress belong to each other: an optimiser finds a minimum."""
    atoms = with_calculator(small_crystal(), forces="conservative", dtype="float64")
    start = atoms.get_potential_energy()
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimiser:
        optimiser.run(fmax=1e-3, steps=30)
        steps = optimiser.nsteps
    assert atoms.get_potential_energy() < start
    assert atoms.calc.evaluations == steps + 1


# --- every --------------------------------------------------------------------------------------


def test_exact_at_each_kth_step() -> None:
    model = Counting(calm_network())
    atoms = acetaldehyde()
    atoms.calc = ForceDeltaCalculator(ForceDelta(model), every=4)
    every_step = with_calculator(acetaldehyde())
    for structure in (atoms, every_step):
        structure.set_momenta(np.random.default_rng(0).normal(size=(7, 3)) * 0.3)
    exact, energies = [], []
    run, reference = (VelocityVerlet(structure, TIMESTEP) for structure in (atoms, every_step))

    def observe() -> None:
        keys = set(atoms.calc.results)
        assert keys in (KEYS, DIRECT_KEYS)
        if keys == KEYS:
            exact.append(run.nsteps)
        energies.append(atoms.get_potential_energy())

    run.attach(observe, 1)
    run.run(10)
    reference.run(10)
    assert exact == [0, 4, 8]
    assert (model.forwards, model.backwards) == (11, 3)
    assert np.allclose(atoms.positions, every_step.positions, atol=1e-6)


def test_counting_goes_on_after_a_restart() -> None:
    atoms = with_calculator(acetaldehyde(), every=4)
    atoms.calc.count_from(6)
    exact = []
    for step in range(6, 13):
        atoms.rattle(0.01, seed=step)
        atoms.get_forces()
        if "force_delta" in atoms.calc.results:
            exact.append(step)
    assert exact == [8, 12]


def test_what_was_not_computed_is_not_computed_on_demand() -> None:
    atoms = with_calculator(small_crystal(), every=2)
    atoms.get_forces()
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    for name in ("force_delta", "force_deltas", "conservative_forces"):
        with pytest.raises(PropertyUnavailableError, match=rf"{name} was not computed .*every=2"):
            atoms.calc.get_property(name, atoms)
    with pytest.raises(PropertyUnavailableError, match="use every=1 for constant pressure"):
        atoms.get_stress()
    assert atoms.calc.evaluations == 2
    assert set(atoms.calc.results) == DIRECT_KEYS


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "4"])
def test_every_is_a_positive_whole_number(every: Any) -> None:
    with pytest.raises(ForceDeltaError, match="every must be a whole number"):
        calculator(every=every)


def test_every_goes_with_direct_forces_only() -> None:
    with pytest.raises(ForceDeltaError, match="every must be 1 with conservative forces"):
        calculator(every=2, forces="conservative")


# --- stress -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [acetaldehyde, slab])
def test_no_stress_without_a_volume(make: Callable[[], Atoms]) -> None:
    atoms = with_calculator(make())
    with pytest.raises(PropertyNotImplementedError, match="not periodic in three directions"):
        atoms.get_stress()
    assert atoms.calc.evaluations == 0
    assert atoms.get_forces().any()
    assert "stress" not in atoms.calc.results


def test_npt_with_a_model_without_stress() -> None:
    atoms = small_crystal()
    model = replace(load_model(ForceDelta(calm_network())), stress=False, name="flat")
    atoms.calc = ForceDeltaCalculator(model)
    with pytest.raises(
        ForceDeltaError, match="'flat' has no stress: use a constant-volume ensemble"
    ):
        dynamics("npt, isotropic", atoms).run(1)
    assert "stress" not in atoms.calc.results


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [acetaldehyde, small_crystal])
def test_writing_evaluates_nothing(tmp_path: Path, make: Callable[[], Atoms]) -> None:
    atoms = with_calculator(make(), every=2)
    with Trajectory(tmp_path / "a.traj", "w") as trajectory:
        for step in range(4):
            atoms.rattle(0.01, seed=step)
            forces = atoms.get_forces()
            trajectory.write(atoms)
            ase.io.write(tmp_path / "a.xyz", atoms, append=step > 0)
    assert atoms.calc.evaluations == 4
    for name in ("a.traj", "a.xyz"):
        frames = ase.io.read(tmp_path / name, ":")
        assert len(frames) == 4
        assert np.allclose(frames[-1].get_forces(), forces, atol=1e-7)
        assert np.isclose(frames[-1].get_potential_energy(), atoms.get_potential_energy())


def test_model_info() -> None:
    info = calculator(every=3).model_info
    assert info["name"] == "DirectForceNetwork"
    assert len(info["weights_hash"]) == 16
    assert info["library"].startswith("forcedelta")
    assert set(info["versions"]) == {"forcedelta", "torch", "ase"}
    assert (info["forces"], info["every"], info["dtype"], info["device"]) == (
        "direct",
        3,
        "float32",
        "cpu",
    )
