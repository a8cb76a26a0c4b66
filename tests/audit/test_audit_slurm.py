"""The batch script that the Slurm example asks for; no Slurm is needed to write it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "audit_slurm.py"


def test_the_batch_script_of_a_worker(here):
    pytest.importorskip("dask_jobqueue")
    done = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, timeout=600, check=True
    )
    lines = done.stdout.splitlines()
    flags = [line.split() for line in lines if line.startswith("#SBATCH -") and "=" not in line]
    asked = {name: value for _, name, value in flags}
    assert (asked["-p"], asked["-A"], asked["-n"], asked["-t"]) == (
        "standard", "my-project", "1", "04:00:00",
    )  # fmt: skip
    assert "#SBATCH --cpus-per-task=1" in lines
    assert "#SBATCH --mem=4G" in lines
    [worker] = [line for line in lines if "dask_worker" in line]
    assert worker.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://")
    assert re.search(r"--nthreads 1 .*--nanny", worker)
    before = lines[: lines.index(worker)]
    assert "export OMP_NUM_THREADS=1" in before
    assert any(line.startswith("source ") for line in before)
    # it can be run as it is
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    assert done.stderr == ""
