"""Stops, errors, interrupts and restarts: what is left behind must be usable."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
from simulations import (
    Frames,
    MorsePairs,
    cluster,
    crystal,
    loaded,
    openmm_velocities,
    simulation,
    state_of,
)

from forcedelta import ForceDeltaError
from forcedelta.openmm import run
from md_hooks import Action, Guard, HookError, Recorder, Trajectory, load_checkpoint

CASES = [("Verlet", False), ("LangevinMiddle", False), ("LangevinMiddle", True),
         ("NoseHoover", True), ("Brownian", False)]  # fmt: skip


def never_stopped(integrator, barostat, steps, platform="Reference"):
    made, _ = simulation(crystal(), integrator, barostat=barostat, platform=platform)
    frames = Frames()
    run(made, steps, [frames])
    return state_of(made), frames


@pytest.mark.parametrize(("integrator", "barostat"), CASES)
def test_a_stop_leaves_the_state_of_its_step(integrator, barostat, tmp_path):
    end, expected = never_stopped(integrator, barostat, 30)
    made, _ = simulation(crystal(), integrator, barostat=barostat)
    result = run(
        made,
        30,
        [lambda frame: Action.STOP if frame.step == 17 else None, Recorder(tmp_path / "run.h5")],
    )
    assert (result.reason, result.step, result.time) == ("stopped", 17, expected[17].time)
    assert made.currentStep == 17
    positions, velocities, box = state_of(made)
    np.testing.assert_array_equal(positions * 10, expected[17].positions)
    np.testing.assert_allclose(
        velocities * 0.01, openmm_velocities(expected[17], made), rtol=0, atol=1e-14
    )
    np.testing.assert_array_equal(box * 10, expected[17].cell)
    assert Trajectory(tmp_path / "run.h5").series["step"][-1] == 17
    made.step(13)
    for one, other in zip(state_of(made), end, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_guard_stops_at_the_frame_that_crossed():
    _, expected = never_stopped("LangevinMiddle", False, 40)
    series = [frame.force_delta for frame in expected]
    threshold = sorted(series)[-5]
    first = next(step for step, u in enumerate(series) if u > threshold)
    made, _ = simulation(crystal())
    result = run(made, 40, [Guard(stop_above=threshold)])
    assert (result.reason, result.step) == ("stopped", first)
    assert result.force_delta == series[first]
    assert result.worst_atom == expected[first].worst_atom
    assert result.message.startswith(f"step {first}, {first} fs: U ")


@pytest.mark.parametrize(("integrator", "barostat"), CASES)
def test_restart_equals_no_restart(integrator, barostat, tmp_path):
    """Bit for bit, and no step twice or missing in the file.

    OpenMM's checkpoint lacks the barostat's count of steps to its next attempt, so that with one
    this holds for a restart where an attempt is due: every fifth step.
    """
    end, expected = never_stopped(integrator, barostat, 30)
    path = tmp_path / "run.h5"
    made, _ = simulation(crystal(), integrator, barostat=barostat)
    run(made, 15, [Recorder(path, every=4)])
    del made
    again, _ = simulation(crystal(), integrator, barostat=barostat)
    again.context.setVelocitiesToTemperature(900, 5)
    again.step(5)
    result = run(again, 15, [Recorder(path, every=4, mode="append")], restart=path)
    assert (result.reason, result.step) == ("finished", 30)
    for one, other in zip(state_of(again), end, strict=True):
        np.testing.assert_array_equal(one, other)
    recorded = Trajectory(path)
    assert list(recorded.series["step"]) == list(range(31))
    u = [frame.force_delta for frame in expected]
    np.testing.assert_array_equal(recorded.series["force_delta"], u)


def test_restart_on_the_cpu_platform(tmp_path):
    end, _ = never_stopped("LangevinMiddle", True, 20, "CPU")
    path = tmp_path / "run.h5"
    made, _ = simulation(crystal(), barostat=True, platform="CPU")
    run(made, 10, [Recorder(path)])
    del made
    again, _ = simulation(crystal(), barostat=True, platform="CPU")
    run(again, 10, [Recorder(path, mode="append")], restart=path)
    for one, other in zip(state_of(again), end, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_a_restart_gives_hooks_their_state(tmp_path):
    path = tmp_path / "run.h5"
    made, _ = simulation(cluster())
    guard = Guard(stop_above="auto", factor=50, burn_in=8)
    run(made, 10, [guard, Recorder(path)])
    again, _ = simulation(cluster())
    other = Guard(stop_above="auto", factor=50, burn_in=8)
    run(again, 1, [other, Recorder(path, mode="append")], restart=path)
    assert guard.stop_threshold is not None
    assert other.stop_threshold == guard.stop_threshold


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "run.h5"
    made, _ = simulation(cluster())
    run(made, 2, [Recorder(path)])
    verlet, _ = simulation(cluster(), "Verlet")
    with pytest.raises(ForceDeltaError, match="integrator LangevinMiddleIntegrator, but the sim"):
        run(verlet, 1, [], restart=path)
    cpu, _ = simulation(cluster(), platform="CPU")
    with pytest.raises(ForceDeltaError, match="platform Reference, but the simulation has CPU"):
        run(cpu, 1, [], restart=path)
    smaller, _ = simulation(cluster()[:5])
    with pytest.raises(ForceDeltaError, match="particles 8, but the simulation has 5"):
        run(smaller, 1, [], restart=path)


class Failing(MorsePairs):
    """Raises at one of its calls."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def forward(self, *arguments):
        if self.calls + 1 == self.at:
            self.at = 0
            raise self.error
        return super().forward(*arguments)


