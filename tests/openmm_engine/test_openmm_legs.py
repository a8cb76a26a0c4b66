"""Further runs and reporters with the same hooks continue one run: its file, count of steps and times."""

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import torch
from simulations import MorsePairs, cluster, crystal, loaded, simulation, state_of

from forcedelta.openmm import ForceDeltaReporter, run
from md_hooks import Action, Guard, Hook, Recorder, RunStoppedError, Trajectory, load_checkpoint


class Seen(Hook):
    """Keeps the frames of all legs."""

    def __init__(self):
        self.frames = []

    def observe(self, frame, verdict):
        self.frames.append(frame)

    @property
    def steps(self):
        return [frame.step for frame in self.frames]


def by_run(made, monitor, steps, hooks, **options):
    return run(made, steps, hooks, **options)


def by_reporter(made, monitor, steps, hooks, **options):
    with ForceDeltaReporter(monitor, hooks, **options) as reporter:
        made.reporters.append(reporter)
        made.step(steps)
    return reporter.result


@pytest.mark.parametrize(
    "settings", [{}, {"every": 4}, {"every": "adaptive"}, {"forces": "conservative"}], ids=str
)
@pytest.mark.parametrize("ways", [(by_run, by_run), (by_reporter, by_run), (by_run, by_reporter)])
def test_legs_equal_one_run(ways, settings, tmp_path, monkeypatch):
    backwards = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: backwards.append(1) or grad(*a, **k)
    )
    files, costs = [], []
    for name, legs in (("whole", (30,)), ("legs", (11, 7, 12))):
        module = MorsePairs()
        made, monitor = simulation(crystal(), model=loaded(module), barostat=True, **settings)
        hooks = [Recorder(tmp_path / f"{name}.h5", every=5)]
        backwards.clear()
        before = module.calls
        for index, steps in enumerate(legs):
            result = ways[index % 2](made, monitor, steps, hooks)
        assert (result.reason, result.step, result.time) == ("finished", 30, 30.0)
        costs.append((module.calls - before, len(backwards)))
        files.append(Trajectory(tmp_path / f"{name}.h5"))
    assert costs[0] == costs[1]
    whole, legs = files
    assert list(legs.series["step"]) == list(range(31))
    for name, series in whole.series.items():
        np.testing.assert_array_equal(legs.series[name], series)
    assert [leg.last_step for leg in legs.legs] == [11, 18, 30]
    assert [leg.seamless for leg in legs.legs] == [False, True, True]


def test_one_reporter_appended_again():
    made, monitor = simulation(cluster())
    seen = Seen()
    reporter = ForceDeltaReporter(monitor, [seen])
    for _ in range(3):
        made.reporters.append(reporter)
        with reporter:
            made.step(4)
    assert seen.steps == list(range(13))
    assert reporter.result.step == 12


def test_steps_in_between_are_counted():
    """They are of the same path, only unseen; with the step count set back, nobody could know."""
    made, monitor = simulation(cluster())
    seen = Seen()
    by_run(made, monitor, 3, [seen])
    made.step(4)
    by_run(made, monitor, 2, [seen])
    assert seen.steps == [0, 1, 2, 3, 7, 8, 9]
    assert [frame.time for frame in seen.frames] == seen.steps
    made.currentStep = 0
    made.context.setTime(0)
    by_reporter(made, monitor, 2, [seen])
    assert seen.steps == [0, 1, 2, 3, 7, 8, 9, 10, 11]
    assert [frame.time for frame in seen.frames] == seen.steps


def test_moved_atoms_are_a_step_of_their_own(tmp_path):
    made, monitor = simulation(cluster())
    seen = Seen()
    hooks = [seen, Recorder(tmp_path / "run.h5")]
    by_run(made, monitor, 3, hooks)
    made.minimizeEnergy(maxIterations=5)
    by_run(made, monitor, 2, hooks)
    assert seen.steps == [0, 1, 2, 3, 4, 5, 6]
    assert [frame.time for frame in seen.frames] == [0, 1, 2, 3, 3, 4, 5]
    assert seen.frames[4].energy < seen.frames[3].energy
    assert not Trajectory(tmp_path / "run.h5").legs[1].seamless


@pytest.mark.parametrize("way", [by_run, by_reporter])
def test_another_simulation_goes_on(way, tmp_path):
    """An annealing schedule with a Simulation for each temperature; and a restart in its second leg."""
    path = tmp_path / "run.h5"
    seen = Seen()
    hooks = [seen, Guard(stop_above=100.0), Recorder(path)]

    def leg(module=None):
        return simulation(crystal(), model=loaded(module), every=4)

    first, monitor = leg()
    way(first, monitor, 10, hooks)
    second, monitor = leg()
    second.context.setPositions(first.context.getState(positions=True).getPositions())
    second.context.setVelocitiesToTemperature(100, 3)
    way(second, monitor, 10, hooks)
    assert seen.steps == list(range(21))
    assert [frame.time for frame in seen.frames] == seen.steps
    with_u = [frame.step for frame in seen.frames if frame.force_delta is not None]
    assert with_u == [0, 4, 8, 12, 16, 20]
    assert second.currentStep == 10
    second.step(5)
    third, monitor = leg()
    run(third, 5, [Recorder(path, mode="append")], restart=path)
    for one, other in zip(state_of(third), state_of(second), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(Trajectory(path).series["step"]) == list(range(26))


@pytest.mark.parametrize("way", [by_run, by_reporter])
def test_hooks_that_stopped_go_on_only_if_told(way, tmp_path):
    path = tmp_path / "run.h5"

    class Stop(Hook):
        def __call__(self, frame):
            return Action.STOP if frame.step == 3 else None

    made, monitor = simulation(cluster())
    hooks = [Stop(), Recorder(path)]
    if way is by_reporter:
        with pytest.raises(RunStoppedError):
            way(made, monitor, 9, hooks)
    else:
        assert way(made, monitor, 9, hooks).reason == "stopped"
    with pytest.raises(RunStoppedError, match="pass new hooks for a new run") as caught:
        way(made, monitor, 9, hooks)
    assert caught.value.result.step == made.currentStep == load_checkpoint(path).step == 3
    assert way(made, monitor, 6, hooks, after_stop=True).step == 9
    assert list(Trajectory(path).series["step"]) == list(range(10))


def test_a_stop_ends_the_loop_of_its_caller():
    made, _ = simulation(cluster())

    def stop(frame):
        return Action.STOP if frame.step == 7 else None

    assert run(made, 5, [stop], raise_on_stop=True).reason == "finished"
    with pytest.raises(RunStoppedError, match=r"the run was stopped .*stop") as caught:
        run(made, 5, [stop], raise_on_stop=True)
    assert caught.value.result.step == made.currentStep == 7
