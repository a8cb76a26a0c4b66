"""A molecule that is shaken."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import molecule

FRAMES = 24


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
