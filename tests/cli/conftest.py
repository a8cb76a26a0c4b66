"""A small untrained network for each kind of structure: it is quick, and its forces disagree."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule

from forcedelta.cli import status
from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork
from md_hooks import HookError, load_checkpoint

PROGRAM = [sys.executable, "-c", "from forcedelta.cli import main; main()"]


def _network(path: Path, elements: list[int], periodic: bool, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = DirectForceNetwork(elements, 4.0, features=8, channels=4, layers=1, radial=4)
    save_network(
        path,
        network,
        {
            "name": path.stem,
            "training_set": "none",
            "source": "random numbers",
            "level_of_theory": "none",
            "periodic": periodic,
            "regime": "untrained",
            "tests": {"direct MAE (meV/Å)": 1000},
            "licence": "MIT",
        },
    )
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with water.xyz, crystal.xyz and the models wet, other (for water) and solid."""
    folder = tmp_path_factory.mktemp("cli")
    _network(folder / "wet.safetensors", [1, 8], periodic=False)
    _network(folder / "other.safetensors", [1, 8], periodic=False, seed=1)
    _network(folder / "solid.safetensors", [14], periodic=True)
    molecule("H2O").write(folder / "water.xyz")
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.05, seed=1)
    crystal.write(folder / "crystal.xyz")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def water(files: Path, here: Path) -> list[str]:
    """Arguments of a run of water that lacks the number of steps."""
    return [
        "run", str(files / "water.xyz"), "--model", str(files / "wet.safetensors"), "--seed", "1",
    ]  # fmt: skip


Forcedelta = Callable[..., tuple[int, str, str]]


@pytest.fixture
def forcedelta(capfd: pytest.CaptureFixture[str]) -> Forcedelta:
    """Runs a command line in this process; gives exit status, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = status([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def start(here: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command line in a process of its own."""
    processes = []

    def call(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def reached() -> Callable[[str, int], None]:
    """Waits until a run in another process has recorded a step and a checkpoint after it."""

    def wait(path: str, step: int) -> None:
        end = time.monotonic() + 600  # no verdict: the end of a test that hangs
        while time.monotonic() < end:
            try:
                if load_checkpoint(path).step >= step:
                    return
            except HookError:
                pass  # not there yet
            time.sleep(0.05)
        raise TimeoutError(f"{path} did not reach step {step}")

    return wait
