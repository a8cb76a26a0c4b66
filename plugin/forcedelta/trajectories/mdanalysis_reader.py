"""Reader of trajectories with a topology by MDAnalysis: DCD, XTC, TRR, H5MD, NetCDF and others."""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command
from forcedelta.trajectories.base import RandomAccessTrajectory, StoredFrame, reason_of
from md_hooks.foreign_fields import finite, step_of

_FS = 1000.0  # fs in a ps, MDAnalysis's unit of time
_SAME_MASS = 0.1  # amu; repartitioned hydrogen masses match no element

SILENCED = ("Reader has no dt information", "DCDReader currently makes independent timesteps")
"""Warnings of MDAnalysis that are handled here: times are omitted, frames are copied."""


class MDAnalysisTrajectory(RandomAccessTrajectory):
    """A trajectory with the topology that names its elements.

    MDAnalysis converts every format to Å and ps. The temperature counts 3N degrees of freedom, as
    the files do not record constraints.

    Raises:
        ForceDeltaError: MDAnalysis is missing, cannot read one of the files, or the topology names no
            elements.
    """

    kind = "read by MDAnalysis"

    def __init__(self, path: Path, topology: Path) -> None:
        try:
            import MDAnalysis
        except ModuleNotFoundError as error:
            raise ForceDeltaError(
                f"{path} needs MDAnalysis to be read: {command('trajectories')}"
            ) from error
        self._mda = MDAnalysis
        self._numbers = self._elements(topology)
        self._masses = atomic_masses[self._numbers]
        universe = MDAnalysis.Universe.empty(len(self._numbers), trajectory=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                universe.load_new(str(path))
            except Exception as error:
                reason = reason_of(error)
                _release_reader(error)
                raise ForceDeltaError(
                    f"{path} cannot be read with {topology}, which has {len(self._numbers)} atoms "
                    f"({reason}): give the matching topology, or a complete copy of the trajectory"
                ) from error
        self._universe = universe
        self._timed = not any(SILENCED[0] in str(warning.message) for warning in caught)
        self.kind = str(universe.trajectory.format)

    def _elements(self, topology: Path) -> NDArray[np.int64]:
        """Atomic numbers from the topology, never guessed from atom names."""
        try:
            with warnings.catch_warnings():
                # about missing coordinates and attributes, which are not needed here
                warnings.simplefilter("ignore")
                atoms = self._mda.Universe(str(topology), to_guess=()).atoms
        except Exception as error:
            return _by_ase(topology, error)
        symbols = [str(s).capitalize() for s in getattr(atoms, "elements", ())]
        if symbols and all(symbol in atomic_numbers for symbol in symbols):
            return np.array([atomic_numbers[symbol] for symbol in symbols])
        if topology.suffix.lower() == ".xyz":
            return _by_ase(topology, None)
        masses = getattr(atoms, "masses", None)
        if masses is not None:
            nearest = np.abs(masses[:, None] - atomic_masses[None, 1:]).argmin(axis=1) + 1
            if (np.abs(atomic_masses[nearest] - masses) < _SAME_MASS).all():
                return nearest
        raise ForceDeltaError(
            f"{topology} does not name the elements of its atoms: give a topology that does, "
            "such as a PDB file with its element column, a TPR or PRMTOP file, or any structure "
            "file of ASE with the atoms in the order of the trajectory"
        )

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
        box = frame.triclinic_dimensions
        periodic = box is not None and bool(np.all(frame.dimensions[:3] > 0))
        atoms = Atoms(
            numbers=self._numbers,
            positions=frame.positions.astype(float),
            cell=box.astype(float) if periodic else None,
            pbc=periodic,
        )
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
            step=None if self.kind == "DCD" else step_of(frame.data.get("step")),
            time=finite(round(frame.time * _FS, 6)) if self._timed else None,
            velocities=velocities,
            temperature=temperature,
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


def _by_ase(topology: Path, error: Exception | None) -> NDArray[np.int64]:
    """Atomic numbers from a structure file that MDAnalysis does not accept as a topology."""
    try:
        found = ase.io.read(str(topology))
    except Exception as second:
        first = second if error is None else error
        raise ForceDeltaError(
            f"{topology} cannot be read as a topology ({reason_of(first)}): give one that "
            "MDAnalysis reads, or a structure file of ASE"
        ) from second
    assert isinstance(found, Atoms)
    return np.array(found.numbers, dtype=np.int64)
