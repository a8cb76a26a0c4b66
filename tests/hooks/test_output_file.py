"""The place of a run's file: who may write to it, when it is replaced, and when it goes away."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import DONE, argon, frame, frames, langevin, record

from md_hooks import (
    FlagStore,
    Guard,
    HookChain,
    HookError,
    Recorder,
    RunInfo,
    RunResult,
    Trajectory,
    load_checkpoint,
    locking,
    restore,
    run,
)
from md_hooks.recalculation import Journal

FAILED = RunResult("error", -1, 0.0)


def opened(path, mode="create", **settings):
    chain = HookChain([Recorder(path, every=1, mode=mode, **settings)])
    chain.open(RunInfo())
    return chain


def python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


# --- overwriting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", [False, True])
def test_the_old_file_is_there_until_the_new_one_holds_frames(tmp_path, replay):
    path = tmp_path / "r.h5"
    record(path, frames(0, 1, 2))
    before = path.read_bytes()
    chain = opened(path, "overwrite", replay=replay)
    assert path.read_bytes() == before
    chain.dispatch(frame(step=7))
    assert path.read_bytes() == before
    chain.flush()
    assert list(Trajectory(path).frame_steps) == [7]
    chain.dispatch(frame(step=8))
    chain.close(DONE)
    assert list(Trajectory(path).frame_steps) == [7, 8]
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]


def test_a_run_that_fails_before_its_first_frame_replaces_nothing(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(0, 1, 2))
    before = path.read_bytes()
    opened(path, "overwrite").close(FAILED)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]


def test_any_file_can_be_replaced_and_keeps_its_permissions(tmp_path):
    path, link = tmp_path / "r.h5", tmp_path / "link.h5"
    path.write_text("something else")
    path.chmod(0o640)
    link.symlink_to(path)
    record(link, frames(0), mode="overwrite")
    assert link.is_symlink()
    assert len(Trajectory(path)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_somebody_reads_can_be_replaced(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(0, 1, 2))
    code = (
        "import h5py, sys\n"
        "file = h5py.File(sys.argv[1])\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
        "print(file['per_step/step'][:].tolist())"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert reader.stdout.readline() == "open\n"
    record(path, frames(3, 4), mode="append")
    record(path, frames(7), mode="overwrite")
    assert list(Trajectory(path).frame_steps) == [7]
    assert reader.communicate("")[0] == "[0, 1, 2, 3, 4]\n"  # the file that it opened


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(0))
    left = tmp_path / ".r.h5.0123abcd.part"
    left.write_text("left")
    other = tmp_path / ".r.h5.x.part"
    other.write_text("of somebody else")
    chain = opened(path, "overwrite")
    assert not left.exists()
    assert len(list(tmp_path.glob(".r.h5.????????.part"))) == 1
    with pytest.raises(HookError, match="in use"):
        opened(path, "overwrite")
    chain.dispatch(frame())
    chain.close(DONE)
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "r.h5"]


def test_a_file_that_came_in_between_is_left_alone(tmp_path):
    path = tmp_path / "r.h5"
    record(path, frames(0))
    chain = opened(path, "overwrite")
    new = tmp_path / "new"
    new.write_text("precious")
    os.replace(new, path)
    chain.dispatch(frame())
    with pytest.raises(HookError, match="was replaced by another program"):
        chain.close(DONE)
    assert path.read_text() == "precious"


def test_the_longest_name(tmp_path):
    path = tmp_path / ("é" * 126 + ".h5")
    record(path, frames(0))
    record(path, frames(0, 1), mode="overwrite")
    assert len(Trajectory(path)) == 2


# --- two at once ---------------------------------------------------------------------------------

SECOND = """
import sys
from md_hooks import HookError, Recorder, RunInfo
try:
    Recorder(sys.argv[1], mode=sys.argv[2]).open(RunInfo())
