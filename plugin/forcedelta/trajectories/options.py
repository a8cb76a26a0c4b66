"""Trajectories whose frames are changed as the user says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcedelta.reading_options import ReadingOptions, part_of, selected, without_cell
from forcedelta.trajectories.base import (
    UNKNOWN_TIMES,
    StoredFrame,
    StoredTrajectory,
    UnreadableFrame,
)


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
                self._chosen = selected(options.select, first.atoms, topology)

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
            atoms = part_of(atoms, self._chosen)
            if frame.velocities is not None:
                changes["velocities"] = frame.velocities[self._chosen]
                changes["temperature"] = atoms.get_temperature() if atoms.has("momenta") else None
        if options.no_pbc:
            atoms = without_cell(atoms)
        if options.rattle is not None:
            atoms = atoms.copy()
            moves = np.random.default_rng(frame.index).normal(size=atoms.positions.shape)
            atoms.positions += options.rattle * moves  # those of constrained atoms, too
        if options.timestep is not None:
            step = frame.index if frame.step is None else frame.step
            changes["time"] = step * options.timestep
            changes["notes"] = tuple(n for n in frame.notes if n != UNKNOWN_TIMES)
        return replace(frame, atoms=atoms, **changes)
