"""The recorded file: what is in it, what it refuses, and what survives."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from helpers import DONE, argon, frame, frames, langevin, record

from md_hooks import (
    Action,
    Guard,
    HookChain,
    HookError,
    Recorder,
    RunInfo,
    Trajectory,
    load_checkpoint,
    recorder,
    run,
)
from md_hooks.h5md import checkpoint as ckpt


def test_scalars_each_step_frames_each_n_and_when_flagged(tmp_path):
    path = tmp_path / "r.h5"
    values = [0.1] * 30
    values[13], values[14], values[27] = 0.3, 0.25, 0.9
    record(
        path,
        [frame(step=i, u=u) for i, u in enumerate(values)],
        every=10,
        hooks=[Guard(flag_above=0.2, stop_above=0.5)],
    )
    trajectory = Trajectory(path)
    np.testing.assert_array_equal(trajectory.series["force_delta"], values)
    np.testing.assert_array_equal(trajectory.series["step"], range(30))
    np.testing.assert_array_equal(trajectory.series["worst_atom"], 2)
    np.testing.assert_allclose(trajectory.series["force_delta_max"], 2 * np.array(values))
    assert list(trajectory.frame_steps) == [0, 10, 13, 14, 20, 27, 29]  # 29: the last one
    assert list(trajectory.flags) == [13, 14]
    assert list(trajectory.stops) == [27]
    assert trajectory.thresholds == {"on": "force_delta", "stop": 0.5, "flag": 0.2}


def test_resolved_thresholds_reach_the_file_while_it_grows(tmp_path):
    chain = HookChain([Guard(stop_above="auto", burn_in=3), Recorder(tmp_path / "r.h5")])
    chain.open(RunInfo())
    chain.dispatch(frame(step=0))
    chain.flush()
    assert Trajectory(tmp_path / "r.h5").thresholds["stop"] is None
    for step in range(1, 5):
        chain.dispatch(frame(step=step))
    chain.flush()
    trajectory = Trajectory(tmp_path / "r.h5")
    assert trajectory.thresholds == {
        "on": "force_delta", "stop": pytest.approx(0.2), "flag": pytest.approx(0.15),
    }  # fmt: skip
    assert trajectory.policies[0]["stop_above"] == "auto"
    chain.close(DONE)


def test_a_stopping_frame_is_on_disk_before_the_run_ends(tmp_path):
    path = tmp_path / "r.h5"
    chain = HookChain([Guard(stop_above=0.5), Recorder(path, every=1000)])
    chain.open(RunInfo())
    chain.dispatch(frame(step=0))
    chain.dispatch(frame(step=1, u=0.6))
    trajectory = Trajectory(path)  # still open for writing
    assert list(trajectory.frame_steps) == [0, 1]
    assert list(trajectory.stops) == [1]
    chain.close(DONE)


def test_what_the_run_was_and_how_it_ended(tmp_path):
    path = tmp_path / "r.h5"
    atoms = argon()
    info = RunInfo(command="a b", seed=7, settings={"temperature": 30}, planned_steps=5)
    run(langevin(atoms), 5, [Guard(stop_above=3.0), Recorder(path)], info)
    trajectory = Trajectory(path)
    data = trajectory.metadata
    assert data["model"]["name"] == "two-forces"
    assert data["model"]["weights_hash"] == "123456"
    assert (data["command"], data["seed"]) == ("a b", 7)
    assert data["settings"] == {
        "engine": "ase",
        "dynamics": "Langevin",
        "timestep": 2.0,
        "temperature": 30,
    }
    assert {"ase", "numpy", "h5py", "python"} <= set(data["versions"])
    outcome = trajectory.outcome
    assert (outcome["reason"], outcome["step"], outcome["evaluations"]) == ("finished", 5, 6)
    assert trajectory.policies[0]["stop_above"] == 3.0


def test_existing_output_is_refused(tmp_path):
    path = tmp_path / "run.h5"
    record(path, frames(0, 1))
    before = path.read_bytes()
    with pytest.raises(HookError, match=r"run\.h5 exists: pass append or overwrite"):
        record(path, frames(0))
    assert path.read_bytes() == before
    record(path, frames(0, 1, 2), mode="overwrite")
    assert len(Trajectory(path)) == 3
    record(tmp_path / "new.h5", frames(0), mode="append")
    assert len(Trajectory(tmp_path / "new.h5")) == 1


def test_append_neither_repeats_nor_loses_a_step(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(*range(25)), every=10)
    record(path, frames(*range(25, 41)), mode="append", every=10)
    trajectory = Trajectory(path)
    np.testing.assert_array_equal(trajectory.series["step"], range(41))
    assert list(trajectory.frame_steps) == [0, 10, 20, 24, 30, 40]
    assert len(trajectory.runs) == 2


def test_append_after_a_restart_drops_what_lies_ahead(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(*range(25), u=0.1), every=10)
    info = RunInfo(restart_step=20)
    record(path, frames(*range(21, 41), u=0.2), mode="append", every=10, info=info)
    trajectory = Trajectory(path)
    np.testing.assert_array_equal(trajectory.series["step"], range(41))
    np.testing.assert_array_equal(trajectory.series["force_delta"], [0.1] * 21 + [0.2] * 20)
    assert list(trajectory.frame_steps) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("steps", "changes", "info", "match"),
    [
        ((5, 6), {}, RunInfo(), "steps must increase"),
        ((0,), {}, RunInfo(), "steps must increase"),
        ((30,), {}, RunInfo(restart_step=29), "before the restart"),
        ((11,), {"numbers": np.array([6, 1, 8, 8])}, RunInfo(), "another system"),
        ((11,), {}, RunInfo(numbers=np.array([6, 1])), "another system"),
        ((11,), {}, RunInfo(model={"name": "b", "weights_hash": "1"}), "another model"),
        ((11,), {}, RunInfo(model={"name": "a", "weights_hash": "2"}), "another model"),
    ],
)
def test_append_refuses_what_does_not_continue(tmp_path, steps, changes, info, match):
    path = tmp_path / "r.h5"
    first = RunInfo(model={"name": "a", "weights_hash": "1"})
    record(path, frames(*range(11)), info=first)
    with pytest.raises(HookError, match=match):
        record(path, frames(*steps, **changes), mode="append", info=info)
    trajectory = Trajectory(path)
    np.testing.assert_array_equal(trajectory.series["step"], range(11))
    assert len(trajectory) == 11


def test_steps_that_go_backwards_within_a_run(tmp_path):
    with pytest.raises(HookError, match="step 3 after step 4"):
        record(tmp_path / "r.h5", frames(3, 4, 3))
    assert list(Trajectory(tmp_path / "r.h5").series["step"]) == [3, 4]


def test_files_of_others_are_refused(tmp_path):
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(HookError, match="pass overwrite"):
            record(path, frames(0), mode="append")
        assert path.read_bytes() == before
        with pytest.raises(HookError):
            Trajectory(path)
    with pytest.raises(HookError, match="does not exist"):
        Trajectory(tmp_path / "none.h5")
    with pytest.raises(HookError, match="make the directory"):
        record(tmp_path / "none" / "r.h5", frames(0))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_off_file_is_a_clear_error(tmp_path, share):
    path = tmp_path / "r.h5"
    record(path, frames(*range(200)))
    size = path.stat().st_size
    os.truncate(path, int(size * share))
    with pytest.raises(HookError, match="cut off"):
        Trajectory(path)


def test_two_writers_at_once_are_refused(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(0))
    code = (
        "import sys; from md_hooks import Recorder, RunInfo, HookError\n"
        "try: Recorder(sys.argv[1], mode='append').open(RunInfo())\n"
        "except HookError as error: sys.exit('in use' not in str(error))\n"
        "sys.exit(2)"
    )
    chain = HookChain([Recorder(path, mode="append")])
    chain.open(RunInfo())
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0
    chain.close(DONE)


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_nonsense_every(every):
    with pytest.raises(HookError, match="whole number"):
        Recorder("r.h5", every=every)


def test_extra_scalars_and_forces_that_come_late(tmp_path):
    path = tmp_path / "r.h5"
    forces = np.ones((4, 3))
    record(path, frames(0, 1))
    late = [
        replace(f, direct_forces=forces, extra={"work": 2.0}, stress=np.arange(6.0))
        for f in frames(2, 3)
    ]
    record(path, late, mode="append")
    record(path, frames(4), mode="append")
    trajectory = Trajectory(path)
    np.testing.assert_array_equal(trajectory.series["work"], [np.nan, np.nan, 2.0, 2.0, np.nan])
    assert trajectory.frame(0).direct_forces is None
    np.testing.assert_array_equal(trajectory.frame(2).direct_forces, forces)
    np.testing.assert_array_equal(trajectory.frame(3).stress, np.arange(6.0))
    assert trajectory.frame(4).stress is None
    found = [dict(one.extra) for one in trajectory.frames()]
    assert found == [{}, {}, {"work": 2.0}, {"work": 2.0}, {}]


def test_an_unphysical_frame_is_recorded(tmp_path):
    path = tmp_path / "r.h5"
    broken = np.full((4, 3), 1e300)
    broken[0, 0] = np.nan
    record(path, [frame(step=0, forces=broken, energy=np.inf, u=np.nan)], hooks=[Guard()])
    trajectory = Trajectory(path)
    assert np.isnan(trajectory.frame(0).forces[0, 0])
    assert trajectory.series["potential_energy"][0] == np.inf


def test_trajectory_refresh_reads_on(tmp_path):
    path = tmp_path / "r.h5"
    chain = HookChain([Recorder(path, every=2)])
    chain.open(RunInfo())
    trajectory = Trajectory(path)
    assert len(trajectory) == 0
    assert len(trajectory.flags) == 0
    for step in range(10):
        chain.dispatch(frame(step=step))
    chain.flush()
    assert trajectory.refresh() == 10
    assert trajectory.refresh() == 0
    for step in range(10, 13):
        chain.dispatch(frame(step=step))
    chain.close(DONE)
    assert trajectory.refresh() == 3
    np.testing.assert_array_equal(trajectory.series["step"], range(13))
    assert list(trajectory.frame_steps) == [0, 2, 4, 6, 8, 10, 12]
    assert [f.step for f in trajectory.frames(range(6, 0, -3))] == [12, 6]
    record(path, frames(9, 10, u=0.7), mode="append", info=RunInfo(restart_step=8))
    trajectory.refresh()
    np.testing.assert_array_equal(trajectory.series["step"], range(11))
    assert trajectory.series["force_delta"][-1] == 0.7


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_torn_checkpoint_is_never_the_only_one(tmp_path):
    path = tmp_path / "r.h5"
    state = {}
    info = RunInfo(checkpoint=lambda: dict(state))
    chain = HookChain([Recorder(path, every=1)])
    chain.open(info)
    for step in range(3):
        state.update(text="x" * 10**step, numbers=np.arange(step + 1), big=2**100)
        chain.dispatch(frame(step=step))
        chain.flush()
    chain.close(DONE)
    whole = load_checkpoint(path)
    assert whole.step == 2
    assert whole.state["big"] == 2**100
    np.testing.assert_array_equal(whole.state["numbers"], [0, 1, 2])
    with h5py.File(path, "r+") as file:
        for slot in file["checkpoint"].values():
            found = ckpt.decode(slot[()].tobytes())
            if found[1].step == 2:
                slot[40:50] = 255
    assert load_checkpoint(path).step == 1


def test_checkpoint_refuses_what_it_cannot_store(tmp_path):
    info = RunInfo(checkpoint=lambda: {"x": object()})
    with pytest.raises(HookError, match="cannot be stored"):
        record(tmp_path / "r.h5", frames(0), info=info)


def test_no_checkpoint(tmp_path):
    record(tmp_path / "r.h5", frames(0))
    with pytest.raises(HookError, match="holds no checkpoint"):
        load_checkpoint(tmp_path / "r.h5")


# --- cost ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_steps(tmp_path):
    path = tmp_path / "r.h5"
    chain = HookChain([Guard(stop_above=1.0, patience=(2, 50)), Recorder(path, every=100)])
    chain.open(RunInfo())
    one = frame()
    sizes = []
    for step in range(100_000):
        chain.dispatch(replace(one, step=step))
        if step in (20_000, 99_999):
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    chain.close(DONE)
    assert sizes[1] - sizes[0] < 2_000  # kB
    assert len(Trajectory(path).series["step"]) == 100_000


def test_frames_are_not_hoarded(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "WRITE_OUT_SECONDS", 1e9)
    hook = Recorder(tmp_path / "r.h5", every=1)
    chain = HookChain([hook])
    chain.open(RunInfo())
    for step in range(300):
        chain.dispatch(frame(step=step))
        assert len(hook._frames) < recorder.MAX_FRAMES
    chain.close(DONE)


def test_actions_are_stored_as_they_were(tmp_path):
    path = tmp_path / "r.h5"
    wishes = [Action.CONTINUE, Action.FLAG, Action.CONTINUE, Action.STOP]
    record(path, frames(0, 1, 2, 3), every=10, hooks=[lambda f: wishes[f.step]])
    assert list(Trajectory(path).series["action"]) == [0, 1, 0, 2]
