"""Scripts of users: own integrators, a minimisation first, constraints and virtual sites elsewhere."""

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import Atoms, units
from openmm import app
from simulations import Frames, MorsePairs, cluster, loaded, simulation, state_of

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.openmm import ForceDeltaReporter, add_force_delta, run
from md_hooks import Action, Recorder, RunStoppedError, Trajectory


@pytest.fixture
def backwards(monkeypatch):
    """A list that grows by one with each backward pass."""
    count: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: count.append(1) or grad(*a, **k))
    return count


def velocity_verlet(substeps: int = 1) -> openmm.CustomIntegrator:
    """Velocities at the time of the positions; a step may consist of several."""
    made = openmm.CustomIntegrator(0.001)
    made.addGlobalVariable("h", 0.001 / substeps)
    made.addUpdateContextState()
    for _ in range(substeps):
        made.addComputePerDof("v", "v + 0.5*h*f/m")
        made.addComputePerDof("x", "x + h*v")
        made.addComputePerDof("v", "v + 0.5*h*f/m")
    return made


def leapfrog() -> openmm.CustomIntegrator:
    """Velocities half a step behind, as OpenMM's manual writes it."""
    made = openmm.CustomIntegrator(0.001)
    made.addUpdateContextState()
    made.addComputePerDof("v", "v + dt*f/m")
    made.addComputePerDof("x", "x + dt*v")
    made.setKineticEnergyExpression("m*v1*v1/2; v1 = v + 0.5*dt*f/m")
    return made


def metropolis() -> openmm.CustomIntegrator:
    """Hybrid Monte Carlo of five steps, which rejects every second time: nothing moves then."""
    made = openmm.CustomIntegrator(0.001)
    made.addPerDofVariable("before", 0)
    made.addGlobalVariable("count", 0)
    made.addComputePerDof("before", "x")
    for _ in range(5):
        made.addComputePerDof("v", "v + 0.5*dt*f/m")
        made.addComputePerDof("x", "x + dt*v")
        made.addComputePerDof("v", "v + 0.5*dt*f/m")
    made.addComputeGlobal("count", "1 - count")
    made.addComputePerDof("x", "select(count, x, before)")
    return made


INTEGRATORS = {
    "velocity Verlet": velocity_verlet,
    "leapfrog": leapfrog,
    "three steps in one": lambda: velocity_verlet(3),
    "hybrid Monte Carlo": metropolis,
}


def by_run(made, monitor, steps, hooks):
    run(made, steps, hooks)


def by_reporter(made, monitor, steps, hooks):
    made.reporters.append(ForceDeltaReporter(monitor, hooks))
    made.step(steps)
    made.reporters[-1].close()


@pytest.mark.parametrize("way", [by_run, by_reporter])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_own_integrators(name, way, backwards):
    module = MorsePairs()
    alone, _ = simulation(cluster(), INTEGRATORS[name](), model=loaded(module))
    before = module.calls
    alone.step(12)
    cost = module.calls - before
    made, monitor = simulation(cluster(), INTEGRATORS[name](), model=loaded(module))
    frames = Frames()
    backwards.clear()
    before = module.calls
    way(made, monitor, 12, [frames])
    calls, exact = module.calls - before, len(backwards)
    for one, other in zip(state_of(made), state_of(alone), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [frame.step for frame in frames] == list(range(13))
    calculator = ForceDeltaCalculator(loaded(), dtype="float64")
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions, calculator=calculator)
        np.testing.assert_allclose(atoms.get_forces(), frame.forces, rtol=0, atol=1e-10)
        assert calculator.results["force_delta"] == pytest.approx(frame.force_delta)
    # an unwatched leapfrog or Monte Carlo need not know its last configuration
    assert calls <= cost + 1
    if (
        name == "hybrid Monte Carlo"
    ):  # ten evaluations in the first step, and one in each rejected one
        assert exact <= 13 + 9 + 6
    else:  # the first step shows how many evaluations a step has
        assert exact == 13 + (2 if name == "three steps in one" else 0)
    kinetic = made.context.getState(energy=True).getKineticEnergy()._value
    own = frames[-1].temperature * 1.5 * 8 * 0.00831446
    assert own == pytest.approx(kinetic, rel=1e-5)


@pytest.mark.parametrize("way", [by_run, by_reporter])
def test_a_minimisation_first(way, backwards):
    made, monitor = simulation(cluster(), "NoseHoover")
    made.minimizeEnergy(maxIterations=20)
    lowest = made.context.getState(energy=True).getPotentialEnergy()._value
    made.context.setVelocitiesToTemperature(300, 1)
    assert not backwards
    frames = Frames()
    way(made, monitor, 10, [frames])
    assert [frame.step for frame in frames] == list(range(11))
    assert len(backwards) == 11
    assert frames[0].energy * 96.48533 == pytest.approx(lowest, rel=1e-6)


