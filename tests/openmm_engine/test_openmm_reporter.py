"""The reporter: whatever makes the steps, the frames and their cost are those of a run."""

import io

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from openmm import app, unit
from openmm.mtsintegrator import MTSIntegrator
from simulations import (
    Frames,
    MorsePairs,
    cluster,
    crystal,
    loaded,
    simulation,
    state_of,
    topology_of,
)

from forcedelta import ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.openmm import ForceDeltaReporter, add_force_delta, run
from md_hooks import Action, HookError, Recorder, RunStoppedError, Trajectory, load_checkpoint

STEPS = 24


@pytest.fixture
def backwards(monkeypatch):
    """A list that grows by one with each backward pass."""
    count: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: count.append(1) or grad(*a, **k))
    return count


def in_one_call(made):
    made.step(STEPS)


def in_pieces(made):
    for count in (1, 2, 10, 11):
        made.step(count)


def own_loop(made):
    for _ in range(STEPS):
        made.step(1)
        made.context.getState(energy=True, forces=True)


def for_clock_time(made):
    with pytest.raises(RunStoppedError):
        made.runForClockTime(1 * unit.hour)


def tempering(made):
    """At one temperature only, so that the path is the same."""
    sampler = app.SimulatedTempering(
        made, temperatures=[300 * unit.kelvin] * 2, weights=[0, 0], tempChangeInterval=4,
        reportInterval=1000, reportFile=io.StringIO(),
    )  # fmt: skip
    sampler.step(STEPS)


WAYS = [in_one_call, in_pieces, own_loop, for_clock_time, tempering]


def end_at_last_step(frame):
    return Action.STOP if frame.step == STEPS else None


SETTINGS = {
    "direct": {},
    "every 5": {"every": 5},
    "adaptive": {"every": "adaptive"},
    "conservative": {"forces": "conservative"},
}


