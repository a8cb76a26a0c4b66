"""How a reporter ends: stops, errors of the model and of hooks, and files that are closed."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

from openmm import app
from simulations import Frames, MorsePairs, cluster, crystal, loaded, simulation, state_of

from forcedelta.openmm import ForceDeltaReporter, run
from md_hooks import (
    Action,
    Guard,
    HookError,
    Recorder,
    RunStoppedError,
    Trajectory,
    load_checkpoint,
)


@pytest.mark.parametrize("first", [True, False], ids=["first reporter", "last reporter"])
@pytest.mark.parametrize("integrator", ["Verlet", "LangevinMiddle", "NoseHoover", "Brownian"])
def test_a_stop_leaves_the_state_of_its_frame(integrator, first, tmp_path):
    """On disk at once, and what follows equals a run that was never stopped."""
    whole, _ = simulation(crystal(), integrator)
    whole.step(30)
    end = state_of(whole)
    path = tmp_path / "run.h5"
    made, monitor = simulation(crystal(), integrator)
    guard = [lambda frame: Action.STOP if frame.step == 17 else None, Recorder(path)]
    reporter = ForceDeltaReporter(monitor, guard)
    seen = app.StateDataReporter(str(tmp_path / "log.csv"), 1, step=True, totalEnergy=True)
    made.reporters += [reporter, seen] if first else [seen, reporter]
    with pytest.raises(RunStoppedError, match=r"lambda.* stop: no step can be made"):
        made.step(30)
    assert made.currentStep == 17
    assert (tmp_path / "log.csv").read_text().splitlines()[-1].startswith("17,")
    stored = Trajectory(path)
    assert stored.series["step"][-1] == load_checkpoint(path).step == 17
    assert stored.outcome["reason"] == "stopped"
    np.testing.assert_array_equal(state_of(made)[0] * 10, stored.frame(-1).positions)
    with pytest.raises(RunStoppedError):  # as long as the reporter is there
        made.step(1)
    assert reporter.stopped
    assert reporter.close() is reporter.result
    assert made.reporters == [seen]
    made.step(13)
    for one, other in zip(state_of(made), end, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stop_as_a_flag(tmp_path):
    path = tmp_path / "run.h5"
    made, monitor = simulation(cluster())
    hooks = [lambda frame: Action.STOP if frame.step == 7 else None, Recorder(path)]
    reporter = ForceDeltaReporter(monitor, hooks, on_stop="flag")
    made.reporters.append(reporter)
    assert not reporter.stopped
    assert reporter.verdict is None
    while not reporter.stopped:
        made.step(5)
    assert made.currentStep == 10
    assert reporter.verdict.action == Action.STOP
    assert (reporter.result.reason, reporter.result.step) == ("stopped", 7)
    assert Trajectory(path).series["step"][-1] == load_checkpoint(path).step == 7
    before = monitor.evaluations
    made.step(5)
    assert monitor.evaluations - before == 5


def test_a_stop_before_the_first_step():
    made, monitor = simulation(cluster())
    made.reporters.append(ForceDeltaReporter(monitor, [lambda frame: Action.STOP]))
    with pytest.raises(RunStoppedError):
        made.step(5)
    assert made.currentStep == 0


def test_a_with_block_raises_for_a_stop_at_its_last_step():
    made, monitor = simulation(cluster())
    reporter = ForceDeltaReporter(monitor, [lambda f: Action.STOP if f.step == 5 else None])
    made.reporters.append(reporter)
    with pytest.raises(RunStoppedError), reporter:
        made.step(5)
    assert made.reporters == []
    assert reporter.result.reason == "stopped"


class Failing(MorsePairs):
    """Raises at its next call once armed."""

    armed = False

    def forward(self, *arguments):
        if self.armed:
            self.armed = False
            raise ZeroDivisionError("no such thing")
        return super().forward(*arguments)


@pytest.mark.parametrize("integrator", ["Verlet", "LangevinMiddle", "NoseHoover"])
def test_an_error_of_the_model_keeps_its_type(integrator, tmp_path):
    path = tmp_path / "run.h5"
    module = Failing()
    made, monitor = simulation(cluster(), integrator, model=loaded(module))
    reporter = ForceDeltaReporter(monitor, [Recorder(path)])
    made.reporters.append(reporter)
    made.step(6)
    module.armed = True
    with pytest.raises(ZeroDivisionError, match=r"^no such thing") as caught, reporter:
        made.step(20)
    assert "in the evaluation at step" in caught.value.__notes__[0]
    assert Trajectory(path).outcome["reason"] == "error"
    assert "no such thing" in Trajectory(path).outcome["message"]
    assert Trajectory(path).series["step"][-1] == 6
    assert made.reporters == []
    made.step(3)  # the state is good


def test_an_error_at_a_trial_volume_comes_after_its_step():
    module = Failing()
    made, monitor = simulation(crystal(), "Verlet", model=loaded(module), barostat=True)
    frames = Frames()
    made.reporters.append(ForceDeltaReporter(monitor, [frames]))
    made.step(4)
    module.armed = True
    with pytest.raises(ZeroDivisionError, match="no such thing"):
        made.step(1)
    np.testing.assert_array_equal(state_of(made)[2] * 10, frames[-1].cell)


def test_after_an_error_no_step_goes_unguarded():
    made, monitor = simulation(cluster())

    def full(frame):
        if frame.step == 3:
            raise HookError("disk full")

    made.reporters.append(ForceDeltaReporter(monitor, [full]))
    with pytest.raises(HookError, match="disk full"):
        made.step(5)
    with pytest.raises(RunStoppedError, match="disk full: no step can be made"):
        made.step(1)
    assert made.currentStep == 3


def test_a_run_beside_a_reporter_stops_with_it(tmp_path):
    made, monitor = simulation(cluster())
    hooks = [lambda frame: Action.STOP if frame.step == 3 else None]
    made.reporters.append(ForceDeltaReporter(monitor, hooks))
    path = tmp_path / "run.h5"
    with pytest.raises(RunStoppedError):
        run(made, 10, [Recorder(path)])
    assert made.currentStep == load_checkpoint(path).step == 3


def test_a_deleted_simulation_leaves_a_closed_file(tmp_path):
    path = tmp_path / "run.h5"
    made, monitor = simulation(cluster())
    made.reporters.append(ForceDeltaReporter(monitor, [Recorder(path)]))
    made.step(7)
    del made
    assert Trajectory(path).series["step"][-1] == load_checkpoint(path).step == 7
    assert Trajectory(path).outcome["reason"] == "finished"


SCRIPT = """
import os, sys
sys.path.insert(0, {folder!r})
from simulations import cluster, simulation
from forcedelta.openmm import ForceDeltaReporter
from md_hooks import Recorder
made, monitor = simulation(cluster())
made.reporters.append(ForceDeltaReporter(monitor, [Recorder("run.h5")]))
made.step(7)
if os.fork() == 0:
    del made
    os._exit(0)
