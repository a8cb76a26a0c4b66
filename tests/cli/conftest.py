"""Structures and models for commands, and a run that another process has begun."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from command_line import untrained_network

from md_hooks import HookError, load_checkpoint


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with water.xyz, crystal.xyz and the models wet, other (for water) and solid."""
    folder = tmp_path_factory.mktemp("cli")
    untrained_network(folder / "wet.safetensors", [1, 8], periodic=False)
    untrained_network(folder / "other.safetensors", [1, 8], periodic=False, seed=1)
    untrained_network(folder / "solid.safetensors", [14], periodic=True)
    molecule("H2O").write(folder / "water.xyz")
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.05, seed=1)
    crystal.write(folder / "crystal.xyz")
    return folder


@pytest.fixture
def water(files: Path, here: Path) -> list[str]:
    """Arguments of a run of water that lacks the number of steps."""
    return [
        "run", str(files / "water.xyz"), "--model", str(files / "wet.safetensors"), "--seed", "1",
    ]  # fmt: skip


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
