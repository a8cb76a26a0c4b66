"""A molecule that is shaken, and small untrained networks to audit it with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule

from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork

PROGRAM = [sys.executable, "-c", "from forcedelta.cli import main; main()"]
FRAMES = 24


def network(path: Path, elements: list[int], periodic: bool | None) -> Path:
    """An untrained network; quick, and its forces disagree."""
    torch.manual_seed(3)
    made = DirectForceNetwork(elements, 4.0, features=8, channels=4, layers=1, radial=4)
    save_network(
        path,
        made,
        {
            "name": path.stem,
            "training_set": "none",
            "source": "random numbers",
            "level_of_theory": "none",
            "periodic": periodic,
            "regime": "untrained",
            "tests": {},
            "licence": "MIT",
        },
    )
    return path


def moving(frames: int = FRAMES, seed: int = 0) -> list[Atoms]:
    """Ethanol that is shaken, ever harder, with velocities; on the grid of float32."""
    rng = np.random.default_rng(seed)
    start = molecule("CH3CH2OH")
    images = []
    for k in range(frames):
        atoms = start.copy()
        shake = rng.normal(scale=0.005 * (k + 1), size=(len(atoms), 3))
        # DCD, XTC and TRR keep float32: the same numbers in every format but XTC
        atoms.positions = (atoms.positions + shake).astype("f4")
        atoms.set_velocities(rng.normal(scale=0.01, size=(len(atoms), 3)) / units.fs)
        images.append(atoms)
    return images
