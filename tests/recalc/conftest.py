"""A recorded run with flagged frames, and structures to label."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from forcedelta.cli import status

PROGRAM = [sys.executable, "-c", "from forcedelta.cli import main; main()"]
ACETYLACETONE = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 steps of acac at 400 K with a band that holds a part of the frames."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    code = status(
        ["run", str(ACETYLACETONE), "--model", "acac", "--temperature", "400", "--steps", "600",
         "--flag-above", "0.04", "--stop-above", "0.6", "--record-every", "50", "--seed", "3",
         "--out", str(path)]
    )  # fmt: skip
    assert code == 0
    return path


def doubtful(seed: int, step: int | None = None, force_delta: float = 0.1) -> Atoms:
    """A distorted water molecule as a flagged frame: with what a model said about it."""
    rng = np.random.default_rng(seed)
    atoms = molecule("H2O")
    atoms.rattle(0.05, rng=rng)
    atoms.info.update(
        step=step if step is not None else seed, time=100.0 * seed, force_delta=force_delta,
        model_energy=-14.0, source="run.h5", model="wet", weights_hash="hash:12",
    )  # fmt: skip
    for name in ("direct_forces", "conservative_forces"):
        atoms.set_array(name, rng.normal(size=(3, 3)))
    atoms.set_array("force_deltas", np.abs(rng.normal(size=3)))
    return atoms


Forcedelta = Callable[..., tuple[int, str, str]]


@pytest.fixture
def forcedelta(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Forcedelta:
    """Runs a command line in this process, in an empty folder; gives status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = status([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program in a process of its own, in the test's folder."""
    processes: list[subprocess.Popen[str]] = []

    def call(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.communicate()
