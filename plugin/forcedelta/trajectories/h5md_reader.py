"""H5MD files of other programs, with the freedoms that the specification leaves.

Units may be missing, steps and times may be constants, the box may be fixed
(https://h5md.nongnu.org/h5md.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.trajectories.base import RandomAccessTrajectory, StoredFrame
from md_hooks.foreign_fields import finite, step_of

_LENGTHS = {"angstrom": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "pm": 0.01, "bohr": units.Bohr}
_TIMES = {"fs": 1.0, "ps": 1e3, "ns": 1e6, "s": 1e15}
_NO_UNITS = "the file does not name its unit of length: positions and cell are taken as Å"
_NO_VELOCITY_UNITS = "the file does not name a known unit of its velocities: they are left out"


class H5MDTrajectory(RandomAccessTrajectory):
    """A particles group of an H5MD file.

    Args:
        path: the file.
        numbers: atomic numbers of a topology; None: the file must name elements.

    Raises:
        ForceDeltaError: no positions, no elements, another number of atoms, or unknown units.
    """

    kind = "H5MD"

    def __init__(self, path: Path, numbers: NDArray[np.int64] | None) -> None:
        self._file = h5py.File(path, "r", locking=False)
        try:
            self._open(path, numbers)
        except BaseException:
            self._file.close()
            raise

    def _open(self, path: Path, numbers: NDArray[np.int64] | None) -> None:
        groups = self._file.get("particles") or {}
        named = [name for name in groups if "position" in groups[name]]
        if len(named) != 1:
            raise ForceDeltaError(
                f"{path} has {len(named)} groups of particles with positions, and one can be read: "
                "write one group to a file"
            )
        self._group = groups[named[0]]
        self._positions = _values(self._group["position"])
        if self._positions is None or self._positions.ndim != 3:
            raise ForceDeltaError(f"{path} has no positions [frames, atoms, 3]")
        self._numbers = _elements(self._group.get("species")) if numbers is None else numbers
        if self._numbers is None:
            raise ForceDeltaError(
                f"{path} does not store elements: pass a file that does as --topology "
                "(PDB, PRMTOP, TPR, PSF, or a structure that ASE reads)"
            )
        atoms = self._positions.shape[1]
        if len(self._numbers) != atoms:
            raise ForceDeltaError(
                f"{path} cannot be read with the topology, which has {len(self._numbers)} atoms and "
                f"not {atoms}: give the matching topology"
            )
        self._length = _scale(self._group["position"], _LENGTHS, path)

    def __len__(self) -> int:
        return len(self._positions)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        notes = [] if self._length is not None else [_NO_UNITS]
        scale = self._length or 1.0
        cell, pbc = self._box(index, scale)
        atoms = Atoms(
            self._numbers, self._positions[index].astype(float) * scale, cell=cell, pbc=pbc
        )
        velocities = temperature = None
        if "velocity" in self._group:
            speed = _speed(self._group["velocity"])
            if speed is None:
                notes.append(_NO_VELOCITY_UNITS)
            else:
                velocities = _values(self._group["velocity"])[index].astype(float) * speed
                masses = atomic_masses[self._numbers][:, None]
                kinetic = 0.5 * (masses * velocities**2).sum() / units.fs**2
                temperature = float(2 * kinetic / (3 * len(atoms) * units.kB))
        element = self._group["position"]
        time = _at(element.get("time"), index) if isinstance(element, h5py.Group) else None
        unit = _TIMES.get(_unit(element["time"]) or "") if time is not None else None
        return StoredFrame(
            index,
            atoms,
            step=step_of(_at(element.get("step"), index))
            if isinstance(element, h5py.Group)
            else None,
            time=finite(round(time * unit, 6)) if time is not None and unit is not None else None,
            velocities=velocities,
            temperature=temperature,
            notes=tuple(notes),
        )

    def _box(
        self, index: int, scale: float
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_]]:
        """Cell [3, 3] (Å) and periodicity."""
        box = self._group.get("box")
        open_ = np.zeros(3, dtype=bool)
        if box is None or "edges" not in box:
            return None, open_
        edges = box["edges"]
        stored = _values(edges)
        row = stored[index] if isinstance(edges, h5py.Group) else stored[()]
        own = _scale(edges, _LENGTHS, Path(self._file.filename))
        matrix = np.asarray(row, dtype=float) * (scale if own is None else own)
        matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
        if not np.isfinite(matrix).all() or not matrix.any():
            return None, open_
        boundary = box.attrs.get("boundary")
        if boundary is None:
            return matrix, ~open_
        return matrix, np.broadcast_to(
            [_text(word) == "periodic" for word in np.atleast_1d(boundary)], 3
        )


def _values(element: Any) -> Any:
    """The dataset of an element, which is a group with ``value`` if it depends on time."""
    return element.get("value") if isinstance(element, h5py.Group) else element


def _at(stored: Any, index: int) -> float | None:
    """Step or time of a frame: one for each, or an increment with an offset; None if missing."""
    if stored is None:
        return None
    if stored.ndim:
        return float(stored[index])
    return float(stored[()]) * index + float(stored.attrs.get("offset", 0))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unit(element: Any) -> str | None:
    """The unit of an element, in small letters, which is an attribute of it or of its dataset."""
    for holder in (_values(element), element):
        if holder is not None and "unit" in holder.attrs:
            return _text(holder.attrs["unit"]).strip().lower()
    return None


def _scale(element: Any, known: dict[str, float], path: Path) -> float | None:
    """Å in its unit; None if it names none."""
    unit = _unit(element)
    if unit in (None, ""):
        return None
    if unit not in known:
        raise ForceDeltaError(
            f"{path} has lengths in {unit}, which is unknown here: write them in Å"
        )
    return known[unit]


def _speed(element: Any) -> float | None:
    """Å/fs in its unit, as "Angstrom ps-1" or "nm/ps"; None if that is unknown."""
    words = (_unit(element) or "").replace("/", " ").replace("-1", "").replace("^", "").split()
    if len(words) != 2 or words[0] not in _LENGTHS or words[1] not in _TIMES:
        return None
    return _LENGTHS[words[0]] / _TIMES[words[1]]


def _elements(species: Any) -> NDArray[np.int64] | None:
    """Atomic numbers from species with names of elements; other species are types of any meaning."""
    stored = None if species is None else _values(species)
    if stored is None:
        return None
    row = np.asarray(stored[0] if stored.ndim == 2 else stored[()])
    names = h5py.check_enum_dtype(stored.dtype)
    if names is not None:
        symbols = {number: name for name, number in names.items()}
        words = [symbols.get(int(kind), "") for kind in row]
    elif row.dtype.kind in "SO":
        words = [_text(word) for word in row]
    else:
        return None
    if not all(word in chemical_symbols[1:] for word in words):
        return None
    return np.array([chemical_symbols.index(word) for word in words], dtype=np.int64)
