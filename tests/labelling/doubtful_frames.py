"""Structures to label, also for the processes that tests start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

ACETYLACETONE = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"


def doubtful(seed: int, step: int | None = None, force_delta: float = 0.1) -> Atoms:
    """A distorted water molecule as a flagged frame: with what a model said about it."""
    rng = np.random.default_rng(seed)
    atoms = molecule("H2O")
    atoms.rattle(0.05, rng=rng)
    atoms.info.update(
        step=step if step is not None else seed, time=100.0 * seed, force_delta=force_delta,
        model_energy=-14.0, source="run.h5", model="wet", weights_hash="hash:12",
    )  # fmt: skip
    for name in ("direct_forces", "conservative_forces"):
        atoms.set_array(name, rng.normal(size=(3, 3)))
    atoms.set_array("force_deltas", np.abs(rng.normal(size=3)))
    return atoms
