"""Legs: further runs with the same hooks continue one file, one count of steps and one time axis."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ase import units
from ase.io import read
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE
from helpers import argon, langevin
from leg_hooks import DT, Stop, Witness, verlet

from md_hooks import (
    Action,
    DriftGuard,
    FlagStore,
    Guard,
    HookChain,
    HookError,
    Progress,
    Recorder,
    RunInfo,
    Trajectory,
    attach,
    drift_of,
    load_checkpoint,
    restore,
    run,
)


def same_series(one, other):
    for name, values in one.series.items():
        np.testing.assert_array_equal(other.series[name], values, err_msg=name)


@pytest.mark.parametrize("mode", ["create", "overwrite", "append"])
def test_legs_equal_one_run(mode, tmp_path):
    """A new dynamics for each leg, in NVE, where it has nothing to remember."""
    rule = {"stop_above": "auto", "burn_in": 25, "factor": 1e6, "flag_factor": 1.05}
    whole = argon()
    run(verlet(whole), 60, [Guard(**rule), Recorder(tmp_path / "whole.h5", every=4)])
    parts, seen = argon(), Witness()
    hooks = [Guard(**rule), Recorder(tmp_path / "parts.h5", every=4, mode=mode), seen]
    for steps in (16, 4, 40):
        run(verlet(parts), steps, hooks)
    assert seen.steps == list(range(61))
    assert whole.calc.evaluations == parts.calc.evaluations == 61
    one, many = Trajectory(tmp_path / "whole.h5"), Trajectory(tmp_path / "parts.h5")
    assert len(one.flags)
    same_series(one, many)
    assert many.thresholds == one.thresholds
    np.testing.assert_array_equal(many.frame_steps, one.frame_steps)
    for a, b in zip(one.frames(), many.frames(), strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.velocities, b.velocities)
    np.testing.assert_array_equal(whole.positions, parts.positions)


def test_legs_of_one_dynamics_equal_one_run(tmp_path):
    run(langevin(argon()), 30, [Recorder(tmp_path / "whole.h5")])
    chain = HookChain([Recorder(tmp_path / "parts.h5", mode="overwrite")])
    dynamics = langevin(argon())
    for steps in (7, 0, 13, 10):
        result = run(dynamics, steps, chain)
    assert (result.step, result.time) == (30, 60.0)
    same_series(Trajectory(tmp_path / "whole.h5"), Trajectory(tmp_path / "parts.h5"))


def test_an_annealing_in_one_file(tmp_path):
    path, atoms, seen = tmp_path / "r.h5", argon(), Witness()
    hooks = [Recorder(path, every=5, mode="overwrite"), seen]
    for temperature, timestep in ((60, 2.0), (40, 1.0), (20, 4.0)):
        dynamics = langevin(atoms, temperature_K=temperature)
        dynamics.set_timestep(timestep * units.fs)
        result = run(dynamics, 20, hooks)
    assert (result.step, result.time) == (60, 140.0)
    trajectory = Trajectory(path)
    assert list(trajectory.series["step"]) == seen.steps == list(range(61))
    np.testing.assert_allclose(
        np.diff(trajectory.series["time"]), [2.0] * 20 + [1.0] * 20 + [4.0] * 20
    )
    legs = trajectory.legs
    assert [(leg.after_step, leg.last_step) for leg in legs] == [(-1, 20), (20, 40), (40, 60)]
    assert [leg.settings["temperature"] for leg in legs] == [60, 40, 20]
    assert [leg.settings["timestep"] for leg in legs] == [2.0, 1.0, 4.0]
    assert [leg.outcome["reason"] for leg in legs] == ["finished"] * 3
    assert [info.leg for info in seen.infos] == [1, 2, 3]
    assert [info.restart_step for info in seen.infos] == [None, 20, 40]
    assert len({info.run_id for info in seen.infos}) == 1
    assert [(result.reason, result.step) for result in seen.results] == [
        ("finished", 20), ("finished", 40), ("finished", 60),
    ]  # fmt: skip


def test_new_velocities_make_no_further_frame(tmp_path):
    atoms, seen = argon(), Witness()
    hooks = [Recorder(tmp_path / "r.h5"), seen]
    run(verlet(atoms), 5, hooks)
    thermalize_momenta(atoms, temperature_K=60, rng=np.random.default_rng(2))
    run(verlet(atoms), 5, hooks)
    assert seen.steps == list(range(11))
    assert atoms.calc.evaluations == 11
    assert not Trajectory(tmp_path / "r.h5").legs[1].seamless


@pytest.mark.parametrize("new", [True, False], ids=["another dynamics", "the same dynamics"])
def test_moved_atoms_are_a_step_of_their_own(new, tmp_path):
    atoms, seen = argon(), Witness()
    hooks = [Recorder(tmp_path / "r.h5", every=100), seen]
    dynamics = verlet(atoms)
    run(dynamics, 5, hooks)
    atoms.rattle(0.01, seed=3)
    moved = atoms.positions.copy()
    result = run(verlet(atoms) if new else dynamics, 5, hooks)
    assert seen.steps == list(range(12))
    assert (result.step, result.time) == (11, 20.0)
    np.testing.assert_array_equal(seen.frames[6].positions, moved)
    assert (seen.frames[6].time, seen.frames[7].time) == (10.0, 12.0)
    assert atoms.calc.evaluations == 12
    assert 6 in Trajectory(tmp_path / "r.h5").frame_steps


def test_moved_atoms_of_the_same_dynamics_can_stop_before_a_step():
    atoms, seen = argon(), Witness()
    dynamics = verlet(atoms)
    hooks = [seen, Stop(6)]
    run(dynamics, 5, hooks)
    atoms.rattle(0.01, seed=3)
    moved = atoms.positions.copy()
    assert run(dynamics, 5, hooks).reason == "stopped"
    np.testing.assert_array_equal(atoms.positions, moved)
    assert seen.steps == list(range(7))


def test_a_leg_in_another_ensemble(tmp_path):
    """Series that a leg lacks are empty there: a relaxation, Bussi's thermostat, then NVE."""
    path, atoms = tmp_path / "r.h5", argon()
    hooks = [Recorder(path, every=1), Progress(log := io.StringIO())]
    assert run(FIRE(atoms, logfile=None), 5, hooks, fmax=1e-9).reason == "out of steps"
    bussi = Bussi(atoms, DT, temperature_K=30, taut=50 * units.fs, rng=np.random.default_rng(1))
    run(bussi, 5, hooks)
    run(verlet(atoms), 5, hooks)
    series = Trajectory(path).series
    assert list(series["step"]) == list(range(16))
    assert list(np.isnan(series["conserved_energy"])) == [True] * 6 + [False] * 10
    np.testing.assert_allclose(series["time"], [0.0] * 6 + [2.0 * n for n in range(1, 11)])
    assert "step 5/5" in log.getvalue()
    assert "step 15/15" in log.getvalue()
    assert len(read(path, index=":")) == 16


