"""Ensembles: initial velocities, temperatures that they hold, ramps."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms

from forcedelta.ensembles import Ensemble, EnsembleSettings, Ramp, prepare
from forcedelta.errors import ForceDeltaError


class Springs(Calculator):
    """Each atom on a spring of its own, with a stress that resists volume changes."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.rest = atoms.get_scaled_positions() if atoms.cell.rank == 3 else atoms.positions.copy()
        self.volume = atoms.cell.volume

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        rest = self.rest @ atoms.cell.array if self.volume else self.rest
        off = atoms.positions - rest
        self.results = {"energy": 0.5 * float((off**2).sum()), "forces": -off}
        if self.volume:
            strain = atoms.cell.volume / self.volume - 1
            self.results["stress"] = np.array([0.5 * strain] * 3 + [0.0] * 3)


def settings(
    name: str, start: float = 300.0, end: float | None = None, **other
) -> EnsembleSettings:
    given = {"timestep": 2.0, "tau": 20.0, "pressure": 0.0, "barostat_tau": 200.0, "seed": 1}
    ramp = Ramp(start, start if end is None else end, 0, 100)
    return EnsembleSettings(name, ramp, **(given | other))


def gas(atoms: int = 60, cell: float | None = None) -> Atoms:
    places = np.random.default_rng(0).uniform(0, 10, (atoms, 3))
    system = Atoms(f"Si{atoms}", places)
    if cell is not None:
        system.set_cell([cell] * 3)
        system.pbc = True
    system.calc = Springs(system)
    return system


def test_velocities_have_the_temperature_and_no_net_momentum():
    temperatures = []
    for seed in range(20):
        atoms = gas()
        said = prepare(atoms, settings("langevin", seed=seed))
        assert said == "velocities drawn at 300 K"
        np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-10)
        temperatures.append(atoms.get_temperature())
    assert np.mean(temperatures) == pytest.approx(300, rel=0.05)
    assert np.std(temperatures) == pytest.approx(300 * np.sqrt(2 / 177), rel=0.5)


def test_velocities_follow_the_seed_and_momenta_stay():
    a, b, c = gas(), gas(), gas()
    prepare(a, settings("nve", seed=1))
    prepare(b, settings("nve", seed=1))
    prepare(c, settings("nve", seed=2))
    np.testing.assert_array_equal(a.get_momenta(), b.get_momenta())
    assert np.abs(a.get_momenta() - c.get_momenta()).max() > 0.1
    d = gas()
    d.set_momenta(a.get_momenta())
    assert prepare(d, settings("nve", start=900)).startswith("velocities from the structure")
    np.testing.assert_array_equal(a.get_momenta(), d.get_momenta())


@pytest.mark.parametrize("name", ["langevin", "bussi", "npt"])
def test_thermostats_hold_their_temperature(name):
    atoms = gas(cell=15.0 if name == "npt" else None)
    prepare(atoms, settings(name, start=600))
    ensemble = Ensemble(atoms, settings(name, start=600))
    seen = []
    ensemble.dynamics.attach(lambda: seen.append(atoms.get_temperature()))
    ensemble.dynamics.run(1500)
    assert np.mean(seen[300:]) == pytest.approx(600, rel=0.06)


