"""Labelled water, and command lines that run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule
from labelled_water import label, predicted, water, write_network

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.cli import status

FRAMES = 120


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models wet and other, and 120 frames of water: plain.xyz has reference
    forces only, full.xyz the predictions of wet, too."""
    folder = tmp_path_factory.mktemp("calibration")
    write_network(folder / "wet.safetensors", 0)
    write_network(folder / "other.safetensors", 1)
    frames = water(FRAMES)
    calculator = ForceDeltaCalculator(folder / "wet.safetensors")
    ase.io.write(folder / "plain.xyz", [label(atoms, calculator) for atoms in frames])
    ase.io.write(folder / "full.xyz", [predicted(atoms, calculator) for atoms in frames])
    molecule("H2O").write(folder / "water.xyz")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forcedelta(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; gives exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = status([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call
