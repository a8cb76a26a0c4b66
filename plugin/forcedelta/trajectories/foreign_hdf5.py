"""HDF5 files of other programs, recognised by what they contain."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from forcedelta.errors import ForceDeltaError
from forcedelta.trajectories.base import RandomAccessTrajectory, StoredFrame, StoredTrajectory
from forcedelta.trajectories.h5md_reader import H5MDTrajectory
from md_hooks.foreign_fields import finite, step_of

_NM, _PS = 10.0, 1000.0  # Å, fs


VELOCITIES = "the file does not name the unit of its velocities: they are left out"


class TorchSimTrajectory(RandomAccessTrajectory):
    """A file of torch-sim's TrajectoryReporter: ``data/positions`` [F, N, 3] Å and its companions."""

    kind = "torch-sim"

    def __init__(self, file: h5py.File) -> None:
        self._file, self._data = file, file["data"]
        self._positions = self._data["positions"]

    def __len__(self) -> int:
        return len(self._positions)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        numbers = self._of("atomic_numbers", index, 1)
        if numbers is None:
            raise ForceDeltaError("it has no atomic numbers")
        cell, pbc = self._of("cell", index, 2), self._of("pbc", index, 1)
        if pbc is None:
            pbc = np.full(3, cell is not None and bool(np.any(cell)))
        masses = self._of("masses", index, 1)
        # torch-sim keeps cell vectors as columns
        atoms = Atoms(
            numbers=numbers.astype(int), positions=self._positions[index].astype(float),
            cell=None if cell is None else cell.T.astype(float),
            pbc=np.broadcast_to(pbc, 3).astype(bool), masses=masses,
        )  # fmt: skip
        notes = (VELOCITIES,) if "velocities" in self._data else ()
        steps = self._file.get("steps/positions")
        step = None if steps is None else step_of(steps[index])
        return StoredFrame(index, atoms, step=step, notes=notes)

    def _of(self, name: str, index: int, dimensions: int) -> np.ndarray | None:
        """A quantity of a frame, which may be stored once for all frames."""
        if name not in self._data:
            return None
        stored = self._data[name]
        if stored.ndim == dimensions:
            return np.asarray(stored[()])
        return np.asarray(stored[0 if len(stored) == 1 else index])


class MDTrajTrajectory(RandomAccessTrajectory):
    """A file of mdtraj: coordinates and cells in nm, times in ps, the topology as JSON."""

    kind = "mdtraj HDF5"

    def __init__(self, file: h5py.File) -> None:
        import json

        self._file, self._positions = file, file["coordinates"]
        text = file["topology"][()]
        text = text[0] if isinstance(text, np.ndarray) else text
        chains = json.loads(text)["chains"]
        atoms = [a for chain in chains for residue in chain["residues"] for a in residue["atoms"]]
        symbols = [a["element"] for a in sorted(atoms, key=lambda a: int(a["index"]))]
        unknown = [symbol for symbol in symbols if symbol not in atomic_numbers]
        if unknown:
            raise ForceDeltaError(f"its topology names '{unknown[0]}', which is not an element")
        self._numbers = [atomic_numbers[symbol] for symbol in symbols]

    def __len__(self) -> int:
        return len(self._positions)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        file = self._file
        atoms = Atoms(self._numbers, self._positions[index].astype(float) * _NM)
        if "cell_lengths" in file and np.all(file["cell_lengths"][index] > 0):
            lengths = file["cell_lengths"][index].astype(float) * _NM
            atoms.set_cell([*lengths, *file["cell_angles"][index].astype(float)])
            atoms.pbc = True
        velocities = None
        if "velocities" in file:
            velocities = file["velocities"][index].astype(float) * _NM / _PS
        time = finite(file["time"][index] * _PS) if "time" in file else None
        return StoredFrame(index, atoms, time=time, velocities=velocities)


def open_foreign_hdf5(path: Path) -> StoredTrajectory:
    """The reader of an HDF5 file of another program.

    Raises:
        ForceDeltaError: it stores no elements, or it is of no known program.
    """
    file = h5py.File(path, "r", locking=False)
    try:
        if isinstance(file.get("data/positions"), h5py.Dataset):
            return TorchSimTrajectory(file)
        if isinstance(file.get("coordinates"), h5py.Dataset) and "topology" in file:
            return MDTrajTrajectory(file)
        names = ", ".join(list(file)[:8])
        h5md = "particles" in file
    except (KeyError, TypeError, ValueError) as error:
        file.close()
        raise ForceDeltaError(f"{path} cannot be read as HDF5 of mdtraj ({error})") from error
    except BaseException:
        file.close()
        raise
    file.close()
    if h5md:
        return H5MDTrajectory(path, None)
    if "coordinates" in names or "cell_lengths" in names:
        raise ForceDeltaError(
            f"{path} does not store elements: pass a file that does as --topology "
            "(PDB, PRMTOP, TPR, PSF, or a structure that ASE reads)"
        )
    raise ForceDeltaError(
        f"{path} is HDF5 of an unknown layout ({names}): write it as H5MD or extended XYZ"
    )
