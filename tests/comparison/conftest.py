"""Untrained networks on water whose reference is the energy gradient of the first of them."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from command_line import untrained_network
from paths_of_water import FRAMES, attacked, label, water

from forcedelta.ase import ForceDeltaCalculator


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models one, two, three (H, O) and solid (Si), and files of water.

    The labels of cold.xyz, warm.xyz and attack.xyz are the gradients of one; plain.xyz has none.
    """
    folder = tmp_path_factory.mktemp("comparison")
    for seed, name in enumerate(("one", "two", "three")):
        untrained_network(folder / f"{name}.safetensors", [1, 8], periodic=False, seed=seed)
    untrained_network(folder / "solid.safetensors", [14], periodic=True)
    calculator = ForceDeltaCalculator(folder / "one.safetensors")
    ase.io.write(folder / "cold.xyz", label(water(FRAMES), calculator))
    ase.io.write(folder / "warm.xyz", label(water(FRAMES, 100), calculator))
    ase.io.write(folder / "attack.xyz", label(attacked(3, 6), calculator))
    ase.io.write(folder / "plain.xyz", water(4))
    return folder