def compare(found: Frames, expected: Frames) -> None:
    assert [frame.step for frame in found] == [frame.step for frame in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.time, one.energy, one.force_delta) == (
            other.time, other.energy, other.force_delta,
        )  # fmt: skip
        for name in ("positions", "velocities", "cell", "forces", "direct_forces"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.extra == pytest.approx(dict(other.extra), rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("integrator", ["LangevinMiddle", "NoseHoover"])
def test_frames_and_cost_are_those_of_a_run(way, settings, integrator, backwards):
    expected, found = Frames(), Frames()
    costs = []
    for frames in (expected, found):
        module = MorsePairs()
        made, monitor = simulation(
            crystal(), integrator, model=loaded(module), barostat=True, **SETTINGS[settings]
        )
        backwards.clear()
        before = module.calls
        if frames is expected:
            run(made, STEPS, [frames, end_at_last_step])
        else:
            made.reporters.append(ForceDeltaReporter(monitor, [frames, end_at_last_step]))
            way(made)
        costs.append((module.calls - before, len(backwards)))
        assert made.currentStep == STEPS
    compare(found, expected)
    assert costs[0] == costs[1]


@pytest.mark.parametrize("way", [in_one_call, in_pieces, own_loop])
def test_multiple_time_steps(way, backwards):
    expected, found = Frames(), Frames()
    costs = []
    for frames in (expected, found):
        module = MorsePairs()
        made, monitor = simulation(
            crystal(), MTSIntegrator(0.003, [(1, 1), (0, 3)]), model=loaded(module), forces="mts",
            inner=3,
        )  # fmt: skip
        backwards.clear()
        before = module.calls
        if frames is expected:
            run(made, STEPS, [frames])
        else:
            made.reporters.append(ForceDeltaReporter(monitor, [frames]))
            way(made)
        costs.append((module.calls - before, len(backwards)))
    compare(found, expected)
    assert costs == [(3 * STEPS + 1, STEPS + 1)] * 2


def test_metadynamics_is_guarded_by_the_model_alone(tmp_path, backwards):
    """The bias moves the atoms; energy, forces and U of a frame are the model's."""
    atoms = cluster()
    states = []
    for watched in (True, False):
        module = MorsePairs()
        system = openmm.System()
        for mass in atoms.get_masses():
            system.addParticle(mass)
        monitor = add_force_delta(system, loaded(module), topology_of(atoms), dtype="float64")
        torsion = openmm.CustomTorsionForce("theta")
        torsion.addTorsion(0, 1, 2, 3)
        bias = app.BiasVariable(torsion, -np.pi, np.pi, 0.3, True)
        meta = app.Metadynamics(system, [bias], 300 * unit.kelvin, 5.0, 50.0, 6)
        integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.001)
        integrator.setRandomNumberSeed(1)
        made = app.Simulation(
            topology_of(atoms), system, integrator, openmm.Platform.getPlatformByName("Reference")
        )
        made.context.setPositions(atoms.positions / 10)
        made.context.setVelocitiesToTemperature(300, 2)
        backwards.clear()
        before = module.calls
        frames = Frames()
        if watched:
            stop = lambda frame: Action.STOP if frame.step == 12 else None  # noqa: E731
            reporter = ForceDeltaReporter(
                monitor, [frames, stop, Recorder(tmp_path / "meta.h5", every=1)]
            )
            made.reporters.append(reporter)
            with pytest.raises(RunStoppedError):
                meta.step(made, 30)
            assert made.currentStep == 12  # where a Gaussian is due, which must not be lost
            # the frame's velocities are OpenMM's, half a step behind, since there is a bias
            reporter.close()
            made.reporters.append(ForceDeltaReporter(monitor, [frames]))
            meta.step(made, 18)
            # 31 frames; both reporters show that of the stop
            assert module.calls - before == len(backwards) == 31
        else:
            meta.step(made, 30)
        states.append((*state_of(made), meta.getFreeEnergy()._value))
        if watched:
            calculator = ForceDeltaCalculator(loaded(), dtype="float64")
            for frame in frames[::10]:
                there = atoms.copy()
                there.positions, there.calc = frame.positions, calculator
                assert there.get_potential_energy() == pytest.approx(frame.energy, abs=1e-9)
                u = calculator.results["force_delta"]
                assert u == pytest.approx(frame.force_delta, abs=1e-9)
    assert np.abs(states[0][-1]).max() > 1, "no Gaussian was added"
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("writer", ["run", "reporter"])
@pytest.mark.parametrize("reader", ["run", "reporter"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_restart(writer, reader, settings, tmp_path):
    """A file of a run continues under a reporter, and the other way round, bit for bit."""
    options = SETTINGS[settings]
    whole, _ = simulation(crystal(), **options)
    expected = Frames()
    run(whole, 30, [expected])
    path = tmp_path / "run.h5"
    made, monitor = simulation(crystal(), **options)
    if writer == "run":
        run(made, 15, [Recorder(path, every=4)])
    else:
        with ForceDeltaReporter(monitor, [Recorder(path, every=4)]) as reporter:
            made.reporters.append(reporter)
            made.step(15)
    del made
    again, monitor = simulation(crystal(), **options)
    again.context.setVelocitiesToTemperature(900, 5)
    again.step(5)
    hooks = [Recorder(path, every=4, mode="append")]
    if reader == "run":
        run(again, 15, hooks, restart=path)
    else:
        reporter = ForceDeltaReporter(monitor, hooks, restart=path, simulation=again)
        again.reporters.append(reporter)
        again.step(15)
        assert reporter.close().step == 30
    for one, other in zip(state_of(again), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    recorded = Trajectory(path).series
    assert list(recorded["step"]) == list(range(31))
    u = [np.nan if frame.force_delta is None else frame.force_delta for frame in expected]
    np.testing.assert_array_equal(recorded["force_delta"], u)


def test_a_restart_with_multiple_time_steps(tmp_path):
    def made_here():
        return simulation(
            crystal(), MTSIntegrator(0.003, [(1, 1), (0, 3)]), forces="mts", inner=3
        )  # fmt: skip

    whole, _ = made_here()
    whole.step(20)
    path = tmp_path / "run.h5"
    made, monitor = made_here()
    made.reporters.append(ForceDeltaReporter(monitor, [Recorder(path)]))
    made.step(10)
    made.reporters[0].close()
    again, monitor = made_here()
    hooks = [Recorder(path, mode="append")]
    again.reporters.append(ForceDeltaReporter(monitor, hooks, restart=path, simulation=again))
    again.step(10)
    for one, other in zip(state_of(again), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_last_frame_has_no_checkpoint_if_its_atoms_were_moved(tmp_path):
    path = tmp_path / "run.h5"
    made, monitor = simulation(cluster())
    reporter = ForceDeltaReporter(monitor, [Recorder(path, every=10)])
    made.reporters.append(reporter)
    made.step(15)
    made.minimizeEnergy(maxIterations=3)
    reporter.close()
    assert Trajectory(path).series["step"][-1] == 15
    assert load_checkpoint(path).step == 10


def test_evaluations_between_steps_make_no_backward_pass(backwards):
    made, monitor = simulation(cluster(), "NoseHoover")
    frames = Frames()
    made.reporters.append(ForceDeltaReporter(monitor, [frames]))
    made.step(4)
    assert len(backwards) == 5
    made.minimizeEnergy(maxIterations=5)
    assert len(backwards) == 5
    made.step(2)
    assert [frame.step for frame in frames] == list(range(7))


def test_steps_that_no_reporter_sees_leave_a_gap():
    made, monitor = simulation(cluster())
    frames = Frames()
    made.reporters.append(ForceDeltaReporter(monitor, [frames]))
    made.step(2)
    made.integrator.step(3)
    before = monitor.evaluations
    with pytest.warns(UserWarning, match=r"^3 steps after step 2 were made by integrator\.step"):
        made.step(2)
    assert [frame.step for frame in frames] == [0, 1, 2, 5, 6, 7]
    assert monitor.evaluations - before == 3
    made.integrator.step(4)
    with pytest.warns(UserWarning, match=r"^4 steps after step 7 .* call simulation\.step"):
        made.reporters[0].close()


def test_a_count_that_is_set_back_goes_on_in_the_file(tmp_path):
    """Production that counts from 0 after an equilibration, and one that first moves the atoms."""
    path = tmp_path / "run.h5"
    made, monitor = simulation(cluster())
    frames = Frames()
    reporter = ForceDeltaReporter(monitor, [frames, Recorder(path)])
    made.reporters.append(reporter)
    made.step(5)
    made.currentStep = 0
    made.context.setTime(0)
    made.step(3)
    made.currentStep = 0
    made.minimizeEnergy(maxIterations=3)
    made.step(2)
    assert reporter.close().step == 11
    assert [frame.step for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == [*range(9), 8, 9, 10]
    assert list(Trajectory(path).series["step"]) == list(range(12))
    assert load_checkpoint(path).step == 11
    made.step(4)
    again, _ = simulation(cluster())
    run(again, 4, [Recorder(path, mode="append")], restart=path)
    for one, other in zip(state_of(again), state_of(made), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "run.h5"
    made, monitor = simulation(cluster())
    run(made, 4, [Recorder(path)])
    with pytest.raises(ForceDeltaError, match="pass 'raise' or 'flag'"):
        ForceDeltaReporter(monitor, [], on_stop="ignore")
    with pytest.raises(ForceDeltaError, match="pass simulation="):
        ForceDeltaReporter(monitor, [], restart=path)
    reporter = ForceDeltaReporter(monitor, [], restart=path, simulation=made)
    made.step(1)
    made.reporters.append(reporter)
    with pytest.raises(ForceDeltaError, match="from step 4, but the simulation is at step 5"):
        made.step(1)
    made.reporters[:] = [ForceDeltaReporter(monitor, [Recorder(path)])]
    with pytest.raises(HookError, match="exists"):
        made.step(1)
    assert made.currentStep == 5
    reporter = ForceDeltaReporter(monitor, [])
    made.reporters[:] = [reporter]
    made.step(1)
    other, _ = simulation(cluster())
    other.reporters.append(reporter)
    with pytest.raises(ForceDeltaError, match="one for each Simulation"):
        other.step(1)
    assert ForceDeltaReporter(monitor, []).close() is None


def test_adaptive_monitoring_follows_one_path():
    made, monitor = simulation(cluster(), every="adaptive")
    reporter = ForceDeltaReporter(monitor, [])
    made.reporters.append(reporter)
    made.step(2)
    with pytest.raises(ForceDeltaError, match="follows the path of one run"):
        run(made, 2, [])
    reporter.close()
    assert run(made, 2, []).reason == "finished"