class Bonds(Calculator):
    """All pairs of atoms on springs, which leave a molecule free to move and to turn."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.lengths = atoms.get_all_distances()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        arms = atoms.positions[:, None] - atoms.positions[None]
        distances = np.linalg.norm(arms, axis=2) + np.eye(len(atoms))
        off = distances - self.lengths - np.eye(len(atoms))
        forces = -4 * (off / distances)[:, :, None] * arms
        self.results = {"energy": float((off**2).sum()), "forces": forces.sum(axis=1)}


def free(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.calc = Bonds(atoms)
    return atoms


@pytest.mark.parametrize(
    ("name", "freedom"), [("CH3CH2OH", 21), ("CO2", 4), ("H2O", 3), ("H2", 1), ("C6H6", 30)]
)
def test_rescaling_does_not_spin_up_a_free_molecule(name, freedom):
    """The vibrations take up all the heat of a ramp, and their temperature is the one asked for."""
    chosen = settings("bussi", 300, 600, timestep=0.5)
    atoms = free(name)
    prepare(atoms, chosen)
    assert atoms.get_number_of_degrees_of_freedom() == freedom
    ensemble = Ensemble(atoms, chosen)

    class Seen:
        step = 0

    seen = []

    def follow():
        Seen.step = ensemble.dynamics.nsteps
        ensemble.observe(Seen, None)
        seen.append(atoms.get_temperature())

    ensemble.dynamics.attach(follow)
    ensemble.dynamics.run(2500)
    moments, axes = atoms.get_moments_of_inertia(vectors=True)
    turning = (axes @ atoms.get_angular_momentum())[-2:] ** 2 / (2 * moments[-2:])
    assert turning.sum() < 1e-9 * units.kB * 600
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-9
    if freedom > 10:
        assert np.mean(seen[500:]) == pytest.approx(600, rel=0.12)


@pytest.mark.parametrize(
    ("name", "box", "periodic", "freedom"),
    [
        ("H2O", 12.0, True, 3),
        ("C6H6", 20.0, (True, False, False), 30),
        ("CO2", 12.0, (True, True, False), 4),
        ("H2O", 6.0, True, 6),  # its images are near
    ],
)
def test_a_molecule_alone_in_a_box_is_free(name, box, periodic, freedom):
    atoms = free(name)
    atoms.set_cell([box] * 3)
    atoms.pbc = periodic
    prepare(atoms, settings("bussi"))
    assert atoms.get_number_of_degrees_of_freedom() == freedom


def test_atoms_in_a_box_that_are_not_one_molecule_keep_their_rotation():
    apart = free("H2O")
    apart.set_cell([20.0] * 3)
    apart.pbc = True
    apart.positions[2] += 5
    split = free("H2O")
    split.set_cell([12.0] * 3)
    split.pbc = True
    split.positions[1, 1] += 12  # the same molecule, written across the boundary
    for atoms in (apart, split):
        prepare(atoms, settings("bussi"))
        assert atoms.get_number_of_degrees_of_freedom() == 6


def bent(angle: float) -> Atoms:
    """CO2 with this angle, degrees."""
    atoms = free("CO2")
    half = np.radians(angle / 2)
    arm = 1.18 * np.array([np.sin(half), np.cos(half), 0])
    atoms.positions = [[0, 0, 0], arm, arm * [-1, 1, 1]]
    return atoms


@pytest.mark.parametrize(("angle", "freedom"), [(180, 4), (160, 4), (134, 3)])
def test_which_molecules_are_linear(angle, freedom):
    """CO2 is, also while it bends at 300 K; a molecule with the angle of NO2 is not."""
    atoms = bent(angle)
    prepare(atoms, settings("bussi"))
    assert atoms.get_number_of_degrees_of_freedom() == freedom


def test_a_continued_run_holds_what_it_held_at_its_beginning():
    began, now = bent(180), bent(130)
    prepare(now, settings("bussi"), began)
    assert now.get_number_of_degrees_of_freedom() == 4


def test_rescaling_of_a_molecule_that_its_constraints_leave_free_to_turn():
    atoms = free("CH3CH2OH")
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ForceDeltaError, match="free to rotate"):
        prepare(atoms, settings("bussi"))
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    prepare(atoms, settings("bussi"))
    assert atoms.get_number_of_degrees_of_freedom() == 18


def test_momenta_of_a_structure_lose_their_drift_at_once():
    """The first frame is one of the run: its temperature and energy are not those of a drift."""
    atoms = free("CH3CH2OH")
    rng = np.random.default_rng(5)
    atoms.set_momenta(0.1 * rng.normal(size=(9, 3)) + 0.3)
    said = prepare(atoms, settings("nve", timestep=0.2))
    assert "without net momentum" in said
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-9)
    before = atoms.get_total_energy()
    Ensemble(atoms, settings("nve", timestep=0.2)).dynamics.run(50)
    assert atoms.get_total_energy() == pytest.approx(before, abs=2e-3)


def test_nve_conserves_the_energy():
    atoms = gas()
    prepare(atoms, settings("nve"))
    ensemble = Ensemble(atoms, settings("nve"))
    before = atoms.get_total_energy()
    ensemble.dynamics.run(300)
    assert atoms.get_total_energy() == pytest.approx(before, rel=1e-3)


def test_pressure_has_the_sign_of_a_pressure():
    volumes = []
    for pressure in (0.0, 5.0):
        chosen = settings("npt", start=10, pressure=pressure)
        atoms = gas(cell=15.0)
        prepare(atoms, chosen)
        Ensemble(atoms, chosen).dynamics.run(1500)
        volumes.append(atoms.cell.volume)
    # a bulk modulus of 0.5 eV/Å^3
    assert volumes[1] / volumes[0] == pytest.approx(1 - 5 * units.GPa / 0.5, abs=0.02)


def test_the_ramp():
    ramp = Ramp(300, 900, 100, 400)
    steps = (0, 100, 101, 250, 400, 10_000)
    assert [ramp.temperature(step) for step in steps] == [300, 300, 302, 600, 900, 900]
    assert Ramp(300, 900, 5, 5).temperature(6) == 900


@pytest.mark.parametrize("name", ["langevin", "bussi", "npt"])
def test_a_frame_sets_the_temperature_of_the_step_after_it(name):
    atoms = gas(cell=15.0 if name == "npt" else None)
    prepare(atoms, settings(name, 300, 900))
    ensemble = Ensemble(atoms, settings(name, 300, 900))

    class Seen:
        step = 49

    ensemble.observe(Seen, None)
    dynamics = ensemble.dynamics
    target = dynamics.temperature_K if name == "npt" else dynamics.temp / units.kB
    assert target == pytest.approx(600)
    if name == "bussi":
        assert dynamics.target_kinetic_energy == pytest.approx(0.5 * 174 * 600 * units.kB)


@pytest.mark.parametrize(
    ("name", "system", "said"),
    [
        ("npt", molecule("H2O"), "periodic in all three directions"),
        ("bussi", Atoms("Ar"), None),
        ("nve", Atoms("Ar"), None),
    ],
)
def test_unusual_systems(name, system, said):
    atoms = system.copy()
    atoms.calc = Springs(atoms)
    prepare(atoms, settings(name))
    if said is None:
        Ensemble(atoms, settings(name)).dynamics.run(2)
        assert np.isfinite(atoms.positions).all()
        return
    with pytest.raises(ForceDeltaError, match=said):
        Ensemble(atoms, settings(name))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("nvt", {}, "unknown ensemble 'nvt'"),
        ("nve", {"end": 900.0}, "no thermostat"),
        ("bussi", {"start": 0.0}, "0 K"),
        ("langevin", {"start": -1.0}, "0 or more"),
        ("langevin", {"tau": 0.0}, "above 0"),
        ("npt", {"pressure": np.inf}, "finite"),
        ("nve", {"seed": -1}, "whole number"),
    ],
)
def test_settings_that_make_no_sense(name, change, said):
    with pytest.raises(ForceDeltaError, match=said):
        settings(name, **change)
