"""The packages in examples/packages, installed by pip into a folder; nothing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "examples" / "packages"

# their build system, which pip must not fetch
pytest.importorskip("setuptools", minversion="77")


def installed(folder: Path, *names: str) -> dict[str, str]:
    """Install packages below a folder; gives the environment of processes that find them."""
    target = folder / "site"
    for name in names:
        source = folder / name  # setuptools builds within the folder
        shutil.copytree(PACKAGES / name, source)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
             "--no-build-isolation", "--upgrade", "--target", str(target), str(source)],
            check=True, timeout=600,
        )  # fmt: skip
    paths = [str(target), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    programs = os.pathsep.join([str(target / "bin"), os.environ["PATH"]])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": programs,
        "OMP_NUM_THREADS": "1",
    }


def run(
    command: list[str], environment: dict[str, str], folder: Path, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends with this status."""
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done
