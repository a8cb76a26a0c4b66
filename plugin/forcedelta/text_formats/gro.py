"""Frames of GROMACS's .gro files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.elements import element_of_name
from forcedelta.text_formats.splitting import check_complete, next_lines

_TITLE = re.compile(r"\bt=\s*([-+.\deE]+)(?:\s+step=\s*(\d+))?")
_NM = 10.0  # Å
_CELL = ([0, 1, 2, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 0, 2, 0, 1])
"""Rows and columns of the nine numbers of a box."""


def split_gro(file: IO[Any]) -> Iterator[bytes]:
    """The text of each frame: a title, the number of atoms, a line for each and the box.

    Raises:
        ForceDeltaError: the file ends within a frame.
    """
    while title := file.readline():
        head = file.readline()
        if not head.strip() and not title.strip():
            continue
        try:
            count = int(head)
        except ValueError:
            found = head[:40].decode(errors="replace").strip()
            raise ForceDeltaError(
                f"expected the number of atoms, found '{found}': give a GRO file as programs write it"
            ) from None
        rows = list(next_lines(file, count))
        check_complete(rows, count)
        box = file.readline()
        if not box.strip():
            raise ForceDeltaError("the file is cut off before the box of this frame")
        yield b"".join([title, head, *rows, box])


def parse_gro(text: bytes, numbers: NDArray[np.int64] | None = None) -> Atoms:
    """The structure of a frame, in Å, with velocities where it has them.

    The columns are as wide as the distance of the decimal points, which depends on the precision
    (https://manual.gromacs.org/current/reference-manual/file-formats.html#gro).

    Args:
        text: as `split_gro` yields it.
        numbers: atomic numbers of a topology.

    Raises:
        ForceDeltaError: an element is ambiguous; lines that are not of this format.
    """
    title, _, *rows, box = text.decode().splitlines()
    if numbers is None:
        numbers = np.array([_number(row[10:15], k) for k, row in enumerate(rows)])
    if len(numbers) != len(rows):
        raise ForceDeltaError(
            f"it has {len(rows)} atoms and the topology {len(numbers)}: give the matching topology"
        )
    values = np.array([_values(row) for row in rows], dtype=float)
    edges = [float(word) * _NM for word in box.split()]
    if len(edges) not in (3, 9):
        raise ForceDeltaError(f"its box has {len(edges)} numbers, not 3 or 9: it is cut off")
    cell = np.zeros((3, 3))
    cell[tuple(part[: len(edges)] for part in _CELL)] = edges
    periodic = bool(np.any(cell))
    atoms = Atoms(numbers, values[:, :3] * _NM, cell=cell, pbc=periodic)
    if values.shape[1] == 6:
        atoms.set_velocities(values[:, 3:] * _NM / (1000 * units.fs))
    found = _TITLE.search(title)
    if found is not None:
        atoms.info["time"] = 1000 * float(found[1])  # ps
        if found[2] is not None:
            atoms.info["step"] = int(found[2])
    return atoms


def _number(name: str, index: int) -> int:
    element = element_of_name(name)
    if element is None:
        raise ForceDeltaError(
            f"the element of atom {index}, counted from 0, is not clear from its name "
            f"'{name.strip()}': pass a file with the elements as --topology"
        )
    return atomic_numbers[element]


def _values(row: str) -> list[float]:
    """Position (nm) and velocity (nm/ps), if any."""
    first = row.find(".", 20)
    width = row.find(".", first + 1) - first
    if first < 0 or width <= 0:
        raise ForceDeltaError(f"'{row.strip()}' is not a line of an atom")
    words = [row[20 + k * width : 20 + (k + 1) * width] for k in range(3)]
    after = 20 + 3 * width
    # velocities have one decimal more and one digit less before the point, in columns as wide
    words += [row[after + k * width : after + (k + 1) * width] for k in range(3)]
    return [float(word) for word in words if word.strip()]
