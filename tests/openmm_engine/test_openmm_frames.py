"""Which evaluations are made, and which of them become frames."""

import io

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
from ase import Atoms
from openmm import app
from simulations import (
    INTEGRATORS,
    Frames,
    MorsePairs,
    cluster,
    crystal,
    loaded,
    simulation,
    state_of,
    triclinic,
)

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.openmm import add_force_delta, run
from forcedelta.openmm import monitor as monitor_module


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("barostat", [False, True], ids=["fixed box", "barostat"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_one_evaluation_per_step(integrator, barostat, platform, frames):
    module = MorsePairs()
    atoms = crystal() if barostat else cluster()
    made, monitor = simulation(
        atoms, integrator, model=loaded(module), barostat=barostat, platform=platform
    )
    made.reporters.append(
        app.StateDataReporter(
            io.StringIO(), 1, step=True, potentialEnergy=True, kineticEnergy=True, temperature=True
        )
    )
    before = monitor.evaluations
    result = run(made, 40, [frames])
    assert [frame.step for frame in frames] == list(range(41))
    # a step's own, and that of the first frame where setting the velocities did not make it already
    trials = 40 // 5 if barostat else 0
    assert 40 + trials <= monitor.evaluations - before <= 41 + trials
    assert result.evaluations == monitor.evaluations - before
    assert module.calls == monitor.evaluations


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_one_evaluation_per_step_where_the_engine_shifts_positions(integrator, frames, monkeypatch):
    """The way taken on platforms other than Reference and CPU, run on Reference."""
    expected = Frames()
    made, _ = simulation(crystal(), integrator, barostat=True)
    run(made, 20, [expected])
    monkeypatch.setattr(monitor_module, "_PLAIN_PLATFORMS", ())
    made, monitor = simulation(crystal(), integrator, barostat=True)
    before = monitor.evaluations
    run(made, 20, [frames])
    assert monitor.evaluations - before <= 21 + 4
    for one, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        assert one.force_delta == other.force_delta
    assert len(frames) == len(expected) == 21


@pytest.mark.parametrize("make", [cluster, crystal, triclinic])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_frame_is_one_configuration(integrator, make, frames):
    made, _ = simulation(make(), integrator, barostat=make is crystal)
    run(made, 12, [frames])
    calculator = ForceDeltaCalculator(loaded(), dtype="float64")
    for frame in frames:
        atoms = Atoms(
            frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, calculator=calculator
        )
        assert atoms.get_potential_energy() == pytest.approx(frame.energy, abs=1e-10)
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            np.testing.assert_allclose(
                calculator.results[name], getattr(frame, name), rtol=0, atol=1e-10
            )
        assert frame.force_delta == pytest.approx(np.sqrt(np.mean(frame.force_deltas**2)))
        assert frame.force_delta > 1e-4
        np.testing.assert_array_equal(frame.forces, frame.direct_forces)


def test_a_frame_is_what_a_reporter_sees(frames):
    class Reporter:
        def __init__(self):
            self.seen = {}

        def describeNextReport(self, simulation):  # noqa: N802
            return {"steps": 1, "periodic": False, "include": ["positions", "velocities"]}

        def report(self, simulation, state):
            positions = state.getPositions(asNumpy=True)._value
            velocities = state.getVelocities(asNumpy=True)._value
            self.seen[simulation.currentStep] = positions.copy(), velocities.copy()

    made, _ = simulation(crystal(), barostat=True)
    reporter = Reporter()
    made.reporters.append(reporter)
    run(made, 20, [frames])
    for frame in frames[1:]:
        positions, velocities = reporter.seen[frame.step]
        np.testing.assert_array_equal(frame.positions, positions * 10)
        np.testing.assert_array_equal(frame.velocities, velocities * 0.01)
        assert frame.time == frame.step
    assert len({frame.cell[0, 0] for frame in frames}) > 1, "no trial volume was accepted"


def test_evaluations_that_are_no_steps_make_no_frame(frames):
    made, monitor = simulation(cluster())
    made.minimizeEnergy(maxIterations=5)
    made.context.getState(energy=True, forces=True)
    run(made, 3, [frames])
    made.context.getState(energy=True, forces=True)
    made.step(2)
    run(made, 2, [frames])
    assert [frame.step for frame in frames] == [0, 1, 2, 3, 5, 6, 7]
    assert monitor.evaluations > 8


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_watching_changes_nothing(integrator, platform, frames):
    # one after the other: OpenMM's Reference and CPU platforms share their random numbers
    watched, _ = simulation(crystal(), integrator, barostat=True, platform=platform)
    run(watched, 25, [frames])
    alone, _ = simulation(crystal(), integrator, barostat=True, platform=platform)
    alone.step(25)
    for one, other in zip(state_of(watched), state_of(alone), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every(frames):
    module = MorsePairs()
    made, monitor = simulation(cluster(), model=loaded(module), every=5)
    run(made, 12, [frames])
    with_u = [frame.step for frame in frames if frame.force_delta is not None]
    assert with_u == [0, 5, 10]
    for frame in frames:
        absent = frame.step % 5 != 0
        assert (frame.conservative_forces is None) == absent
        assert (frame.force_deltas is None) == absent
        assert frame.forces is not None
    assert module.calls == monitor.evaluations
    assert monitor.evaluations <= 14


def test_backward_passes_only_where_they_are_asked_for(frames, monkeypatch):
    import torch

    count = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: count.append(1) or grad(*a, **k))
    made, monitor = simulation(crystal(), barostat=True)
    assert not count, "setting velocities needs forces, not U"
    run(made, 20, [frames])
    assert len(count) == 21
    assert monitor.evaluations > 23
    made.step(10)
    assert len(count) == 21


def test_conservative_forces_drive_where_they_are_chosen(frames):
    made, _ = simulation(cluster(), forces="conservative")
    run(made, 3, [frames])
    for frame in frames:
        np.testing.assert_array_equal(frame.forces, frame.conservative_forces)
        assert np.abs(frame.forces - frame.direct_forces).max() > 1e-4
    state = made.context.getState(forces=True)
    np.testing.assert_allclose(
        state.getForces(asNumpy=True)._value, frames[-1].forces * 964.853329, rtol=1e-8
    )


def test_part_of_a_system():
    """The model sees its atoms only; the frame holds these, in the order that was given."""
    atoms = cluster()
    order = [6, 1, 3]
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    monitor = add_force_delta(system, loaded(), atoms.numbers, atoms=order, dtype="float64")
    made = app.Simulation(
        app.Topology(), system, openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )  # fmt: skip
    made.context.setPositions(atoms.positions / 10)
    frames = Frames()
    run(made, 5, [frames])
    assert monitor.evaluations == 6
    np.testing.assert_allclose(frames[0].positions, atoms.positions[order], atol=1e-12)
    alone = atoms[order]
    alone.calc = ForceDeltaCalculator(loaded(), dtype="float64")
    np.testing.assert_allclose(frames[0].forces, alone.get_forces(), atol=1e-12)
    moved = np.abs(state_of(made)[0] * 10 - atoms.positions).max(axis=1) > 1e-12
    assert set(np.flatnonzero(moved)) == set(order)


def test_constraints_and_heavy_hydrogens_do_not_break_frames(frames):
    atoms = Atoms("CH4", [[0, 0, 0], [1.2, 1.2, 1.2], [-1.2, -1.2, 1.2], [1.2, -1.2, -1.2],
                          [-1.2, 1.2, -1.2]])  # fmt: skip
    system = openmm.System()
    for mass in (4.0, 3.0, 3.0, 3.0, 3.0):
        system.addParticle(mass)
    length = float(np.linalg.norm(atoms.positions[1]) / 10)
    for hydrogen in range(1, 5):
        system.addConstraint(0, hydrogen, length)
    system.addForce(openmm.CMMotionRemover())
    add_force_delta(system, loaded(), atoms.numbers, dtype="float64")
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
    integrator.setRandomNumberSeed(5)
    integrator.setConstraintTolerance(1e-9)
    made = app.Simulation(
        app.Topology(), system, integrator, openmm.Platform.getPlatformByName("Reference")
    )
    made.context.setPositions(atoms.positions / 10)
    made.context.setVelocitiesToTemperature(300, 1)
    result = run(made, 200, [frames])
    calculator = ForceDeltaCalculator(loaded(), dtype="float64")
    for frame in frames[:: len(frames) // 5]:
        bonds = np.linalg.norm(frame.positions[1:] - frame.positions[0], axis=1)
        np.testing.assert_allclose(bonds, length * 10, rtol=1e-7)
        check = Atoms(frame.numbers, frame.positions, calculator=calculator)
        np.testing.assert_allclose(check.get_forces(), frame.forces, atol=1e-10)
    assert frames[0].masses.tolist() == [4, 3, 3, 3, 3]
    assert result.evaluations <= 201
    # 15 coordinates less 4 constraints and the centre of mass
    kinetic = made.context.getState(energy=True).getKineticEnergy()._value
    expected = 2 * kinetic / (8 * 0.00831446)
    assert frames[-1].temperature == pytest.approx(expected, rel=1e-3)
