"""Models of PDB files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.proteindatabank import read_proteindatabank
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.elements import HYDROGENS, element_of_name

_PLACEHOLDER = 2.0  # Å; a shorter cell vector is "no cell", as in CRYST1 1.000 1.000 1.000


def split_pdb(file: IO[Any]) -> Iterator[bytes]:
    """The records of each model, with the cell of the file's header.

    Raises:
        ForceDeltaError: the file ends within a model.
    """
    cell: list[bytes] = []
    rows: list[bytes] = []
    inside = False
    for line in file:
        if line.startswith(b"MODEL"):
            inside = True
        elif line.startswith((b"CRYST1", b"ORIGX")):
            if line.startswith(b"CRYST1"):
                cell = []
            cell.append(line)
        elif line.startswith((b"ATOM", b"HETATM")):
            rows.append(line)
        elif line.startswith(b"ENDMDL") or line.rstrip() == b"END":
            if rows:
                yield b"".join([*cell, *rows])
            rows, inside = [], False
    if inside:
        raise ForceDeltaError("the file is cut off in the middle of this model")
    if rows:
        if len(rows[-1].rstrip()) < 54:
            raise ForceDeltaError("the file is cut off in the middle of its last atom")
        yield b"".join([*cell, *rows])


def parse_pdb(text: bytes, numbers: NDArray[np.int64] | None = None) -> tuple[Atoms, list[str]]:
    """The structure of a model, without a cell where that is a placeholder, and notes.

    Deuterium and tritium are hydrogen with the masses of the isotopes, which a note says.

    Args:
        text: as `split_pdb` yields it.
        numbers: atomic numbers of a topology.

    Raises:
        ForceDeltaError: an element is ambiguous; alternate locations or partial occupancies.
    """
    rows = [line for line in text.decode().splitlines() if line.startswith(("ATOM", "HETATM"))]
    if numbers is None:
        numbers = np.array([_number(row, k) for k, row in enumerate(rows)])
    _check_ordered(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unusual records
        # elements are those above
        carbon = "".join(f"{row:<80.76} C\n" if row.startswith(("ATOM", "HETATM")) else row + "\n"
                         for row in text.decode().splitlines())  # fmt: skip
        atoms = read_proteindatabank(io.StringIO(carbon), index=0, read_arrays=False)
    if len(numbers) != len(atoms):
        raise ForceDeltaError(
            f"it has {len(atoms)} atoms and the topology {len(numbers)}: give the matching topology"
        )
    atoms.numbers[:] = numbers
    notes = _set_isotopes(atoms, rows)
    if atoms.pbc.any() and atoms.cell.lengths().min() < _PLACEHOLDER:
        atoms.set_cell(None)
        atoms.pbc = False
    return atoms, notes


def _set_isotopes(atoms: Atoms, rows: list[str]) -> list[str]:
    """Give hydrogen atoms the masses of the isotopes that the file names, with a note for each kind."""
    symbols = [row[76:78].strip().capitalize() for row in rows]
    masses, notes = atoms.get_masses(), []
    for isotope, mass in HYDROGENS.items():
        named = np.array([symbol == isotope for symbol in symbols]) & (atoms.numbers == 1)
        if named.any():
            masses[named] = mass
            notes.append(f"it names the isotope {isotope}: read as H with a mass of {mass} amu")
    if notes:
        atoms.set_masses(masses)
    return notes


def _number(row: str, index: int) -> int:
    symbol = row[76:78].strip().capitalize()
    if symbol in HYDROGENS:
        symbol = "H"
    if symbol in atomic_numbers:
        return atomic_numbers[symbol]
    element = element_of_name(row[12:16])
    if element is None:
        raise ForceDeltaError(
            f"the element of atom {index}, counted from 0, is not clear from its name "
            f"'{row[12:16].strip()}': fill the element column, or pass a file with the elements as "
            "--topology"
        )
    return atomic_numbers[element]


def _check_ordered(rows: list[str]) -> None:
    """Refuse atoms with several locations, of which all would be taken."""
    for index, row in enumerate(rows):
        name, place = row[12:16].strip(), row[16:17].strip()
        share = _share(row[54:60])
        if place and not (place == "A" and share == 1.0):
            raise ForceDeltaError(
                f"atom {index}, counted from 0 ({name}), has the alternate location {place} with an "
                f"occupancy of {share:g}: give an ordered structure, with one location for each atom"
            )
        if 0.0 < share < 1.0:
            raise ForceDeltaError(
                f"the site of atom {index}, counted from 0 ({name}), is partly occupied ({share:g}): "
                "give an ordered structure"
            )


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