def mixed() -> tuple[openmm.System, np.ndarray, list[int]]:
    """A rigid water with a virtual site, and a cluster of silicon; System, positions (Å), cluster."""
    atoms = cluster()
    water = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0], [0, 0, 0]]) - [6.0, 0, 0]
    system = openmm.System()
    for mass in (15.999, 1.008, 1.008, 0.0, *atoms.get_masses()):
        system.addParticle(mass)
    system.setVirtualSite(3, openmm.ThreeParticleAverageSite(0, 1, 2, 0.8, 0.1, 0.1))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        system.addConstraint(
            first, second, float(np.linalg.norm(water[first] - water[second])) / 10
        )
    nonbonded = openmm.NonbondedForce()
    for charge, sigma, epsilon in ((0, 0.31, 0.7), (0.5, 1, 0), (0.5, 1, 0), (-1, 1, 0)):
        nonbonded.addParticle(charge, sigma, epsilon)
    for index in range(len(atoms)):
        nonbonded.addParticle(0.1 * (-1) ** index, 0.3, 0.3)
        for other in range(index):
            nonbonded.addException(4 + index, 4 + other, 0, 1, 0)
    for first in range(4):
        for second in range(first):
            nonbonded.addException(first, second, 0, 1, 0)
    system.addForce(nonbonded)
    return system, np.vstack([water, atoms.positions]), list(range(4, 12))


@pytest.mark.parametrize("way", [by_run, by_reporter])
def test_constraints_and_virtual_sites_elsewhere(way, tmp_path, backwards):
    def made_here():
        system, positions, part = mixed()
        numbers = [8, 1, 1, 0] + [14] * 8
        monitor = add_force_delta(system, loaded(), numbers, atoms=part, dtype="float64")
        integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
        integrator.setRandomNumberSeed(1)
        platform = openmm.Platform.getPlatformByName("Reference")
        made = app.Simulation(app.Topology(), system, integrator, platform)
        made.context.setPositions(positions / 10)
        made.context.computeVirtualSites()
        made.context.setVelocitiesToTemperature(300, 2)
        return made, monitor

    path = tmp_path / "run.h5"
    made, monitor = made_here()
    frames = Frames()
    backwards.clear()
    way(made, monitor, 10, [frames, Recorder(path)])
    assert len(backwards) == len(frames) == 11
    calculator = ForceDeltaCalculator(loaded(), dtype="float64")
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions, calculator=calculator)
        np.testing.assert_allclose(atoms.get_forces(), frame.forces, rtol=0, atol=1e-10)
    assert Trajectory(path).metadata["settings"]["velocity_offset"] == -0.5
    whole = state_of(made)
    made.step(5)
    again, _ = made_here()
    run(again, 5, [Recorder(path, mode="append")], restart=path)
    for one, other in zip(state_of(again), state_of(made), strict=True):
        np.testing.assert_array_equal(one, other)
    site = whole[0][3]
    np.testing.assert_allclose(site, np.array([0.8, 0.1, 0.1]) @ whole[0][:3], atol=1e-7)


def test_a_stop_in_an_own_integrator_leaves_the_state_of_its_frame():
    whole, _ = simulation(cluster(), velocity_verlet(2))
    whole.step(20)
    made, monitor = simulation(cluster(), velocity_verlet(2))
    made.reporters.append(
        ForceDeltaReporter(monitor, [lambda frame: Action.STOP if frame.step == 9 else None])
    )
    with pytest.raises(RunStoppedError):
        made.step(20)
    made.reporters.clear()
    made.step(11)
    for one, other in zip(state_of(made), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_velocities_of_a_part_that_nothing_else_acts_on(tmp_path):
    """With leapfrog they have the time of the positions, and the energy of the part is conserved."""
    atoms = cluster()
    system = openmm.System()
    for mass in (*atoms.get_masses(), 20.0):
        system.addParticle(mass)
    far = openmm.CustomExternalForce("5*x")
    monitor = add_force_delta(
        system, loaded(), [14] * 8 + [10], atoms=range(8), dtype="float64", forces="conservative"
    )
    made = app.Simulation(
        app.Topology(), system, openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )  # fmt: skip
    made.context.setPositions(np.vstack([atoms.positions, [50, 50, 50]]) / 10)
    made.context.setVelocitiesToTemperature(300, 3)
    frames = Frames()
    made.reporters.append(ForceDeltaReporter(monitor, [frames, Recorder(tmp_path / "run.h5")]))
    made.step(200)
    made.reporters[0].close()
    assert Trajectory(tmp_path / "run.h5").metadata["settings"]["velocity_offset"] == 0
    energies = np.array([frame.extra["conserved_energy"] for frame in frames])
    at_openmms_time = [
        frame.energy + 0.5 * float((frame.masses[:, None] * v**2).sum()) / units.fs**2
        for frame in frames
        for v in [frame.velocities - 0.5 * units.fs**2 * frame.forces / frame.masses[:, None]]
    ]
    assert np.ptp(energies) < 0.05 * np.ptp(at_openmms_time)
    far.addParticle(0)
    system.addForce(far)
    made.context.reinitialize(preserveState=True)
    frames.clear()
    run(made, 1, [frames])
    assert "conserved_energy" not in frames[0].extra
