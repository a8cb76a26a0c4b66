"""Frames of water with labels.

The reference is the gradient of the network's own energy: U is then the true error itself.
"""

from __future__ import annotations

from typing import Any

from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from forcedelta.ase import ForceDeltaCalculator


def water(count: int, seed: int = 0) -> list[Atoms]:
    """Frames of growing disorder, without labels."""
    frames = []
    for index in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.02 + 0.1 * index / count, seed=seed + index)
        frames.append(atoms)
    return frames


def label(atoms: Atoms, calculator: ForceDeltaCalculator) -> Atoms:
    """Put energy and forces to a frame, as a reference calculation does."""
    calculator.calculate(atoms, ["force_delta"])
    copy, results = atoms.copy(), calculator.results
    forces = results["conservative_forces"]
    copy.calc = SinglePointCalculator(copy, energy=results["energy"], forces=forces)
    return copy


def predicted(atoms: Atoms, calculator: ForceDeltaCalculator, **info: Any) -> Atoms:
    """A labelled frame with the predictions of a model, as 'forcedelta recalc' writes them."""
    frame = label(atoms, calculator)
    results = calculator.results
    frame.info.update(
        force_delta=results["force_delta"],
        model_energy=results["energy"],
        model=calculator.model.name,
        weights_hash=f"hash:{calculator.model.weights_hash}",
        reference="gradient",
        **info,
    )
    for name in ("direct_forces", "conservative_forces", "force_deltas"):
        frame.arrays[name] = results[name]
    return frame
