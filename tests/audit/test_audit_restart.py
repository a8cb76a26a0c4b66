"""Kill -9, Ctrl-C, a trajectory that grows: nothing is audited twice, nothing is lost."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from shaken import moving

from forcedelta.audit import audit
from md_hooks import HookError, Trajectory, progress, recorder
from md_hooks.h5md import storage

MANY, GOLD = 3600, 3  # frames, and those with an element that the model does not know


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """A long trajectory with a gap, broken frames and another molecule here and there."""
    path = tmp_path_factory.mktemp("long") / "long.traj"
    images = moving(40)
    for atoms in images:  # cold, where a network that was never trained may have the U that it has
        atoms.set_momenta(0.5 * atoms.get_momenta())
    images[7].positions[0] = np.nan
    water = ase.build.molecule("H2O")
    gold = ase.Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])
    with ase.io.Trajectory(path, "w") as out:
        for k in range(MANY):
            atoms = images[k % 40].copy()
            if k % 1000 == 500:
                atoms = water
            if k % 1250 == 1000:
                atoms = gold.copy()
            atoms.info["step"] = 5 * k + (1000 if k > 2000 else 0)
            out.write(atoms)
    return path


def rows(path: str) -> int:
    try:
        return len(Trajectory(path).series["step"])
    except HookError:  # not there yet
        return 0


def same(one: str, other: str, rtol: float = 0.0) -> None:
    a, b = Trajectory(one), Trajectory(other)
    for name in ("step", "source_frame", "worst_atom", "action", "atoms", "time"):
        np.testing.assert_array_equal(a.series[name], b.series[name], err_msg=name)
    for name in ("force_delta", "potential_energy"):
        np.testing.assert_allclose(a.series[name], b.series[name], rtol=rtol, atol=0, err_msg=name)
    assert a.remarks() == b.remarks()
    assert a.thresholds == b.thresholds


# Ends itself by kill -9 as it writes to a file for the n-th time, in the middle of writing: at the
# same frames on any machine, as rows are written out by their number and not by the clock.
KILLED = """
import os, signal, sys
from md_hooks import recorder
recorder.MAX_ROWS, recorder.WRITE_OUT_SECONDS = 100, 1e9
left, pwrite = int(sys.argv.pop(1)), os.pwrite
def write_or_die(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(*arguments)
os.pwrite = write_or_die
from forcedelta.cli import main
main()
"""

# Presses Ctrl-C at the n-th frame.
INTERRUPTED = """
import os, signal, sys
from md_hooks import Recorder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
left, observe = int(sys.argv.pop(1)), Recorder.observe
def observe_and_interrupt(*arguments):
    global left
    observe(*arguments)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGINT)
