"""What survives kill -9, a full disk, and readers while the file grows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import argon, langevin

from md_hooks import (
    FlagStore,
    Guard,
    Recorder,
    RunInfo,
    Trajectory,
    load_checkpoint,
    run,
)

pytestmark = pytest.mark.slow

HANGS = 600  # s; no verdict, the end of a test that hangs

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from helpers import argon, langevin
from md_hooks import FlagStore, Guard, Recorder, RunInfo, recorder, restore, load_checkpoint, run
recorder.MAX_ROWS = 20  # written out often, whatever the clock says
dynamics, info = langevin(argon()), RunInfo()
if sys.argv[3] == "on":
    checkpoint = load_checkpoint(sys.argv[1])
    restore(dynamics, checkpoint)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
print("ready", flush=True)
hooks = [Guard(flag_above=0.0), Recorder(sys.argv[1], every=3, mode="append"),
         FlagStore(sys.argv[1] + ".xyz")]
run(dynamics, 100_000_000, hooks, info)  # it cannot be over before it is killed
"""


def start_writer(path, how="new"):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent), how],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def check(path):
    trajectory = Trajectory(path)
    steps = trajectory.series["step"]
    np.testing.assert_array_equal(steps, range(len(steps)))
    energies = trajectory.series["potential_energy"]
    for one in trajectory.frames():
        assert np.isfinite(one.positions).all()
        assert np.isfinite(one.velocities).all()
        assert energies[one.step] == one.energy
    return trajectory


def test_kill_minus_nine(tmp_path):
    import ase.io

    path = tmp_path / "r.h5"
    rng = np.random.default_rng()
    done = 0
    for attempt in range(4):
        process = start_writer(path, "on" if attempt else "new")
        deadline = time.monotonic() + HANGS
        while True:  # until it has written something new
            time.sleep(0.05)
            assert time.monotonic() < deadline
            if path.exists() and len(Trajectory(path).series["step"]) > done + 5:
                break
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        trajectory = check(path)
        done = load_checkpoint(path).step
        assert done in trajectory.frame_steps  # written after its frame, so it may lag behind
    # what was stitched together from four killed runs is the run that nobody killed
    whole = tmp_path / "whole.h5"
    run(langevin(argon()), done, [Guard(flag_above=0.0), Recorder(whole, every=3)])
    reference = Trajectory(whole)
    np.testing.assert_array_equal(
        trajectory.series["force_delta"][: done + 1], reference.series["force_delta"]
    )
    here, there = (list(t.frame_steps).index(done) for t in (trajectory, reference))
    np.testing.assert_array_equal(
        trajectory.frame(here).positions, reference.frame(there).positions
    )
    FlagStore(str(path) + ".xyz").open(RunInfo(restart_step=done, run_file=str(path)))
    flagged = [int(a.info["step"]) for a in ase.io.read(str(path) + ".xyz", ":")]
    assert flagged == [int(step) for step in trajectory.flags if step <= done]


def test_reading_while_it_grows(tmp_path):
    path = tmp_path / "r.h5"
    process = start_writer(path)
    try:
        deadline = time.monotonic() + HANGS
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        lengths = []
        while len(lengths) < 15 or lengths[-1] <= lengths[0]:
            lengths.append(len(check(path).series["step"]))
            time.sleep(0.03)
            assert time.monotonic() < deadline
        assert lengths == sorted(lengths)
    finally:
        process.kill()
        process.wait()


FULL = """
import sys, resource
sys.path.insert(0, sys.argv[2])
from helpers import argon, langevin
from md_hooks import HookError, Recorder, recorder, run
recorder.MAX_ROWS, recorder.WRITE_OUT_SECONDS = 20, 1e9
if len(sys.argv) > 3:
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    run(langevin(argon()), 100_000, [Recorder(sys.argv[1], every=1)])
except HookError as error:
    sys.exit("free some space" not in str(error))
sys.exit(2)
"""


def run_until_full(path, *limit):
    return subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent), *limit],
        cwd=Path(__file__).parents[2],
        timeout=HANGS,
    ).returncode


def test_file_size_limit(tmp_path):
    path = tmp_path / "r.h5"
    assert run_until_full(path, str(1_200_000)) == 0
    trajectory = check(path)
    assert len(trajectory) > 50
    assert load_checkpoint(path).step == trajectory.frame_steps[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        path = disk / "r.h5"
        assert run_until_full(path) == 0
        assert len(check(path)) > 50
    finally:
        subprocess.run(["umount", str(disk)], check=True)
