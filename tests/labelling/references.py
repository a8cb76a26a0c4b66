"""References that other processes can import; some fail as reference codes do."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT


@dataclass(frozen=True)
class Spring:
    """Atoms tied to the origin, E = sum r^2 / 2 (eV, Å), told apart by its label.

    Args:
        dies_at: an atom number; structures that begin with it end the process.
        naps: seconds that it takes.
    """

    dies_at: int = 0
    naps: float = 0.0

    @property
    def description(self) -> str:
        return "spring 1: harmonic"

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        time.sleep(self.naps)
        if atoms.numbers[0] == self.dies_at:
            print("about to run out of memory", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        print("iteration 1", flush=True)
        return {"energy": float((atoms.positions**2).sum() / 2), "forces": -atoms.positions}


@dataclass(frozen=True)
class Threads:
    """Tells how many threads its process was given, as an energy."""

    description: str = "threads"

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        assert threads == int(os.environ["OMP_NUM_THREADS"])
        return {"energy": float(threads), "forces": np.zeros((len(atoms), 3))}


@dataclass(frozen=True)
class FillsTheDisk:
    """No file that is written after it may hold a byte."""

    description: str = "fills the disk"

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        return {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


@dataclass(frozen=True)
class Wrong:
    """Gives results that are none."""

    kind: str

    @property
    def description(self) -> str:
        return f"wrong {self.kind}"

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        forces = np.zeros((len(atoms), 3))
        if self.kind == "shape":
            return {"energy": 0.0, "forces": forces[:-1]}
        if self.kind == "nan":
            forces[0, 0] = np.nan
        return {"energy": 0.0, "forces": forces}


class Held(EMT):
    """Waits once the journal in $HELD_JOURNAL has $HELD_LABELS labels, until that file is gone."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        journal = Path(os.environ.get("HELD_JOURNAL", "nowhere"))
        while labels_in(journal) >= int(os.environ.get("HELD_LABELS", "0")):
            time.sleep(0.02)
        super().calculate(atoms, properties, system_changes)


def labels_in(journal: Path) -> int:
    """How many labels are in a journal; -1 if there is none."""
    try:
        return journal.read_text().count('"kind": "label"')
    except FileNotFoundError:
        return -1


class Gathering(Calculator):
    """E = sum |r - mean r|^2 / 2 (eV, Å), which takes positions as they are and ignores the cell."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions - self.atoms.positions.mean(axis=0)
        self.results = {"energy": float((away**2).sum() / 2), "forces": -away}