Recorder.observe = observe_and_interrupt
from forcedelta.cli import main
main()
"""


def program(code: str, number: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(number), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_kill_minus_nine(forcedelta, files, long, here):
    settings = [
        long, "--model", files / "wet.safetensors", "--flag-above", "auto", "--burn-in", 2500,
        "--flag-factor", 0.9, "--flags", "flags.xyz", "--record-every", 10,
    ]  # fmt: skip
    rng = np.random.default_rng()
    done = 0
    for again in ([], ["--restart"]):
        killed = program(KILLED, rng.integers(400, 900), "audit", *settings, *again)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert rows("audit.h5") > done  # what was written stays, and the next one goes on there
        done = rows("audit.h5")
        assert Trajectory("audit.h5").outcome["reason"] == "running"
    code, out, err = forcedelta("audit", "--restart")  # the rest is taken from the file
    assert code == 3, err
    assert f"{MANY - GOLD} frames audited" in out
    assert forcedelta("audit", *settings[:-4], "--record-every", 10, "--out", "straight.h5")[0] == 3
    same("audit.h5", "straight.h5")
    flagged = [int(atoms.info["step"]) for atoms in ase.io.read("flags.xyz", ":")]
    assert flagged == Trajectory("audit.h5").flags.tolist()
    assert len(flagged) > 100


@pytest.mark.slow
def test_interrupted_from_the_keyboard(forcedelta, files, long, here):
    ended = program(INTERRUPTED, 500, "audit", long, "--model", files / "wet.safetensors")
    assert ended.returncode == 130
    assert "interrupted: " in ended.stdout
    assert "Traceback" not in ended.stderr
    done = rows("audit.h5")
    assert Trajectory("audit.h5").outcome["reason"] == "interrupted"
    assert 500 <= done < MANY - GOLD
    code, _, _ = forcedelta("audit", "--restart", "--stop", done + 100)
    assert code == 3
    assert done < rows("audit.h5") <= done + 100


def test_progress_in_lines_with_the_time_left(forcedelta, files, long, here, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)  # a line for each frame
    assert forcedelta("audit", long, "--model", files / "wet.safetensors", "--stop", 400)[0] == 3
    _, _, err = forcedelta("audit", "--restart", "--stop", 800)
    lines = err.splitlines()
    assert lines[0].startswith("frame 401/800  step 2000  ")
    assert re.search(r"  (\d+:)?\d\d:\d\d left$", lines[-3])
    assert lines[-1].startswith("frame 800/800  step 3995  ")
    counts = [int(re.match(r"frame (\d+)/800", line)[1]) for line in lines]
    assert counts == [*range(401, 801), 800]


def test_a_trajectory_that_grows(files, here):
    wet = files / "wet.safetensors"
    ase.io.write("move.traj", moving()[:10])
    audit("move.traj", wet, "a.h5")
    assert rows("a.h5") == 10
    with ase.io.Trajectory("move.traj", "a") as out:
        for atoms in moving()[10:]:
            out.write(atoms)
    [result] = audit("move.traj", wet, "a.h5", mode="restart")
    assert result.audited == len(moving()) == rows("a.h5")
    audit("move.traj", wet, "b.h5")
    same("a.h5", "b.h5", rtol=1e-6)  # what was the last batch has grown, too
    before = Path("a.h5").stat().st_size
    [result] = audit("move.traj", wet, "a.h5", mode="restart")
    assert result.audited == len(moving()) == rows("a.h5")
    assert Path("a.h5").stat().st_size < before + 20_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--every", 2], "every 2 differs from the audit in audit.h5, which has 1"),
        (["--flag-above", "0.5"], "flag-above 0.5 differs"),
        (["--dtype", "float64"], "dtype float64 differs"),
        (["--model", "acac"], "model acac differs"),
    ],
)
def test_other_settings_are_refused(forcedelta, files, here, change, said):
    wet = files / "wet.safetensors"
    assert forcedelta("audit", files / "move.xyz", "--model", wet, "--stop", 9)[0] == 0
    code, _, err = forcedelta("audit", files / "move.xyz", "--restart", *change)
    assert code == 2
    assert said in err
    assert rows("audit.h5") == 9


def test_another_trajectory_or_a_run_is_refused(forcedelta, files, here):
    wet = files / "wet.safetensors"
    ase.io.write("move.traj", moving())
    assert forcedelta("audit", "move.traj", "--model", wet, "--stop", 9)[0] == 0
    ase.io.write("move.traj", moving(seed=1))
    code, _, err = forcedelta("audit", "--restart")
    assert code == 2
    assert "differs from the last audited frame" in err
    ase.io.write("start.xyz", moving(1), columns=["symbols", "positions"])
    assert forcedelta("run", "start.xyz", "--model", wet, "--steps", 3)[0] == 0
    code, _, err = forcedelta("audit", "move.traj", "--model", wet, "--out", "run.h5", "--restart")
    assert code == 2
    assert "the file of a run, not of an audit" in err


def test_a_disk_that_is_full(files, here, monkeypatch):
    """What was written before can be read, and the audit goes on once there is space."""
    wet = files / "wet.safetensors"
    monkeypatch.setattr(recorder, "MAX_FRAMES", 4)
    write, append = storage._write, recorder.H5MDFile.append_series
    write_outs = []

    def full(*arguments):
        if len(write_outs) == 4:
            write_outs.append(1)  # then there is space again
            raise OSError(28, "No space left on device")
        write(*arguments)

    def counted(*arguments):
        write_outs.append(1)
        append(*arguments)

    monkeypatch.setattr(storage, "_write", full)
    monkeypatch.setattr(recorder.H5MDFile, "append_series", counted)
    with pytest.raises(HookError, match="free some space"):
        audit(files / "move.xyz", wet, "a.h5")
    assert 8 <= rows("a.h5") < 24
    audit(files / "move.xyz", wet, "a.h5", mode="restart")
    audit(files / "move.xyz", wet, "b.h5")
    same("a.h5", "b.h5")
