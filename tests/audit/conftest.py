"""A molecule that moves, and small untrained networks to audit it with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import ase.io
import pytest
from command_line import untrained_network
from shaken import moving


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models wet (H, C, O) and solid (Si, Ge), and move.xyz."""
    folder = tmp_path_factory.mktemp("audit")
    untrained_network(folder / "wet.safetensors", [1, 6, 8], periodic=False, seed=3)
    untrained_network(folder / "solid.safetensors", [14, 32], periodic=True, seed=3)
    ase.io.write(folder / "move.xyz", moving(), columns=["symbols", "positions", "momenta"])
    return folder


@pytest.fixture(autouse=True)
def _mdanalysis_is_talkative() -> Iterator[None]:
    """Its writers and readers warn of attributes that a molecule does not have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="MDAnalysis")
        yield
