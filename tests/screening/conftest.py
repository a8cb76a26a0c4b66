"""Small untrained networks, and crystals to screen with them."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from command_line import untrained_network


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models wet (H, C, O) and solid (Si, Ge), and crystals.xyz with six frames."""
    folder = tmp_path_factory.mktemp("screen")
    untrained_network(folder / "wet.safetensors", [1, 6, 8], periodic=False, seed=3)
    untrained_network(folder / "solid.safetensors", [14, 32], periodic=True, seed=3)
    untrained_network(folder / "other.safetensors", [14, 32], periodic=True, seed=4)
    ideal = [bulk("Si"), bulk("Si", cubic=True), bulk("Ge"), bulk("SiGe", "zincblende", a=5.5)]
    shaken = [bulk("Si", cubic=True), bulk("SiGe", "zincblende", a=5.5)]
    for k, atoms in enumerate(shaken):
        atoms.positions += np.random.default_rng(k).normal(scale=0.1, size=(len(atoms), 3))
    ase.io.write(folder / "crystals.xyz", ideal + shaken)
    ase.io.write(folder / "water.xyz", molecule("H2O"))
    return folder


@pytest.fixture
def solid(files: Path) -> Path:
    return files / "solid.safetensors"
