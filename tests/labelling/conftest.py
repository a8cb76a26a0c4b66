"""A recorded run with flagged frames, and structures to label."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubtful_frames import ACETYLACETONE

from forcedelta.cli import status


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
