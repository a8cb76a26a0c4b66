"""A recorded run in which the operating system fails, or the process dies, at a chosen operation.

A script, not a test: `test_faults.py` runs a part of it, and by hand it tries every operation:

    python tests/hooks/fault_sweep.py FOLDER --every 1

Every operation on the files of the run (writing, cutting, linking, renaming, ...) is counted; a
child process makes the same run once for each chosen one and each fault. Then the file is read
with our own reader, ASE, MDAnalysis, pyh5md and znh5md, the run is continued from it, and what
comes out is compared, bit for bit, with the run that nothing happened to.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import ase.io
import MDAnalysis
import numpy as np
import pyh5md
import znh5md
from ase.constraints import FixAtoms
from helpers import argon, langevin

from md_hooks import (
    FlagStore,
    Guard,
    HookError,
    Recorder,
    RunInfo,
    Trajectory,
    load_checkpoint,
    recorder,
    restore,
    run,
)
from md_hooks.h5md.storage import has_journal

STEPS = 45
OPERATIONS = ("pwrite", "ftruncate", "link", "replace", "rename", "unlink", "fsync", "open")
FAULTS = {
    "kill": None, "half": None, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT,
    "EROFS": errno.EROFS,
}  # fmt: skip
"""kill: the process dies before the operation; half: in the middle of it; else it fails, and all
later ones do, as on a disk that is full or broken."""


class Faults:
    """Counts operations of the module os, and spoils one of them."""

    def __init__(self, at: int, fault: str) -> None:
        self.at, self.fault, self.count = at, fault, 0
        for name in OPERATIONS:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, function):
        def operation(*arguments, **named):
            if function is OPEN and not arguments[1] & (os.O_CREAT | os.O_RDWR):
                return function(*arguments, **named)
            self.count += 1
            if self.count < self.at or (self.fault in ("kill", "half") and self.count > self.at):
                return function(*arguments, **named)
            if self.fault == "half" and function is PWRITE:
                fd, data, place = arguments
                PWRITE(fd, bytes(data)[: len(data) // 2], place)
            if FAULTS[self.fault] is None:
                os.kill(os.getpid(), signal.SIGKILL)
            if function in (UNLINK, OPEN) and FAULTS[self.fault] not in (errno.EROFS, errno.EIO):
                return function(*arguments, **named)  # a full disk lets files be removed and opened
            raise OSError(FAULTS[self.fault], os.strerror(FAULTS[self.fault]))

        return operation


PWRITE, UNLINK, OPEN = os.pwrite, os.unlink, os.open


def make_run(path: Path, mode: str, seed: int = 1, steps: int = STEPS) -> None:
    """A run that writes out each ten steps; with "append" it goes on from its checkpoint."""
    recorder.WRITE_OUT_SECONDS, recorder.MAX_ROWS = 1e9, 10
    atoms = argon()
    atoms.set_constraint(FixAtoms([7]))
    dynamics, info = langevin(atoms, seed=seed), RunInfo()
    done = 0
    if mode == "append":
        found = load_checkpoint(path)
        restore(dynamics, found)
        done = found.step
        info = RunInfo(restart_step=done, restart_time=found.time)
    hooks = [
        Guard(flag_above=0.0), Recorder(path, every=3, mode=mode),
        FlagStore(path.with_suffix(".xyz")),
    ]  # fmt: skip
    run(dynamics, steps - done, hooks, info)


def in_child(work, report: Path) -> int:
    """Do something in a process of its own; what it raises is written to a file."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 0
    try:
        work()
    except HookError as error:
        report.write_text(f"HookError {error}")
        status = 2
    except BaseException as error:
        report.write_text(f"{type(error).__name__} {error}")
        status = 1
    finally:
        os._exit(status)


def state_of(path: Path) -> dict:
    """Everything that a run recorded, to be compared."""
    trajectory = Trajectory(path)
    frames = list(trajectory.frames())
    return {
        **trajectory.series,
        "frames": np.array([f.step for f in frames]),
        "positions": np.array([f.positions for f in frames]),
        "velocities": np.array([f.velocities for f in frames]),
        "forces": np.array([f.forces for f in frames]),
        "constraints": np.array([[*f.constraints[0]["kwargs"]["indices"]] for f in frames]),
        "flags": np.array([a.info["step"] for a in ase.io.read(path.with_suffix(".xyz"), ":")]),
    }


def problem_of_readers(path: Path, frames: int) -> str:
    """What other readers make of the file; empty when they read so many frames."""
    if frames == 0:
        return ""
    try:
        universe = MDAnalysis.Universe.empty(8, trajectory=True)
        universe.load_new(str(path), format="H5MD")
        positions = [snapshot.positions.copy() for snapshot in universe.trajectory]
        universe.trajectory.close()
        images = ase.io.read(path, ":", format="forcedelta-h5md")
        others = znh5md.IO(path)[:]
        with pyh5md.File(str(path), "r") as file:
            element = pyh5md.element(file.particles_group("trajectory"), "position")
            steps = element.step[:]
            by_name = element.value[: len(steps)]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for name, found in (("MDAnalysis", positions), ("znh5md", [a.positions for a in others]),
                        ("pyh5md", by_name)):  # fmt: skip
        if len(found) < frames:
            return f"{name} reads {len(found)} of {frames} frames"
        for k in range(frames):
            if not np.allclose(found[k], images[k].positions, atol=1e-5):
                return f"{name} reads another frame {k}"
    return ""


