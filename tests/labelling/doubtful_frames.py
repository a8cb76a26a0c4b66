"""Structures to label, also for the processes that tests start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

from md_hooks import Frame, HookChain, Recorder, RunInfo, RunResult

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


def record_attack(path: Path, frames: list[Atoms]) -> None:
    """Record frames as an attack would, with path and move where they have them, all at time 0."""
    chain = HookChain([Recorder(path, every=1)])
    chain.open(RunInfo(model={"name": "wet", "weights_hash": "12"}))
    for atoms in frames:
        info = atoms.info
        chain.dispatch(
            Frame(
                step=info["step"], time=0.0, numbers=atoms.numbers, positions=atoms.positions,
                velocities=None, masses=atoms.get_masses(), cell=atoms.cell.array, pbc=atoms.pbc,
                energy=info["model_energy"], forces=atoms.arrays["direct_forces"], temperature=None,
                force_delta=info["force_delta"],
                force_deltas=np.full(len(atoms), info["force_delta"]),
                direct_forces=atoms.arrays["direct_forces"],
                conservative_forces=atoms.arrays["conservative_forces"],
                extra={name: float(info[name]) for name in ("path", "move") if name in info},
            )
        )  # fmt: skip
    chain.close(RunResult("finished", len(frames), 0.0))
