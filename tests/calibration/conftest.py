"""Labelled water."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from ase.build import molecule
from command_line import untrained_network
from labelled_water import label, predicted, water

from forcedelta.ase import ForceDeltaCalculator

FRAMES = 120


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models wet and other, and 120 frames of water: plain.xyz has reference
    forces only, full.xyz the predictions of wet, too."""
    folder = tmp_path_factory.mktemp("calibration")
    untrained_network(folder / "wet.safetensors", [1, 8], periodic=False)
    untrained_network(folder / "other.safetensors", [1, 8], periodic=False, seed=1)
    frames = water(FRAMES)
    calculator = ForceDeltaCalculator(folder / "wet.safetensors")
    ase.io.write(folder / "plain.xyz", [label(atoms, calculator) for atoms in frames])
    ase.io.write(folder / "full.xyz", [predicted(atoms, calculator) for atoms in frames])
    molecule("H2O").write(folder / "water.xyz")
    return folder
