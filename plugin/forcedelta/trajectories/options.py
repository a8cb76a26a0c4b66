"""What a user says about a file that the file does not say itself."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command
from forcedelta.trajectories.base import (
    UNKNOWN_TIMES,
    StoredFrame,
    StoredTrajectory,
    UnreadableFrame,
    reason_of,
)

_INDICES = re.compile(r"[\d\s,:]+")


@dataclass(frozen=True)
class ReadingOptions:
    """How to read a trajectory.

    Attributes:
        file_format: name in ASE, or in MDAnalysis with a topology; None: from name and content.
        type_map: elements of LAMMPS's types, as in "1=Si,2=O".
        no_pbc: drop cell and periodicity.
        select: the audited atoms: indices counted from 0, as in "0:9,12", or a selection in
            MDAnalysis's language, evaluated for the first frame.
        timestep: fs between two steps, or between two frames of files without steps.
        rattle: standard deviation (Å) of random displacements, which break the symmetry of ideal
            structures and are the same each time for a frame of the same number.
    """

    file_format: str | None = None
    type_map: str | None = None
    no_pbc: bool = False
    select: str | None = None
    timestep: float | None = None
    rattle: float | None = None


class AdaptedTrajectory(StoredTrajectory):
    """A trajectory whose frames are changed as the user says.

    Args:
        source: as read from the file.
        options: `ReadingOptions`; format and types are the reader's.
        topology: for the names in selections.
    """

    def __init__(
        self, source: StoredTrajectory, options: ReadingOptions, topology: Path | None
    ) -> None:
        self._source, self._options, self._topology = source, options, topology
        self.kind = source.kind
        self._chosen: NDArray[np.int64] | None = None
        self._atoms = 0
        if options.select is not None:
            first = next((f for f in source.frames(0, None, 1) if isinstance(f, StoredFrame)), None)
            if first is not None:
                self._atoms = len(first.atoms)
                self._chosen = _selected(options.select, first, topology)

    def __len__(self) -> int:
        return len(self._source)

    def run_id(self) -> str:
        """The id of the source; see `StoredTrajectory`."""
        return self._source.run_id()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def frames(
        self, start: int, stop: int | None, every: int
    ) -> Iterator[StoredFrame | UnreadableFrame]:
        """See `StoredTrajectory`."""
        for item in self._source.frames(start, stop, every):
            yield self._adapted(item) if isinstance(item, StoredFrame) else item

    def _adapted(self, frame: StoredFrame) -> StoredFrame | UnreadableFrame:
        options, atoms = self._options, frame.atoms
        changes: dict[str, Any] = {}
        if self._chosen is not None:
            if len(atoms) != self._atoms:
                return UnreadableFrame(
                    frame.index,
                    f"it has {len(atoms)} atoms, and --select was evaluated for {self._atoms}",
                )
            atoms = atoms[self._chosen]
            if frame.velocities is not None:
                changes["velocities"] = frame.velocities[self._chosen]
                changes["temperature"] = atoms.get_temperature() if atoms.has("momenta") else None
        if options.no_pbc:
            atoms = atoms.copy()
            atoms.pbc = False
            atoms.set_cell(None)
        if options.rattle is not None:
            atoms = atoms.copy()
            moves = np.random.default_rng(frame.index).normal(size=atoms.positions.shape)
            atoms.positions += options.rattle * moves  # those of constrained atoms, too
        if options.timestep is not None:
            step = frame.index if frame.step is None else frame.step
            changes["time"] = step * options.timestep
            changes["notes"] = tuple(n for n in frame.notes if n != UNKNOWN_TIMES)
        return replace(frame, atoms=atoms, **changes)


def _selected(select: str, frame: StoredFrame, topology: Path | None) -> NDArray[np.int64]:
    """Indices of the selected atoms.

    Raises:
        ForceDeltaError: no atoms, or not a selection.
    """
    count = len(frame.atoms)
    by_index = _INDICES.fullmatch(select) is not None
    found = _indices(select, count) if by_index else _by_mdanalysis(select, frame, topology)
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


def _by_mdanalysis(select: str, frame: StoredFrame, topology: Path | None) -> NDArray[np.int64]:
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
        if universe is None or len(universe.atoms) != len(frame.atoms):
            symbols = frame.atoms.get_chemical_symbols()
            universe = MDAnalysis.Universe.empty(len(symbols), trajectory=True)
            for attribute in ("names", "types", "elements"):
                universe.add_TopologyAttr(attribute, symbols)
        try:
            universe.atoms.positions = frame.atoms.positions
            return np.array(universe.select_atoms(select).indices, dtype=np.int64)
        except Exception as error:
            raise ForceDeltaError(
                f"--select '{select}' is not a selection ({reason_of(error)}): give indices as in "
                "0:9,12, or a selection of MDAnalysis, such as 'element C O'"
            ) from error
