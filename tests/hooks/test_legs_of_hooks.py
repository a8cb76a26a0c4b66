"""Which legs hooks take part in: after a stop or an error, in another run, with other hooks."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import pickle
import signal

import pytest
from ase.io import read
from helpers import TwoForces, argon
from leg_hooks import Stop, Witness, verlet

from md_hooks import (
    Action,
    FlagStore,
    Guard,
    Hook,
    HookError,
    Progress,
    Recorder,
    RunInfo,
    RunStoppedError,
    Trajectory,
    attach,
    run,
)


def test_stopped_hooks_refuse_a_further_leg(tmp_path):
    atoms, seen = argon(), Witness()
    hooks = [Stop(3), seen, Recorder(tmp_path / "r.h5")]
    assert run(verlet(atoms), 10, hooks).reason == "stopped"
    for again in (run, attach):
        arguments = (5, hooks) if again is run else (hooks,)
        with pytest.raises(RunStoppedError, match=r"stopped the run \(.*after_stop=True") as raised:
            again(verlet(atoms), *arguments)
        assert raised.value.result.step == 3
    assert len(seen.infos) == len(seen.results) == 1
    assert atoms.calc.evaluations == 4
    result = run(verlet(atoms), 5, hooks, after_stop=True)
    assert (result.reason, result.step) == ("finished", 8)
    assert seen.steps == list(range(9))
    assert list(Trajectory(tmp_path / "r.h5").stops) == [3]
    assert run(verlet(atoms), 2, hooks).step == 10  # the stop is over


def test_raise_on_stop_ends_a_loop():
    atoms = argon()
    hooks = [Stop(7), Witness()]

    def schedule():
        for _ in range(5):
            run(verlet(atoms), 5, hooks, raise_on_stop=True)

    with pytest.raises(RunStoppedError, match="stopped") as raised:
        schedule()
    assert (raised.value.result.reason, raised.value.result.step) == ("stopped", 7)
    assert [result.reason for result in hooks[1].results] == ["finished", "stopped"]
    assert hooks[1].results[-1] is raised.value.result
    assert run(verlet(argon()), 5, [Witness()], raise_on_stop=True).reason == "finished"


def test_a_signal_ends_a_loop_of_legs(tmp_path):
    """One Ctrl-C ends the schedule, not its present leg alone; the same hooks can go on later."""
    atoms, seen = argon(), Witness()
    hooks = [lambda frame: os.kill(os.getpid(), signal.SIGINT) if frame.step == 7 else None, seen]
    with pytest.raises(RunStoppedError, match="interrupted") as raised:
        [run(verlet(atoms), 5, hooks, raise_on_stop=True) for _ in range(5)]
    assert (raised.value.result.reason, raised.value.result.step) == ("interrupted", 7)
    assert run(verlet(atoms), 5, hooks).step == 12
    assert seen.steps == list(range(13))


def test_an_error_does_not_end_the_legs(tmp_path):
    """The step that failed is made again from where the atoms are."""
    atoms = argon(broken={4: "raise"})
    hooks = [Recorder(tmp_path / "r.h5", mode="overwrite")]
    with pytest.raises(RuntimeError, match="the model broke"):
        run(verlet(atoms), 10, hooks)
    run(verlet(atoms), 5, hooks)
    assert list(Trajectory(tmp_path / "r.h5").series["step"]) == list(range(10))


def test_another_system_or_model_is_refused():
    guard = Guard(stop_above=9.0)
    run(verlet(argon()), 3, [guard])
    with pytest.raises(HookError, match=r"step 3 of a run of another system \(8 atoms, now 5"):
        run(verlet(argon_of(5)), 3, [guard])
    other = argon()
    other.calc.model_info = {"name": "another", "weights_hash": "1"}
    with pytest.raises(HookError, match="another model"):
        run(verlet(other), 3, [guard])
    run(verlet(argon_of(5)), 3, [guard], RunInfo(new_run=True))


def argon_of(atoms):
    few = argon()[:atoms]
    few.calc = TwoForces()
    return few


def test_a_new_recorder_begins_a_new_run(tmp_path):
    """Equilibration and production in two files: the guard keeps the threshold that it has chosen."""
    guard = Guard(stop_above="auto", burn_in=10, factor=1e6, flag_factor=1e5)
    atoms = argon()
    run(verlet(atoms), 20, [guard, Recorder(tmp_path / "equilibration.h5")])
    threshold = guard.stop_threshold
    run(verlet(atoms), 10, [guard, Recorder(tmp_path / "production.h5")])
    production = Trajectory(tmp_path / "production.h5")
    assert list(production.series["step"]) == list(range(11))
    assert production.thresholds["stop"] == guard.stop_threshold == threshold
    assert production.run_id != Trajectory(tmp_path / "equilibration.h5").run_id


def test_a_burn_in_that_was_not_over_begins_anew_in_a_new_run(tmp_path):
    guard = Guard(stop_above="auto", burn_in=30, factor=1e6, flag_factor=1e5)
    run(verlet(argon()), 20, [guard, Recorder(tmp_path / "a.h5")])
    assert run(verlet(argon()), 20, [guard, Recorder(tmp_path / "b.h5")]).reason == "error"
    assert guard.burning_in


def test_hooks_of_different_runs_are_refused():
    first, second = Witness(), Witness()
    run(verlet(argon()), 3, [first])
    run(verlet(argon()), 5, [second])
    with pytest.raises(HookError, match="different runs"):
        run(verlet(argon()), 3, [first, second])


def test_a_hook_that_joins_later():
    atoms, first, second = argon(), Witness(), Witness()
    run(verlet(atoms), 3, [first])
    run(verlet(atoms), 3, [first, second])
    assert second.steps == [4, 5, 6]


@pytest.mark.parametrize("fate", ["deleted", "replaced"])
def test_a_file_that_is_gone(fate, tmp_path):
    path, atoms = tmp_path / "r.h5", argon()
    hooks = [Recorder(path)]
    run(verlet(atoms), 3, hooks)
    path.unlink()
    if fate == "replaced":
        run(verlet(argon()), 3, [Recorder(path)])
        content = path.read_bytes()
    with pytest.raises(HookError, match=fate):
        run(verlet(atoms), 3, hooks)
    assert not path.exists() if fate == "deleted" else path.read_bytes() == content


def test_a_hook_has_no_attributes_but_its_own():
    """A state of all attributes stays JSON, and a used hook can be copied and sent; it is a new one then."""

    @dataclasses.dataclass
    class Counter(Hook):
        count: int = 0

        def observe(self, frame, verdict):
            self.count += 1

        def state_dict(self):
            return vars(self)

    counter, guard, atoms = Counter(), Guard(stop_above=9.0), argon()
    run(verlet(atoms), 3, [counter, guard])
    assert counter.state_dict() == {"count": 4}
    assert run(verlet(atoms), 2, [counter]).step == 5
    for copied in (copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        assert guard.ended is not None
        assert copied.ended is None
        assert copied.state_dict() == guard.state_dict()


def test_after_a_stop_the_patience_begins_anew():
    atoms = argon(error=5.0)
    guard = Guard(stop_above=1e-6, patience=(3, 3))
    assert run(verlet(atoms), 9, [guard]).step == 3
    result = run(verlet(atoms), 9, [guard], after_stop=True)
    assert (result.reason, result.step) == ("stopped", 6)


def test_after_a_rejected_burn_in_it_begins_anew():
    """U grows without bounds in the first; without the second force the next is as it should be."""
    atoms = argon(error=900.0)
    guard = Guard(stop_above="auto", burn_in=60, factor=1e6, flag_factor=1e5, temperature=30)
    assert run(verlet(atoms), 90, [guard]).reason == "stopped"
    assert guard.refused
    atoms = argon(error=0.05)
    result = run(verlet(atoms), 90, [guard], after_stop=True)
    assert result.reason == "finished"
    assert guard.refused is None
    assert guard.stop_threshold is not None


def test_stores_serve_runs_of_any_system(tmp_path):
    """They know of no run that they would continue, and keep the frames of each apart."""
    path = tmp_path / "flags.xyz"
    hooks = [lambda frame: Action.FLAG, FlagStore(path), Progress(io.StringIO())]
    run(verlet(argon()), 2, hooks)
    run(verlet(argon_of(5)), 1, hooks)
    flagged = read(path, index=":")
    assert [one.info["step"] for one in flagged] == [0, 1, 2, 0, 1]
    assert len({one.info["run_id"] for one in flagged}) == 2