except HookError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"HDF5_USE_FILE_LOCKING": "FALSE"}])
@pytest.mark.parametrize("first", ["create", "append", "overwrite"])
def test_a_second_writer_is_refused(tmp_path, first, environment):
    path = tmp_path / "r.h5"
    if first != "create":
        record(path, frames(0))
    chain = opened(path, first)
    chain.dispatch(frame(step=5))
    for state in ("opened", "written"):
        if state == "written":
            chain.flush()
        for mode in ("append", "overwrite"):
            answer = python(SECOND, path, mode, **environment).stdout
            assert f"{path} is in use: another run writes to it" in answer
        assert "exists" in python(SECOND, path, "create", **environment).stdout
    os.link(path, tmp_path / "other_name.h5")
    assert "in use" in python(SECOND, tmp_path / "other_name.h5", "append", **environment).stdout
    chain.close(DONE)
    assert Trajectory(path).series["step"][-1] == 5


def test_hdf5s_own_lock_counts(tmp_path):
    """Older versions of this package and other programs take it to write."""
    path = tmp_path / "r.h5"
    record(path, frames(0))
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HookError, match="in use"):
            opened(path, "append")
        with pytest.raises(HookError, match="in use"):
            opened(path, "overwrite")
    chain = opened(path, "append")
    code = (
        "import h5py, sys\n"
        "try: h5py.File(sys.argv[1], 'r+')\n"
        "except OSError as error: print(error)\n"
        "print(h5py.File(sys.argv[1])['per_step/step'].shape)"
    )
    answer = python(code, path, HDF5_USE_FILE_LOCKING="TRUE").stdout
    assert "unable to lock file" in answer
    assert "(1,)" in answer  # readers get in
    chain.close(DONE)


@pytest.mark.slow
def test_of_two_that_create_a_file_one_wins(tmp_path):
    code = """
import sys
from md_hooks import HookError, Recorder, RunInfo
print("ready", flush=True)
sys.stdin.readline()
hook = Recorder(sys.argv[1])
try:
    hook.open(RunInfo())
    print("won", flush=True)
except HookError as error:
    print(error, flush=True)
sys.stdin.readline()
"""
    for attempt in range(5):
        path = tmp_path / f"{attempt}.h5"
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]  # fmt: skip
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        answers = sorted(process.stdout.readline() for process in both)
        for process in both:
            process.communicate("\n")
        assert answers[1] == "won\n"
        assert "in use" in answers[0] or "exists" in answers[0]


# --- file systems without locks ------------------------------------------------------------------

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, 524, errno.ENOSYS, errno.EINVAL)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_where_there_are_no_locks_the_run_goes_on_and_says_so(
    tmp_path, monkeypatch, caplog, number
):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locking.fcntl, "flock", fail)
    monkeypatch.setattr(locking.fcntl, "fcntl", fail)
    path = tmp_path / "r.h5"
    for mode in ("create", "append", "overwrite"):
        caplog.clear()
        record(path, frames(5 if mode == "append" else 0), mode=mode)
        assert len(caplog.messages) == 1
        assert os.strerror(number) in caplog.text
        assert f"{path} cannot be locked" in caplog.text
    assert len(Trajectory(path)) == 1
    caplog.clear()
    Journal(tmp_path / "l.journal", "a reference").close()
    assert "l.journal cannot be locked" in caplog.text


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_only_a_held_lock_means_in_use(tmp_path, monkeypatch, number):
    record(tmp_path / "r.h5", frames(0))

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locking.fcntl, "flock", fail)
    for mode in ("append", "overwrite"):
        with pytest.raises(HookError, match="in use"):
            opened(tmp_path / "r.h5", mode)
    with pytest.raises(HookError, match="in use"):
        Journal(tmp_path / "l.journal", "a reference")


def test_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def fail(*arguments):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    record(tmp_path / "r.h5", frames(0))
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]
    assert len(Trajectory(tmp_path / "r.h5")) == 1


# --- a file that goes away -----------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    if how == "moved":
        os.rename(path, path.with_name("elsewhere.h5"))
    elif how == "deleted":
        path.unlink()
    elif how == "replaced":
        other = path.with_name("other")
        other.write_text("precious")
        os.replace(other, path)
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "grown":
        with open(path, "ab") as file:
            file.write(b"x" * 100)


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_file_that_went_away_is_noticed_at_the_next_write_out(tmp_path, how):
    path = tmp_path / "r.h5"
    chain = opened(path)
    for step in range(5):
        chain.dispatch(frame(step=step))
    chain.flush()
    spoil(path, how)
    chain.dispatch(frame(step=5))
    with pytest.raises(HookError, match=f"was {how} by another program") as caught:
        chain.flush()
    saved = tmp_path / ("elsewhere.h5" if how == "moved" else "r-saved.h5")
    assert str(saved) in str(caught.value)
    assert "up to step 5" in str(caught.value)
    trajectory = Trajectory(saved)
    assert list(trajectory.frame_steps) == [0, 1, 2, 3, 4, 5]
    assert trajectory.outcome["reason"] == "error"
    assert how in trajectory.outcome["message"]
    if how == "replaced":
        assert path.read_text() == "precious"
    chain.close(FAILED)
    record(saved, frames(6), mode="append")


