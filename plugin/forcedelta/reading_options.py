"""What a user says about a file that the file does not say itself, and the atoms that are meant."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from .errors import ForceDeltaError
from .installing import command

_INDICES = re.compile(r"[\d\s,:]+")


@dataclass(frozen=True)
class ReadingOptions:
    """How to read a trajectory.

    Attributes:
        file_format: name in ASE, or in MDAnalysis with a topology; None: from name and content.
        type_map: elements of LAMMPS's types, as in "1=Si,2=O".
        no_pbc: drop cell and periodicity.
        select: the atoms that are kept: indices counted from 0, as in "0:9,12", or a selection in
            MDAnalysis's language, evaluated for the first frame.
        timestep: fs between two steps, or between two frames of files without steps.
        rattle: standard deviation (Å) of random displacements, which break the symmetry of ideal
            structures and are the same each time for a frame of the same number.
        topology: file that names the elements; None: the file does.
    """

    file_format: str | None = None
    type_map: str | None = None
    no_pbc: bool = False
    select: str | None = None
    timestep: float | None = None
    rattle: float | None = None
    topology: str | None = None

    @property
    def changes_frames(self) -> bool:
        """Whether frames differ from what the reader gives."""
        changing = (self.select, self.timestep, self.rattle)
        return self.no_pbc or any(value is not None for value in changing)


def part_of(atoms: Atoms, chosen: NDArray[np.int64]) -> Atoms:
    """Some atoms of a structure, with their forces if it has any."""
    part: Atoms = atoms[chosen]
    forces = None if atoms.calc is None else atoms.calc.results.get("forces")
    if forces is not None and len(forces) == len(atoms):
        part.calc = SinglePointCalculator(part, forces=np.asarray(forces)[chosen])
    return part


def without_cell(atoms: Atoms) -> Atoms:
    """A structure without cell and periodicity, with its results."""
    open_ = atoms.copy()
    open_.pbc = False
    open_.set_cell(None)
    open_.calc = atoms.calc
    return open_


def selected(select: str, atoms: Atoms, topology: Path | None = None) -> NDArray[np.int64]:
    """Indices of the selected atoms.

    Args:
        select: see `ReadingOptions`.
        atoms: of the first frame.
        topology: for names in a selection.

    Raises:
        ForceDeltaError: no atoms, or not a selection.
    """
    count = len(atoms)
    by_index = _INDICES.fullmatch(select) is not None
    found = _indices(select, count) if by_index else _by_mdanalysis(select, atoms, topology)
    if not len(found):
        raise ForceDeltaError(f"--select '{select}' selects none of the {count} atoms")
    return found


def _indices(select: str, count: int) -> NDArray[np.int64]:
    chosen: list[int] = []
    for part in select.replace(",", " ").split():
        try:
            numbers = [int(word) if word else None for word in part.split(":")]
            chosen += [numbers[0]] if len(numbers) == 1 else range(count)[slice(*numbers)]  # type: ignore[list-item]
        except (TypeError, ValueError):
            raise ForceDeltaError(f"--select '{select}': give indices as in 0:9,12") from None
    if any(k >= count for k in chosen):
        raise ForceDeltaError(
            f"--select '{select}' names atom {max(chosen)}, and there are {count}, counted from 0"
        )
    return np.array(sorted(set(chosen)), dtype=np.int64)


def _by_mdanalysis(select: str, atoms: Atoms, topology: Path | None) -> NDArray[np.int64]:
    try:
        import MDAnalysis
    except ModuleNotFoundError as error:
        raise ForceDeltaError(
            f"--select '{select}' needs MDAnalysis: {command('trajectories')}"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing attributes
        universe: Any = None
        if topology is not None:
            try:
                universe = MDAnalysis.Universe(str(topology), to_guess=())
            except Exception:
                universe = None  # a structure file of ASE: without names of residues
        if universe is None or len(universe.atoms) != len(atoms):
            symbols = atoms.get_chemical_symbols()
            universe = MDAnalysis.Universe.empty(len(symbols), trajectory=True)
            for attribute in ("names", "types", "elements"):
                universe.add_TopologyAttr(attribute, symbols)
        try:
            universe.atoms.positions = atoms.positions
            return np.array(universe.select_atoms(select).indices, dtype=np.int64)
        except Exception as error:
            raise ForceDeltaError(
                f"--select '{select}' is not a selection ({_reason(error)}): give indices as in "
                "0:9,12, or a selection of MDAnalysis, such as 'element C O'"
            ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
