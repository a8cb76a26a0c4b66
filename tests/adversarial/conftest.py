"""Models and structures for attacks."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk
from command_line import untrained_network
from systems import acetaldehyde


@pytest.fixture(scope="session")
def wet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network with random weights for molecules of H, C and O."""
    folder = tmp_path_factory.mktemp("models")
    return str(untrained_network(folder / "wet.safetensors", [1, 6, 8], periodic=False))


@pytest.fixture(scope="session")
def solid(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network with random weights for crystals of silicon."""
    folder = tmp_path_factory.mktemp("models")
    return str(untrained_network(folder / "solid.safetensors", [14], periodic=True))


@pytest.fixture
def molecule() -> Atoms:
    """Seven atoms."""
    return acetaldehyde()


@pytest.fixture
def crystal() -> Atoms:
    """Eight atoms in a cubic cell."""
    return bulk("Si", cubic=True)