def test_a_burn_in_over_several_legs():
    """Its thresholds are those of the burn-in as a whole, and it is not judged before."""
    rule = {"stop_above": "auto", "burn_in": 40, "factor": 1e6, "flag_factor": 1e5}
    whole, parts = Guard(**rule), Guard(**rule)
    run(verlet(argon()), 50, [whole])
    atoms = argon()
    reasons = [run(verlet(atoms), 10, [parts]).reason for _ in range(5)]
    assert reasons == ["error"] * 3 + ["finished"] * 2  # not guarded until the burn-in is over
    assert parts.policy() == whole.policy()
    assert parts.stop_threshold is not None


def test_patience_over_a_leg():
    atoms = argon(error=0.0)
    atoms.calc.error = 5.0
    guard = Guard(stop_above=1e-6, patience=(3, 3))
    assert run(verlet(atoms), 2, [guard]).reason == "finished"
    result = run(verlet(atoms), 5, [guard])
    assert (result.reason, result.step) == ("stopped", 3)


def test_a_restart_continues_the_last_leg(tmp_path):
    """Killed in the second leg: its dynamics, not that of the first, comes back."""
    paths = [tmp_path / name for name in ("whole.h5", "parts.h5")]
    for path in paths:
        atoms = argon()
        hooks = [Recorder(path)]
        run(langevin(atoms, temperature_K=60), 20, hooks)
        # the second is left at the begin of its second leg
        run(langevin(atoms, seed=2, temperature_K=10), 20 if path == paths[0] else 0, hooks)
    checkpoint = load_checkpoint(paths[1])
    assert checkpoint.step == 20
    again = argon()
    dynamics = langevin(again, seed=5, temperature_K=300)
    restore(dynamics, checkpoint)
    assert dynamics.temp == pytest.approx(10 * units.kB)
    chain = HookChain([Recorder(paths[1], mode="append")])
    chain.load_state_dict(checkpoint.hooks)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    run(dynamics, 10, chain, info)
    run(dynamics, 10, chain)
    one, many = (Trajectory(path) for path in paths)
    same_series(one, many)
    assert [(leg.after_step, leg.last_step) for leg in one.legs] == [(-1, 20), (20, 40)]
    assert [(leg.after_step, leg.last_step) for leg in many.legs] == [(-1, 20), (20, 30), (30, 40)]


