"""Elements from a topology, never guessed from atom names."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io.formats import filetype
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.reading import read_text_format
from forcedelta.trajectories.base import reason_of

_SAME_MASS = 0.1  # amu; repartitioned hydrogen masses match no element
_WITHOUT_ELEMENTS = ("lammps-dump-text", "gromacs")


def elements_of(topology: Path) -> NDArray[np.int64]:
    """Atomic numbers from a file that MDAnalysis or ASE reads, or from unambiguous names of GRO.

    Raises:
        ForceDeltaError: it cannot be read, or names no elements.
    """
    if topology.suffix.lower() == ".gro":
        return _of_gro(topology)
    try:
        import MDAnalysis
    except ModuleNotFoundError:
        return _by_ase(topology, None)
    try:
        with warnings.catch_warnings():
            # about missing coordinates and attributes, which are not needed here
            warnings.simplefilter("ignore")
            atoms = MDAnalysis.Universe(str(topology), to_guess=()).atoms
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
            return nearest.astype(np.int64)
    raise _without_elements(topology)


def _of_gro(topology: Path) -> NDArray[np.int64]:
    """Atomic numbers as those of a trajectory in this format: ``OW`` is oxygen, ``CA`` is refused."""
    try:
        atoms = read_text_format(str(topology), 0, file_format="gromacs")
    except ForceDeltaError as error:
        raise ForceDeltaError(f"{topology}: {error}") from error
    assert isinstance(atoms, Atoms)
    return np.array(atoms.numbers, dtype=np.int64)


def _by_ase(topology: Path, error: Exception | None) -> NDArray[np.int64]:
    """Atomic numbers from a structure file that MDAnalysis does not accept as a topology."""
    try:
        file_format = filetype(str(topology))
        found = ase.io.read(str(topology))
    except Exception as second:
        first = second if error is None else error
        raise ForceDeltaError(
            f"{topology} cannot be read as a topology ({reason_of(first)}): give one that "
            "MDAnalysis reads, or a structure file of ASE"
        ) from second
    if file_format in _WITHOUT_ELEMENTS:
        raise _without_elements(topology)
    assert isinstance(found, Atoms)
    return np.array(found.numbers, dtype=np.int64)


def _without_elements(topology: Path) -> ForceDeltaError:
    return ForceDeltaError(
        f"{topology} does not name the elements of its atoms: give a topology that does, "
        "such as a PDB file with its element column, a TPR or PRMTOP file, or any structure "
        "file of ASE with the atoms in the order of the trajectory"
    )