def is_hot(path: Path) -> bool:
    """Whether the file ends in a journal."""
    with path.open("rb") as file:
        return has_journal(file.fileno())


def try_one(folder: Path, start: Path | None, mode: str, at: int, fault: str, whole: dict) -> str:
    """One run with one fault; empty when all is well, else what is not."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, report = folder / "r.h5", folder / "report"
    old = None
    if start is not None:
        for suffix in (".h5", ".xyz"):
            if mode == "append" or suffix == ".h5":
                shutil.copy(start.with_suffix(suffix), path.with_suffix(suffix))
        old = path.read_bytes()

    def work() -> None:
        Faults(at, fault)
        make_run(path, mode)

    status = in_child(work, report)
    killed = FAULTS[fault] is None
    if killed:
        if status != signal.SIGKILL:
            return f"status {status} instead of a kill"
    elif status != 2 << 8:
        return f"status {status}: {report.read_text() if report.exists() else ''}"
    elif os.strerror(FAULTS[fault]) not in (text := report.read_text()) or "\n" in text:
        return f"the message is {text!r}"
    if not path.exists():
        if mode != "create":
            return "the file is gone"
        make_run(path, "create")
    elif mode == "overwrite" and path.read_bytes() == old:
        path.with_suffix(".xyz").unlink(missing_ok=True)
        make_run(path, "overwrite")
    else:
        frames = len(Trajectory(path))
        # a journal is complete, but its changes are not made: they will be when the run continues,
        # and until then only our own readers see them
        trouble = "" if is_hot(path) else problem_of_readers(path, frames)
        if trouble:
            return trouble
        try:
            load_checkpoint(path)
        except HookError as error:
            if frames:
                return f"{frames} frames without a checkpoint ({error})"
            path.with_suffix(".xyz").unlink(missing_ok=True)
            make_run(path, "overwrite")
        else:
            make_run(path, "append")
    found = state_of(path)
    for name, values in whole.items():
        if not np.array_equal(found[name], values, equal_nan=True):
            return f"{name} of the continued run differs"
    left = sorted(p.name for p in folder.iterdir() if p.name not in ("r.h5", "r.xyz", "report"))
    return f"left behind: {left}" if left else ""


def count_of(folder: Path, start: Path | None, mode: str) -> int:
    """How many operations a run makes."""
    folder.mkdir()
    path = folder / "r.h5"
    if start is not None:
        for suffix in (".h5", ".xyz"):
            if mode == "append" or suffix == ".h5":
                shutil.copy(start.with_suffix(suffix), path.with_suffix(suffix))

    def work() -> None:
        faults = Faults(sys.maxsize, "kill")
        make_run(path, mode)
        (folder / "count").write_text(str(faults.count))

    assert in_child(work, folder / "report") == 0, (folder / "report").read_text()
    count = int((folder / "count").read_text())
    shutil.rmtree(folder)
    return count


def sweep(folder: Path, modes: list[str], faults: list[str], every: int) -> dict:
    """Faults at every so many operations of runs of these modes."""
    warnings.simplefilter("ignore")  # those of the readers, about files that they think unusual
    folder.mkdir(parents=True, exist_ok=True)
    reference, half, other = folder / "whole.h5", folder / "half.h5", folder / "other.h5"
    make_run(reference, "create")
    make_run(half, "create", steps=20)
    make_run(other, "create", seed=9)
    whole = state_of(reference)
    tried, wrong = Counter(), []
    for mode in modes:
        start = {"create": None, "append": half, "overwrite": other}[mode]
        count = count_of(folder / "count", start, mode)
        for number, at in enumerate(range(1, count + 1, every)):
            fault = faults[number % len(faults)] if every > 1 else None
            for name in faults if fault is None else [fault]:
                try:
                    problem = try_one(folder / "try", start, mode, at, name, whole)
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                tried[f"{mode} {name}"] += 1
                if problem:
                    wrong.append(f"{mode}, operation {at} of {count}, {name}: {problem}")
                    print(wrong[-1], file=sys.stderr, flush=True)
            print(f"{mode}: {at} of {count} operations", end="\r", file=sys.stderr, flush=True)
    return {"tried": dict(tried), "wrong": wrong}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--mode", action="append", choices=["create", "append", "overwrite"])
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    given = parser.parse_args()
    outcome = sweep(
        given.folder,
        given.mode or ["create", "append", "overwrite"],
        given.fault or list(FAULTS),
        given.every,
    )
    print(json.dumps(outcome, indent=1))
