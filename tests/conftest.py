"""Fixtures for all tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PROGRAM

from forcedelta.cli import status

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # its tests are skipped
    pass
else:
    # no verdict depends on the speed of the machine, or on the luck of a run
    settings.register_profile(
        "any machine",
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small models are slower with threads, and their sums depend on them."""
    torch.set_num_threads(1)


@pytest.fixture
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fails a test that prints: a library leaves the terminal to its user."""
    yield
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forcedelta(
    capfd: pytest.CaptureFixture[str], here: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process, in an empty folder; gives exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = status([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def start(here: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command line in a process of its own, in an empty folder."""
    processes: list[subprocess.Popen[str]] = []

    def call(*arguments: object, **options: Any) -> subprocess.Popen[str]:
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
