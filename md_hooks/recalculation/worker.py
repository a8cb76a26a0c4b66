"""The process of one job: ``python -m md_hooks.recalculation.worker``, the job on stdin.

It writes its result into a file, as reference codes print what they like, and ends itself, with all that
it started, when the process that waits for it dies.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import HookError
from ..replacing import replace_file
from .job import NO_RESULT, OUTPUT, RESULT, Job, with_tail


def main() -> None:
    """Read the job, do it, leave the result in the working directory."""
    # reference codes must not read what comes from the parent, nor keep the pipe open
    pipe = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        job: Job = pickle.load(pipe)
        threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
        answer = _checked(job.reference.calculate(job.atoms, job.threads), len(job.atoms))
    except Exception as error:  # whatever a reference code raises is its message to the user
        text = str(error).strip() or type(error).__name__
        answer = {"error": with_tail(text, Path(OUTPUT))}
    try:
        replace_file(RESULT, json.dumps(answer).encode())
    except HookError:
        os._exit(NO_RESULT)


def _end_with_parent(pipe: BinaryIO) -> None:
    pipe.read()  # nothing more comes: this returns when the other end is gone
    os.killpg(0, signal.SIGKILL)


def _checked(results: dict[str, Any], n_atoms: int) -> dict[str, Any]:
    """The results as JSON values, if they are what they should be."""
    energy = float(results["energy"])
    forces = np.asarray(results["forces"], dtype=float)
    free_energy = results.get("free_energy")
    free_energy = None if free_energy is None else float(free_energy)
    stress = results.get("stress")
    stress = None if stress is None else np.asarray(stress, dtype=float)
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise ValueError("the reference gave an energy or forces that are not finite")
    if free_energy is not None and not np.isfinite(free_energy):
        raise ValueError("the reference gave a free energy that is not finite")
    if forces.shape != (n_atoms, 3):
        raise ValueError(f"the reference gave forces of shape {forces.shape} for {n_atoms} atoms")
    if stress is not None and (stress.shape != (6,) or not np.isfinite(stress).all()):
        raise ValueError(f"the reference gave a stress that is not six finite numbers: {stress}")
    return {
        "energy": energy,
        "forces": forces.tolist(),
        "stress": None if stress is None else stress.tolist(),
        "free_energy": free_energy,
        "point_charges": int(results.get("point_charges", 0)),
    }


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # an reference code's own threads and exit handlers do not hold up what is done
