"""Crash tests: the files of a process killed at any moment, and the continuation of its work.

    python tests/faults/kills.py --random 100 --chosen 60 --failing 40

Every command that writes files is killed (SIGKILL) at random moments and at chosen file operations,
or all its writes fail from such an operation on, as on a full disk. It is then restarted as a user
would, and its result is compared with that of an undisturbed command. The table counts files that
could not be opened, old files lost, duplicate frames, different results, and errors other than one
line with status 2. The exit status is 1 if there were any. Needs gcc and some minutes.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = 400
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
MOLECULE = HERE.parent.parent / "examples" / "acetylacetone.xyz"


@dataclass(frozen=True)
class Case:
    """One command to disturb.

    Attributes:
        name: for the table.
        prepare: puts its inputs and old outputs into an empty folder.
        begin: its arguments, in that folder.
        again: arguments after a kill.
        look: problems seen right after the kill.
        result: result to compare with that of the undisturbed command.
        grows: existing files that a failed command may have changed.
    """

    name: str
    prepare: Callable[[Path], None]
    begin: list[str]
    again: list[str]
    look: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    grows: tuple[str, ...] = ()


# --- processes ---------------------------------------------------------------------------------


def child(
    arguments: list[str], folder: Path, fault: int | None = None, error: int | None = None
) -> int:
    """A process that carries out a command of forcedelta in a folder; PyTorch is loaded already.

    With ``fault`` it is killed at this file operation, or with ``error`` too all writing fails with
    this error from there on. What it prints goes to a file beside the folder.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setsid()
        os.chdir(folder)
        quiet = os.open(output_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        library = ctypes.CDLL(None)
        library.fault_reset()
        os.environ["FAULT_FOLDER"] = str(folder)
        if fault is not None:
            os.environ["FAULT_AT"] = str(fault)
        if error is not None:
            os.environ["FAULT_ERRNO"] = str(error)
        from forcedelta.cli import status as carry_out

        sys.argv = ["forcedelta", *arguments]
        status = carry_out(arguments)
        if fault is None:
            library.fault_count.restype = ctypes.c_long
            (folder.parent / "operations.txt").write_text(str(library.fault_count()))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def output_of(folder: Path) -> Path:
    """What the commands in a folder print."""
    return folder.with_name(f"{folder.name}.txt")


def finish(pid: int) -> int:
    """Exit status of a child; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def carry_out(arguments: list[str], folder: Path) -> int:
    return finish(child(arguments, folder))


def kill_after(pid: int, seconds: float) -> None:
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# --- what is compared --------------------------------------------------------------------------


def recorded(path: Path) -> dict[str, Any]:
    """All numbers of a recorded file."""
    import numpy as np

    from md_hooks import Trajectory

    trajectory = Trajectory(path)
    steps = trajectory.frame_steps
    assert len(set(steps.tolist())) == len(steps), "a frame is there twice"
    found = {name: np.array(values) for name, values in trajectory.series.items()}
    for name in ("positions", "velocities", "forces", "force_deltas"):
        found[name] = [getattr(frame, name) for frame in trajectory.frames()]
    return found


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    import numpy as np

    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key], tolerance) for key in one
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(
            same(a, b, tolerance) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, np.ndarray):
        if one.shape != other.shape:
            return False
        if one.dtype.kind == "f":
            return bool(np.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True))
        return bool(np.array_equal(one, other))
    return bool(one == other)


def opens(path: Path, steps: int | None = None) -> list[str]:
    """Whether all readers open a recorded file, if there is one."""
    if not path.exists():
        return []
    import ase.io
    import h5py
    import MDAnalysis

    from md_hooks.h5md import layout

    problems = []
    try:
        found = recorded(path)
        with h5py.File(path, "r", locking=False) as file:
            frames = layout.FRAME_STEP in file and file[layout.FRAME_STEP].shape[0]
        if len(found["positions"]):
            ase.io.read(path, ":")
        if frames:  # as seen by other readers, which ignore the journal
            natoms = len(found["positions"][0])
            universe = MDAnalysis.Universe.empty(natoms, trajectory=False)
            universe.load_new(str(path), format="H5MD", convert_units=False)
            for _ in universe.trajectory:
                pass
            universe.trajectory.close()
    except Exception as error:
        problems.append(f"unreadable: {type(error).__name__}: {error}")
    return problems


def flagged(path: Path, run: Path | None = None) -> list[list[float]]:
    """Step and U of the frames of a flag store; those of the run in a file, or all."""
    import ase.io

    from md_hooks import Trajectory

    if not path.exists():
        return []
    run_id = None if run is None else Trajectory(run).run_id
    frames = [a for a in ase.io.read(path, ":") if run_id in (None, a.info["run_id"])]
    flags = [[int(a.info["step"]), float(a.info["force_delta"])] for a in frames]
    assert len({step for step, _ in flags}) == len(flags), "a flagged frame is there twice"
    return flags


# --- the cases ---------------------------------------------------------------------------------

RUN = [
    "run", str(MOLECULE), "--model", "acac", "--seed", "3", "--record-every", "7",
    "--temperature", "300", "--ramp-to", "600", "--flag-above", "0.05", "--stop-above", "5",
    "--out", "run.h5", "--flags", "flags.xyz",
]  # fmt: skip


def run_case() -> Case:
    def result(folder: Path) -> Any:
        return {**recorded(folder / "run.h5"), "flags": flagged(folder / "flags.xyz")}

    begin = [*RUN, "--steps", str(STEPS)]
    again = ["run", "--restart", "--out", "run.h5", "--steps", str(STEPS), "--flags", "flags.xyz"]
    return Case("run", lambda f: None, begin, again, lambda f: opens(f / "run.h5"), result)


def overwrite_case(inputs: Path) -> Case:
    """The old run or the new one is there, whole, at any time."""

    def prepare(folder: Path) -> None:
        shutil.copy(inputs / "old.h5", folder / "run.h5")

    def look(folder: Path) -> list[str]:
        if not (folder / "run.h5").exists():
            return ["lost: run.h5"]
        problems = opens(folder / "run.h5")
        if not problems and not len(recorded(folder / "run.h5")["step"]):
            problems.append("lost: run.h5 holds no step")
        return problems

    begin = [*RUN, "--steps", str(STEPS), "--overwrite"]

    def result(folder: Path) -> Any:
        # those of a run that was replaced after it had recorded steps stay in the store
        flags = flagged(folder / "flags.xyz", folder / "run.h5")
        return {**recorded(folder / "run.h5"), "flags": flags}

    return Case("run --overwrite", prepare, begin, begin, look, result, grows=("run.h5",))


def audit_case(inputs: Path, overwrite: bool) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copy(inputs / "old.h5", folder / "source.h5")
        if overwrite:
            shutil.copy(inputs / "audit.h5", folder / "audit.h5")

    def look(folder: Path) -> list[str]:
        if overwrite and not (folder / "audit.h5").exists():
            return ["lost: audit.h5"]
        return opens(folder / "audit.h5")

    def result(folder: Path) -> Any:
        flags = flagged(folder / "flags.xyz")
        return {**recorded(folder / "audit.h5"), "flags": [step for step, _ in flags]}

    begin = [
        "audit", "source.h5", "--model", "acac", "--flag-above", "0.05", "--stop-above", "5",
        "--out", "audit.h5", "--flags", "flags.xyz",
    ]  # fmt: skip
    if overwrite:
        begin.append("--overwrite")
        return Case("audit --overwrite", prepare, begin, begin, look, result, grows=("audit.h5",))
    return Case("audit", prepare, begin, [*begin, "--restart"], look, result)


def recalc_case(inputs: Path) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copy(inputs / "old.h5", folder / "source.h5")

    def result(folder: Path) -> Any:
        import ase.io

        labels = ase.io.read(folder / "labelled.xyz", ":")
        steps = [int(atoms.info["step"]) for atoms in labels]
        assert len(set(steps)) == len(steps), "a label is there twice"
        return sorted(
            (step, atoms.get_potential_energy()) for step, atoms in zip(steps, labels, strict=True)
        )

    begin = [
        "recalc", "source.h5", "--select", "6", "--calculator", "tblite", "--out", "labelled.xyz",
    ]  # fmt: skip
    return Case("recalc", prepare, begin, begin, lambda f: [], result)


def file_case(
    inputs: Path, name: str, begin: list[str], out: str, valid: Callable[[Path], None]
) -> Case:
    """A command that writes one file at its end, onto an old one."""

    def prepare(folder: Path) -> None:
        for item in ("old.h5", "labels.xyz"):
            shutil.copy(inputs / item, folder / item)
        shutil.copy(inputs / out, folder / out)

    def look(folder: Path) -> list[str]:
        if not (folder / out).exists():
            return [f"lost: {out}"]
        try:
            valid(folder / out)
        except Exception as error:
            return [f"unreadable: {out}: {type(error).__name__}: {error}"]
        return []

    return Case(
        name, prepare, begin, begin, look, lambda f: bool(valid(f / out)) or True, grows=(out,)
    )


def a_picture(path: Path) -> None:
    from matplotlib.image import imread

    imread(path)


def a_page(path: Path) -> None:
    if not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("cut off")


def a_calibration(path: Path) -> None:
    json.loads(path.read_text())


def a_module(path: Path) -> None:
    import torch

    torch.jit.load(path)


def cases(inputs: Path) -> list[Case]:
    calibrate = [
        "calibrate", "labels.xyz", "--model", "acac", "--tolerance", "0.03", "--risk", "0.2",
        "--confidence", "0.5", "--out", "calibration.json", "--overwrite",
    ]  # fmt: skip
    return [
        run_case(),
        overwrite_case(inputs),
        audit_case(inputs, overwrite=False),
        audit_case(inputs, overwrite=True),
        recalc_case(inputs),
        file_case(inputs, "plot", ["plot", "old.h5", "--out", "plot.png", "--overwrite"], "plot.png", a_picture),
        file_case(
            inputs, "report", ["plot", "old.h5", "--out", "report.html", "--overwrite"], "report.html", a_page
        ),
        file_case(inputs, "calibrate", calibrate, "calibration.json", a_calibration),
        file_case(
            inputs, "export", ["export", "acac", "--out", "acac.pt", "--overwrite"], "acac.pt", a_module
        ),
    ]  # fmt: skip


def make_inputs(folder: Path) -> None:
    """An old file of each kind, and labels to calibrate with."""
    import ase.io
    import numpy as np

    run = [*RUN, "--steps", str(STEPS)]
    run[run.index("run.h5")] = "old.h5"
    commands = [
        run,
        ["audit", "old.h5", "--model", "acac", "--flag-above", "0.05", "--stop-above", "5",
         "--out", "audit.h5"],
        ["plot", "old.h5", "--out", "plot.png"],
        ["plot", "old.h5", "--out", "report.html"],
        ["export", "acac", "--out", "acac.pt"],
    ]  # fmt: skip
    for command in commands:
        if (status := carry_out(command, folder)) != 0:
            raise SystemExit(f"forcedelta {' '.join(command)}: status {status}")
    frames = ase.io.read(folder / "old.h5", ":")
    rng = np.random.default_rng(0)
    for atoms in frames:
        error = 0.5 * atoms.info["force_delta"]
        noisy = atoms.get_forces() + rng.normal(scale=error, size=(len(atoms), 3))
        atoms.calc.results = {"energy": atoms.get_potential_energy(), "forces": noisy}
        for name in ("force_deltas", "direct_forces", "conservative_forces"):
            del atoms.arrays[name]
        atoms.info = {}
    ase.io.write(folder / "labels.xyz", frames)
    (folder / "calibration.json").write_text("{}")


# --- the campaign ------------------------------------------------------------------------------


def disturb(
    case: Case, folder: Path, kind: str, number: int, place: float, whole: tuple[float, int]
) -> tuple[bool, list[str]]:
    """Begin a command and kill it, or let its writing fail; whether that happened, and problems.

    Args:
        case: the command.
        folder: with its inputs.
        kind: "random" or "chosen" kills, or "failing" writes.
        number: of the attempt, for the kind of the error.
        place: where it happens, from 0 to 1.
        whole: seconds and file operations of the undisturbed command.
    """
    duration, operations = whole
    fault = 1 + int(place * operations)
    if kind == "random":
        kill_after(child(case.begin, folder), duration * place)
        return True, []
    if kind == "chosen":
        return finish(child(case.begin, folder, fault)) == -signal.SIGKILL, []
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status = finish(child(case.begin, folder, fault, ERRORS[number % len(ERRORS)]))
    output = output_of(folder).read_text()
    if status in (0, 3) and "error:" not in output:
        return False, []
    problems = []
    if status != 2 or "Traceback" in output or output.count("error:") != 1:
        problems.append(f"words: status {status}: {output[-1500:]}")
    problems += [
        f"lost: {path.name} was changed"
        for path, content in before.items()
        if path.name not in case.grows and (not path.exists() or path.read_bytes() != content)
    ]
    return True, problems


def campaign(case: Case, work: Path, kills: int, kind: str, rng: random.Random) -> Counter[str]:
    """Kill a command ``kills`` times, or let it fail, and count the problems."""
    whole = work / "whole"
    whole.mkdir(parents=True)
    case.prepare(whole)
    started = time.monotonic()
    status = carry_out(case.begin, whole)
    duration = time.monotonic() - started
    if status not in (0, 3):
        raise SystemExit(f"{case.name}: undisturbed, status {status}; see {output_of(whole)}")
    expected = case.result(whole)
    operations = int((work / "operations.txt").read_text())
    seen: Counter[str] = Counter(faults=0)
    for number in range(kills):
        folder = work / str(number)
        folder.mkdir()
        case.prepare(folder)
        hit, problems = disturb(case, folder, kind, number, rng.random(), (duration, operations))
        if not hit:
            continue
        seen["faults"] += 1
        problems += case.look(folder)
        if not problems:
            again = case.again
            status = carry_out(again, folder)
            if status == 2:  # no frame had been written yet: begun anew, as the message says
                status = carry_out([*case.begin, "--overwrite"], folder)
            try:
                tolerance = 1e-6 if case.name.startswith("audit") else 0.0
                if status not in (0, 3):
                    problems.append(f"differs: status {status}")
                elif not same(case.result(folder), expected, tolerance):
                    problems.append("differs: other numbers")
            except Exception as error:
                problems.append(f"differs: {type(error).__name__}: {error}")
        for problem in problems:
            seen["twice" if "twice" in problem else problem.split(":")[0]] += 1
            print(f"    {case.name}, {kind} {number}: {problem}", flush=True)
        if not problems:
            shutil.rmtree(folder)
    return seen


def main() -> int:
    """Read the arguments, preload the counter of file operations, and go through all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=100, help="kills at random moments, in all")
    parser.add_argument("--chosen", type=int, default=60, help="kills at file operations, in all")
    parser.add_argument("--failing", type=int, default=40, help="failing writes, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one case by its name")
    given = parser.parse_args()
    if "FAULT_PRELOADED" not in os.environ:
        library = Path(tempfile.mkdtemp()) / f"faults{sysconfig.get_config_var('SHLIB_SUFFIX')}"
        source = HERE / "file_faults.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        environment = {
            **os.environ, "FAULT_PRELOADED": "1", "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    import torch

    import forcedelta.simulation.guarded  # noqa: F401 - loaded once, for all children

    torch.set_num_threads(1)
    rng = random.Random(given.seed)
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    inputs = base / "inputs" / "files"
    inputs.mkdir(parents=True)
    make_inputs(inputs)
    chosen_cases = [case for case in cases(inputs) if given.only in (None, case.name)]
    wrong = 0
    kinds = ("unreadable", "lost", "twice", "differs", "words")
    print(f"{'':18} {'faults':>6} " + " ".join(f"{kind:>10}" for kind in kinds))
    for index, case in enumerate(chosen_cases):
        seen: Counter[str] = Counter()
        for name in ("random", "chosen", "failing"):
            total = getattr(given, name)
            share = total // len(chosen_cases) + (index < total % len(chosen_cases))
            work = base / f"{case.name.replace(' ', '_')}-{name}"
            if share:
                seen += campaign(case, work, share, name, rng)
        counts = " ".join(f"{seen[kind]:>10}" for kind in kinds)
        print(f"{case.name:18} {seen['faults']:>6} {counts}", flush=True)
        wrong += sum(seen[kind] for kind in kinds)
    if not wrong:
        shutil.rmtree(base)
    else:
        print(f"files of the failed cases: {base}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
