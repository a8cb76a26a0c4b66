"""Water of growing disorder, and paths that lead away from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from forcedelta.ase import ForceDeltaCalculator

FRAMES = 24
MODELS = ("one", "two", "three")


def water(count: int, seed: int = 0) -> list[Atoms]:
    """Water of growing disorder."""
    frames = []
    for index in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.02 + 0.1 * index / count, seed=seed + index)
        frames.append(atoms)
    return frames


def label(frames: list[Atoms], calculator: ForceDeltaCalculator, **info: object) -> list[Atoms]:
    """The frames with the gradient of the model's energy as the reference's forces."""
    labelled = []
    for atoms in frames:
        copy = atoms.copy()
        calculator.calculate(atoms.copy(), ["force_delta"])
        forces = calculator.results["conservative_forces"]
        copy.calc = SinglePointCalculator(copy, energy=calculator.results["energy"], forces=forces)
        copy.info.update(info)
        labelled.append(copy)
    return labelled


def attacked(paths: int, moves: int, seed: int = 5) -> list[Atoms]:
    """Paths that lead away from water, as those of an attack."""
    rng = np.random.default_rng(seed)
    frames = []
    for path in range(paths):
        start = molecule("H2O")
        start.rattle(0.02, seed=seed + path)
        direction = rng.normal(size=(3, 3))
        for move in range(moves):
            atoms = start.copy()
            atoms.positions += 0.02 * move * direction
            atoms.info.update(path=path, move=move)
            frames.append(atoms)
    return frames


def models(files: Path, *names: str) -> list[Path]:
    return [files / f"{name}.safetensors" for name in names or MODELS]


def options(files: Path, *names: str) -> list[object]:
    return [word for model in models(files, *names) for word in ("--model", model)]
