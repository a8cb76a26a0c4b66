"""One reference calculation, in a process of its own.

A job may crash, run out of memory or be killed: whatever happens to its process, the executor
that called `run_job` goes on, and the other jobs with it. The process is also where threads can
be set before a library is loaded, and where what a reference code prints can be caught.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ..errors import HookError
from .reference import Reference

OUTPUT = "output.txt"
RESULT = "result.json"
NO_RESULT = os.EX_IOERR
"""Exit status of the process of a job that could not write its result."""
TAIL_LINES = 3
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_running: dict[Path, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Job:
    """A structure and how to label it.

    Attributes:
        key: identifies the structure.
        atoms: positions and cell in Å; ``info["charge"]``, ``info["spin"]``
            (2S+1) and initial magnetic moments count.
        reference: the reference code.
        folder: working directory of the reference code; kept when the job fails.
        threads: of OpenMP and BLAS.
    """

    key: str
    atoms: Atoms
    reference: Reference
    folder: str
    threads: int = 1


@dataclass(frozen=True)
class Label:
    """What a reference calculation gave.

    Attributes:
        energy: eV.
        forces: [N, 3] eV/Å.
        stress: (6,) eV/Å^3, Voigt order, or None.
        seconds: duration of the calculation, s.
        free_energy: eV; the energy whose gradient the forces are, with smeared occupations not the
            same as the energy extrapolated to none. None where the reference code does not tell.
        point_charges: number of charges of the environment in whose field it was computed; 0: in
            vacuum.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None
    seconds: float
    free_energy: float | None = None
    point_charges: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a job gave no label.

    Attributes:
        message: the reference code's own message, one line.
        seconds: duration of the calculation, s.
    """

    message: str
    seconds: float


def run_job(job: Job) -> Label | Failure:
    """Run a job in a process of its own and wait for it; for any `concurrent.futures.Executor`.

    Raises:
        HookError: the folder of the job cannot be made, its result cannot be written, or the
            reference cannot be pickled.
    """
    start = time.monotonic()
    folder = Path(job.folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with open(folder / OUTPUT, "wb") as output:
            code = _child(_pickled(job), folder, job.threads, output.fileno())
    except OSError as error:
        raise HookError(
            f"no calculation can be run in {folder} ({error.strerror}): free some space or choose "
            "another file"
        ) from error
    seconds = time.monotonic() - start
    answer = _answer(folder)
    if answer is None and code == NO_RESULT:
        raise HookError(
            f"a calculation in {folder} is done, but its result cannot be written: free some space or "
            "choose another file; the same command does it again"
        )
    if answer is None:
        return Failure(_ended(code, folder), seconds)
    if "error" in answer:
        return Failure(answer["error"], seconds)
    shutil.rmtree(folder, ignore_errors=True)
    stress = answer["stress"]
    return Label(
        answer["energy"],
        np.array(answer["forces"]),
        None if stress is None else np.array(stress),
        seconds,
        answer.get("free_energy"),
        answer.get("point_charges", 0),
    )


def stop_running(parent: Path) -> None:
    """Kill the jobs below the folder ``parent`` that this process waits for, with all that they started."""
    for folder, process in list(_running.items()):
        if folder.parent == parent:
            _kill(process)


def _pickled(job: Job) -> bytes:
    try:
        payload = pickle.dumps(job)
    except Exception as error:  # a pickle fails in as many ways as there are objects
        raise HookError(
            f"the reference cannot be sent to another process ({error}): use functions and classes "
            "of a module that can be imported, no lambda"
        ) from error
    if getattr(getattr(job.reference, "make", None), "__module__", "") == "__main__":
        raise HookError(
            "the reference's calculator is defined in the script itself, where other processes "
            "cannot import it: move it into a module"
        )
    return payload


def _child(payload: bytes, folder: Path, threads: int, output: int) -> int:
    places = [os.path.abspath(place) for place in sys.path]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(places), PYTHONUNBUFFERED="1")
    environment.update({name: str(threads) for name in THREADS})
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "md_hooks.recalculation.worker"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=True,  # a group of its own, to be killed with all that it starts
    )
    _running[folder] = process
    try:
        assert process.stdin is not None
        try:
            process.stdin.write(payload)
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead already; its status says why
        return process.wait()
    finally:
        _kill(process)  # on Ctrl-C; else it has ended
        _running.pop(folder, None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what could not be written to a dead process
            process.stdin.close()


def _answer(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return None


def _ended(code: int, folder: Path) -> str:
    if code < 0:
        how = f"the reference's process was ended by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            how += " (killed from outside, or out of memory)"
    else:
        how = f"the reference's process ended with status {code} and no result"
    return with_tail(how, folder / OUTPUT)


def with_tail(message: str, output: Path) -> str:
    """A message with the last lines that a reference code printed, in one line."""
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    last = [" ".join(line.split()) for line in lines if line.strip()][-TAIL_LINES:]
    message = " ".join(message.split())
    return f"{message}; the last it printed: {' | '.join(last)}" if last else message