os.wait()
{end}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "reason", "message"),
    [
        ("", "finished", ""),
        ("sys.exit(3)", "finished", ""),
        ("1 / 0", "error", "division by zero"),
        ("raise KeyboardInterrupt", "interrupted", "interrupted from the keyboard"),
    ],
)
def test_no_frame_is_lost_at_the_end_of_a_script(end, reason, message, tmp_path):
    script = SCRIPT.format(folder=str(__import__("pathlib").Path(__file__).parent), end=end)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or end, done.stderr
    stored = Trajectory(tmp_path / "run.h5")
    assert list(stored.series["step"]) == list(range(8))
    assert (stored.outcome["reason"], stored.outcome["message"]) == (reason, message)


def test_a_guard_stops_where_it_does_in_a_run():
    expected = Frames()
    run(simulation(cluster())[0], 40, [expected])
    threshold = sorted(frame.force_delta for frame in expected)[-5]
    first = next(frame.step for frame in expected if frame.force_delta > threshold)
    made, monitor = simulation(cluster())
    reporter = ForceDeltaReporter(monitor, [Guard(stop_above=threshold)])
    made.reporters.append(reporter)
    with pytest.raises(RunStoppedError, match=rf"^step {first}, {first} fs: U "):
        made.step(40)
    assert (made.currentStep, reporter.verdict.quantity) == (first, "force_delta")
