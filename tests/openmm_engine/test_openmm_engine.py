"""Ensembles by name: OpenMM as the engine of the command."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLengths
from simulations import Frames, cluster, crystal, loaded, state_of

from forcedelta import ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.ensembles import EnsembleSettings, Ramp, prepare
from forcedelta.openmm.engine import OpenMMEngine, to_openmm_cell
from md_hooks import HookChain, Recorder, RunInfo, Trajectory, load_checkpoint
from md_hooks.atoms import bare_atoms


def settings(name: str = "langevin", ramp: Ramp | None = None, **changes) -> EnsembleSettings:
    values = {
        "name": name, "ramp": ramp or Ramp(300, 300, 0, 0), "timestep": 1.0, "tau": 100.0,
        "pressure": 0.0, "barostat_tau": 1000.0, "seed": 7, **changes,
    }  # fmt: skip
    return EnsembleSettings(**values)


def engine(atoms: Atoms, chosen: EnsembleSettings) -> OpenMMEngine:
    prepare(atoms, chosen)
    return OpenMMEngine(atoms, chosen, loaded(), dtype="float64")


@pytest.mark.parametrize("name", ["nve", "langevin", "npt"])
def test_a_run_and_its_continuation(name, tmp_path):
    ramp = None if name == "nve" else Ramp(300, 600, 5, 40)
    chosen = settings(name, ramp)
    whole = engine(crystal(), chosen)
    expected = Frames()
    result = whole.run(40, HookChain([whole, expected]), RunInfo())
    assert (result.reason, result.step) == ("finished", 40)
    end = state_of(whole.simulation)
    del whole
    path = tmp_path / "run.h5"
    first = engine(crystal(), chosen)
    first.run(25, HookChain([first, Recorder(path)]), RunInfo())
    del first
    second = engine(crystal(), chosen)
    chain = HookChain([second, Recorder(path, mode="append")])
    second.run(15, chain, RunInfo(), load_checkpoint(path))
    for one, other in zip(state_of(second.simulation), end, strict=True):
        np.testing.assert_array_equal(one, other)
    assert Trajectory(path).series["step"].tolist() == list(range(41))


def test_the_thermostat_follows_the_ramp(frames):
    ramp = Ramp(10, 1500, 100, 1000)
    made = engine(cluster(), settings(ramp=ramp, tau=20.0))
    made.run(2000, HookChain([made, frames]), RunInfo())
    assert made.simulation.integrator.getTemperature()._value == 1500
    late = np.mean([frame.temperature for frame in frames[1200:]])
    assert 1100 < late < 1900


def test_the_first_frame_has_the_velocities_of_the_structure(frames):
    atoms = cluster()
    made = engine(atoms, settings())
    made.run(0, HookChain([frames]), RunInfo())
    assert frames[0].temperature == pytest.approx(atoms.get_temperature(), rel=1e-6)


def test_fixed_atoms_do_not_move(frames):
    atoms = cluster()
    atoms.set_constraint(FixAtoms([0, 3]))
    made = engine(atoms, settings())
    made.run(20, HookChain([frames]), RunInfo())
    moved = np.abs(frames[-1].positions - frames[0].positions).max(axis=1)
    assert set(np.flatnonzero(moved < 1e-12)) == {0, 3}
    # OpenMM's own mass of a fixed atom, 0, would be no mass for a reader of the file
    np.testing.assert_allclose(frames[0].masses, atoms.get_masses())
    assert np.isfinite(bare_atoms(frames[-1]).get_velocities()).all()


def test_momenta_of_fixed_atoms_do_not_count_in_the_temperature(frames):
    atoms = cluster()
    atoms.set_momenta(np.full((8, 3), 5.0))
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    made = OpenMMEngine(atoms, settings("nve"), loaded())
    made.run(0, HookChain([frames]), RunInfo())
    momenta = atoms.get_momenta()[4:]
    kinetic = (momenta**2 / (2 * atoms.get_masses()[4:, None])).sum()
    assert frames[0].temperature == pytest.approx(2 * kinetic / (12 * units.kB), rel=1e-4)


@pytest.mark.parametrize("engine_name", ["ase", "openmm"])
def test_npt_starts_at_the_temperature_asked_for(engine_name, frames):
    """Two atoms: the three degrees of freedom of the centre of mass are half of all."""
    temperatures = []
    for seed in range(60):
        atoms = bulk("Si")
        chosen = replace(settings("npt"), seed=seed)
        prepare(atoms, chosen)
        if engine_name == "ase":
            temperatures.append(atoms.get_temperature())
            continue
        seen = Frames()
        OpenMMEngine(atoms, chosen, loaded()).run(0, HookChain([seen]), RunInfo())
        temperatures.append(seen[0].temperature)
    assert np.mean(temperatures) == pytest.approx(300, abs=3.5 * 300 * np.sqrt(2 / 3 / 60))


@pytest.mark.parametrize("handed", [1, -1])
def test_any_cell_is_turned_into_openmms(handed):
    """The same crystal: energy, force lengths and U stay."""
    atoms = bulk("Si").repeat((2, 2, 1))
    atoms.set_cell(atoms.cell.array @ np.linalg.qr(np.arange(9).reshape(3, 3) + np.eye(3))[0],
                   scale_atoms=True)  # fmt: skip
    atoms.cell[1] += 3 * atoms.cell[0]
    atoms.cell[2] = handed * atoms.cell[2]
    atoms.rattle(0.1, seed=1)
    atoms.calc = ForceDeltaCalculator(loaded(), dtype="float64")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    u = atoms.calc.results["force_delta"]
    to_openmm_cell(atoms)
    made = OpenMMEngine(atoms, settings(), loaded(), dtype="float64")
    measured = made.monitor.measure(made.simulation.context)
    assert measured.energy == pytest.approx(energy, abs=1e-9)
    assert measured.force_delta == pytest.approx(u, abs=1e-9)
    np.testing.assert_allclose(
        np.linalg.norm(measured.forces, axis=1), np.linalg.norm(forces, axis=1), atol=1e-9
    )


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda atoms: None, "bussi", "OpenMM has no ensemble bussi: choose langevin"),
        (lambda atoms: None, "npt", "periodic in all three directions"),
        (lambda atoms: atoms.set_pbc([1, 1, 0]), "nve", "in three directions or in none"),
        (lambda atoms: atoms.set_constraint(FixBondLengths([[0, 1]])), "nve", "FixBondLengths"),
    ],
)
def test_what_openmm_does_not_have(change, name, message):
    atoms = cluster()
    change(atoms)
    with pytest.raises(ForceDeltaError, match=message):
        OpenMMEngine(atoms, settings(name), loaded())