def test_drift_is_that_of_a_leg(tmp_path):
    """New velocities between two legs in NVE are no drift; two legs without a change are one stretch."""
    path, atoms = tmp_path / "r.h5", argon()
    hooks = [Recorder(path), Witness(), DriftGuard(stop_above=20.0, window=40.0)]
    run(verlet(atoms), 60, hooks)
    alone = drift_of(Trajectory(path))
    thermalize_momenta(atoms, temperature_K=200, rng=np.random.default_rng(2))
    assert run(verlet(atoms), 30, hooks).reason == "finished"
    run(verlet(atoms), 30, hooks)
    trajectory = Trajectory(path)
    assert [leg.seamless for leg in trajectory.legs] == [False, False, True]
    assert drift_of(trajectory, leg=1) == alone
    assert drift_of(trajectory, leg=2) == drift_of(trajectory, leg=3) == drift_of(trajectory)
    energy = trajectory.series["conserved_energy"]
    assert energy[61] - energy[60] > 0.1
    assert abs(drift_of(trajectory).value) < 20.0


def test_drift_guard_over_legs_without_a_change():
    """Direct forces gain energy; ten legs of a tenth of the window find it as one run does."""
    ends = []
    for legs in (1, 10):
        atoms = argon()
        atoms.calc.error = 3.0
        guard = DriftGuard(stop_above=0.5, window=100.0)
        for _ in range(legs):
            result = run(verlet(atoms), 400 // legs, [guard])
            if result.reason == "stopped":
                break
        ends.append((result.reason, result.step, result.message))
    assert ends[0] == ends[1]
    assert ends[0][0] == "stopped"


def test_flags_of_all_legs(tmp_path):
    path, atoms = tmp_path / "flags.xyz", argon()
    hooks = [lambda frame: Action.FLAG if frame.step % 3 == 1 else None, FlagStore(path)]
    hooks.append(Recorder(tmp_path / "r.h5", mode="overwrite"))
    for _ in range(3):
        run(verlet(atoms), 5, hooks)
    flagged = read(path, index=":")
    assert [one.info["step"] for one in flagged] == [1, 4, 7, 10, 13]
    assert {one.info["run_id"] for one in flagged} == {Trajectory(tmp_path / "r.h5").run_id}


def test_functions_alone_know_no_legs():
    steps = []
    for _ in range(2):
        run(verlet(argon()), 2, [lambda frame: steps.append(frame.step)])
    assert steps == [0, 1, 2] * 2
    steps.clear()
    chain = HookChain([lambda frame: steps.append(frame.step)])
    atoms = argon()
    for _ in range(2):
        run(verlet(atoms), 2, chain)
    assert steps == [0, 1, 2, 3, 4]


def test_blocks_of_one_attachment():
    """``run(0)`` shows the first configuration, and the next block does not show it again."""
    atoms, seen = argon(), Witness()
    dynamics = verlet(atoms)
    with attach(dynamics, [seen]):
        for steps in (0, 0, 2, 3):
            dynamics.run(steps)
    assert seen.steps == list(range(6))
    assert len(seen.infos) == 1


def test_an_attachment_that_was_not_closed():
    atoms, seen = argon(), Witness()
    handle = attach(verlet(atoms), [seen])
    handle.dynamics.run(3)
    with pytest.raises(HookError, match="Witness is still in a run: close the handle"):
        attach(verlet(atoms), [seen])
    handle.close()
    run(verlet(atoms), 3, [seen])
    assert seen.steps == list(range(7))
