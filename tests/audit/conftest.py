"""A molecule that moves, in every format, and small untrained networks to audit it with."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import pytest
from shaken import PROGRAM, moving, network

from forcedelta.cli import status


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models wet.safetensors (H, C, O) and any.safetensors, and move.xyz."""
    folder = tmp_path_factory.mktemp("audit")
    network(folder / "wet.safetensors", [1, 6, 8], periodic=False)
    network(folder / "solid.safetensors", [14, 32], periodic=True)
    ase.io.write(folder / "move.xyz", moving(), columns=["symbols", "positions", "momenta"])
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forcedelta(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; gives exit status, stdout and stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capfd.readouterr()
        code = status([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def start(here: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command line in a process of its own."""
    processes = []

    def call(*arguments: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _mdanalysis_is_talkative() -> Iterator[None]:
    """Its writers and readers warn of attributes that a molecule does not have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="MDAnalysis")
        yield