@pytest.mark.parametrize("how", ["cut", "grown"])
def test_a_file_that_somebody_changed_is_not_written_to(tmp_path, how):
    path = tmp_path / "r.h5"
    chain = opened(path)
    chain.dispatch(frame(step=0))
    chain.flush()
    spoil(path, how)
    after = path.read_bytes()
    chain.dispatch(frame(step=1))
    with pytest.raises(HookError, match="was changed by another program"):
        chain.flush()
    chain.close(FAILED)
    assert path.read_bytes() == after


def test_a_folder_that_went_away(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    path = folder / "r.h5"
    chain = opened(path)
    path.unlink()
    folder.rmdir()
    chain.dispatch(frame(step=1))
    with pytest.raises(HookError, match=r"r-saved\.h5; continue from that file"):
        chain.flush()
    assert list(Trajectory(tmp_path / "r-saved.h5").series["step"]) == [1]


def test_another_working_directory_is_no_other_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chain = opened(Path("r.h5"))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    chain.dispatch(frame(step=1))
    chain.close(DONE)
    assert len(Trajectory(tmp_path / "r.h5")) == 1


# --- what is no file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "kind"), [("pipe", "a pipe"), ("folder", "a folder"), ("/dev/null", "a device")]
)
def test_special_files_are_refused_and_nobody_waits_for_them(tmp_path, what, kind):
    path = tmp_path / "r.h5"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path = Path(what)

    def hang(*arguments):
        raise TimeoutError("it waits for a pipe")

    old = signal.signal(signal.SIGALRM, hang)
    signal.alarm(20)
    try:
        for function in (Trajectory, load_checkpoint):
            with pytest.raises(HookError, match=f"is {kind}"):
                function(path)
        for mode in ("append", "overwrite"):
            with pytest.raises(HookError, match=f"is {kind}"):
                opened(path, mode)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


# --- an observer that fails ----------------------------------------------------------------------


class FullStore(FlagStore):
    """A store on a disk that is full at one step."""

    def observe(self, one, verdict):
        if one.step == 17:
            raise HookError("no space")
        super().observe(one, verdict)


def test_a_frame_that_an_observer_could_not_store_is_stored_after_the_restart(tmp_path):
    import ase.io

    def hooks(kind, path):
        guard = Guard(flag_above=0.0)
        return [guard, Recorder(path, every=1, mode="append"), kind(path.with_suffix(".xyz"))]

    whole, path = tmp_path / "whole.h5", tmp_path / "r.h5"
    run(langevin(argon()), 30, hooks(FlagStore, whole))
    with pytest.raises(HookError, match="no space"):
        run(langevin(argon()), 30, hooks(FullStore, path))
    checkpoint = load_checkpoint(path)
    assert checkpoint.step < 17
    dynamics = langevin(argon())
    restore(dynamics, checkpoint)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    run(dynamics, 30 - checkpoint.step, hooks(FlagStore, path), info)
    for read in (
        lambda p: [a.info["step"] for a in ase.io.read(p.with_suffix(".xyz"), ":")],
        lambda p: Trajectory(p).series["force_delta"],
        lambda p: Trajectory(p).frame_steps,
    ):
        np.testing.assert_array_equal(read(path), read(whole))


def test_a_file_stays_open_for_readers_of_the_same_process(tmp_path):
    path = tmp_path / "r.h5"
    chain = opened(path)
    chain.dispatch(frame(step=0))
    chain.flush()
    with h5py.File(path) as file:  # with HDF5's own locks, as MDAnalysis opens it
        assert file["per_step/step"].shape == (1,)
        chain.dispatch(frame(step=1))
        chain.flush()
        assert len(Trajectory(path)) == 2
    chain.close(DONE)