@pytest.mark.parametrize("integrator", ["Verlet", "LangevinMiddle", "NoseHoover"])
def test_an_error_of_the_model_surfaces_as_what_it_is(integrator, tmp_path):
    module = Failing(0, ZeroDivisionError("no such thing"))
    made, _ = simulation(cluster(), integrator, model=loaded(module))
    module.at = module.calls + 6
    frames = Frames()
    path = tmp_path / "run.h5"
    with pytest.raises(ZeroDivisionError, match=r"^no such thing") as caught:
        run(made, 20, [frames, Recorder(path)])
    step = frames[-1].step + 1
    assert caught.value.__notes__ == [f"in the evaluation at step {step}"]
    assert made.currentStep == step
    assert Trajectory(path).series["step"][-1] == step - 1
    # the error was the model's; the state is good and the run can go on
    result = run(made, 5, [frames])
    assert (result.reason, result.step) == ("finished", step + 5)


def test_an_error_at_a_trial_volume_does_not_keep_that_volume():
    module = Failing(0, ZeroDivisionError("no such volume"))
    made, _ = simulation(crystal(), "Verlet", model=loaded(module), barostat=True)
    frames = Frames()
    run(made, 4, [frames])
    module.at = module.calls + 1
    with pytest.raises(ZeroDivisionError, match="no such volume"):
        # Verlet takes the forces of frame 4 from memory, so that the next call is the trial at 4
        run(made, 1, [frames])
    np.testing.assert_array_equal(state_of(made)[2] * 10, frames[-1].cell)


def test_errors_of_the_engine_keep_their_words(frames):
    made, _ = simulation(cluster(), "Verlet")
    made.context.setPositions(np.where(np.arange(24).reshape(8, 3) == 3, np.nan, 0.1))
    with pytest.raises(ForceDeltaError, match="atom 1"):
        run(simulation_with_nan()[0], 3, [frames])


def simulation_with_nan():
    atoms = cluster()
    made, monitor = simulation(atoms)
    atoms.positions[1] = np.nan
    made.context.setPositions(atoms.positions / 10)
    monitor._evaluator._evaluator.passes = 0
    return made, monitor


def test_a_run_that_explodes_is_stopped_by_the_guard():
    made, _ = simulation(cluster(), "Verlet")
    made.context.setVelocitiesToTemperature(300, 1)

    def blow(frame):
        if frame.step == 3:
            atoms = np.array(frame.positions) / 10
            atoms[2] = np.nan
            made.context.setPositions(atoms)

    result = run(made, 10, [Guard(), blow])
    assert result.reason == "stopped"
    assert "not finite" in result.message


def test_ctrl_c_ends_after_the_step(tmp_path):
    made, _ = simulation(cluster())

    def press(frame):
        if frame.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = run(made, 50, [press, Recorder(tmp_path / "run.h5")])
    assert (result.reason, result.step) == ("interrupted", 4)
    assert "SIGINT" in result.message
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(tmp_path / "run.h5").step == 4


def test_ctrl_c_twice_inside_of_a_step_ends_at_once():
    class Stubborn(MorsePairs):
        def forward(self, *arguments):
            if self.calls == 8:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(*arguments)

    frames = Frames()
    made, _ = simulation(cluster(), model=loaded(Stubborn()))
    result = run(made, 50, [frames])
    assert result.reason == "interrupted"
    assert result.step == frames[-1].step < 10


def test_hooks_are_closed_whatever_happens():
    class Closing:
        result = None

        def observe(self, frame, verdict):
            if frame.step == 2:
                raise HookError("disk full")

        def close(self, result):
            self.result = result

    hook = Closing()
    made, _ = simulation(cluster())
    with pytest.raises(HookError, match="disk full"):
        run(made, 5, [hook])
    assert hook.result.reason == "error"
    assert "disk full" in hook.result.message
    assert made.currentStep == 2


def test_openmm_exceptions_come_with_the_step(monkeypatch):
    made, _ = simulation(cluster())

    def broken(steps):
        raise openmm.OpenMMException("driver fell over")

    monkeypatch.setattr(made, "step", broken)
    with pytest.raises(openmm.OpenMMException, match="driver") as caught:
        run(made, 5, [])
    assert "step 0" in caught.value.__notes__[0]
