"""Reader of trajectories with a topology by MDAnalysis: DCD, XTC, TRR, H5MD, NetCDF and others."""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command
from forcedelta.trajectories.base import (
    UNKNOWN_TIMES,
    RandomAccessTrajectory,
    StoredFrame,
    reason_of,
)
from forcedelta.trajectories.raw_cells import RawCells
from forcedelta.trajectories.topology import elements_of
from md_hooks.foreign_fields import finite, step_of

_FS = 1000.0  # fs in a ps, MDAnalysis's unit of time

SILENCED = ("Reader has no dt information", "DCDReader currently makes independent timesteps")
"""Warnings of MDAnalysis that are handled here: times are omitted, frames are copied."""


class MDAnalysisTrajectory(RandomAccessTrajectory):
    """A trajectory with the topology that names its elements.

    MDAnalysis converts every format to Å and ps. The temperature counts 3N degrees of freedom, as
    the files do not record constraints.

    Args:
        path: the trajectory.
        topology: see `elements_of`.
        file_format: name in MDAnalysis; None: by the ending of the path.
        no_pbc: ignore its cell.

    Raises:
        ForceDeltaError: MDAnalysis is missing, cannot read one of the files, or the topology names no
            elements.
    """

    kind = "read by MDAnalysis"

    def __init__(
        self, path: Path, topology: Path, file_format: str | None = None, no_pbc: bool = False
    ) -> None:
        try:
            import MDAnalysis
        except ModuleNotFoundError as error:
            raise ForceDeltaError(
                f"{path} needs MDAnalysis to be read: {command('trajectories')}"
            ) from error
        self._numbers = elements_of(topology)
        self._masses = atomic_masses[self._numbers]
        universe = MDAnalysis.Universe.empty(len(self._numbers), trajectory=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                universe.load_new(str(path), format=file_format)
            except Exception as error:
                reason = reason_of(error)
                _release_reader(error)
                raise ForceDeltaError(
                    f"{path} cannot be read with {topology}, which has {len(self._numbers)} atoms "
                    f"({reason}): give the matching topology, or a complete copy of the trajectory"
                ) from error
        self._universe = universe
        self.kind = str(universe.trajectory.format)
        self._cells = None if no_pbc else RawCells(universe.trajectory, self.kind)

    def __len__(self) -> int:
        return int(self._universe.trajectory.n_frames)

    def close(self) -> None:
        """Close the file."""
        self._universe.trajectory.close()

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        with warnings.catch_warnings():
            for message in SILENCED:
                warnings.filterwarnings("ignore", message=message)
            frame: Any = self._universe.trajectory[index]
            box, notes = (None, []) if self._cells is None else self._cells.of(frame)
        periodic = box is not None and bool(np.any(box))
        atoms = Atoms(
            numbers=self._numbers,
            positions=frame.positions.astype(float),
            cell=box if periodic else None,
            pbc=periodic,
        )
        step, time = step_of(frame.data.get("step")), None
        if self.kind == "DCD":
            header = self._universe.trajectory._file.header
            step = step_of(header["istart"] + index * header["nsavc"])
            if "LAMMPS" in header["remarks"]:
                notes.append(UNKNOWN_TIMES)
            elif "NAMD" not in header["remarks"] and header["istart"] <= header["nsavc"]:
                step = None  # often not filled in
        timed = "time" in frame.data or "dt" in frame.data
        if timed and UNKNOWN_TIMES not in notes:
            time = finite(round(frame.time * _FS, 6))
        velocities = temperature = None
        if frame.has_velocities:
            velocities = frame.velocities.astype(float) / _FS
            kinetic = (
                0.5 * np.vdot(velocities**2, self._masses[:, None] + np.zeros(3)) / units.fs**2
            )
            temperature = float(2.0 * kinetic / (3 * len(atoms) * units.kB))
        return StoredFrame(
            index=index,
            atoms=atoms,
            step=step,
            time=time,
            velocities=velocities,
            temperature=temperature,
            notes=tuple(notes),
        )


def _release_reader(error: BaseException | None) -> None:
    """Free a partly constructed reader silently; Python would print errors of its clean-up."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
    finally:
        sys.unraisablehook = hook
