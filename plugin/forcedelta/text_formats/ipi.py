"""Comments of i-PI's XYZ files: the cell, the quantity and the units."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from ase import units
from ase.cell import Cell
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError

_CELL = re.compile(r"CELL[\[({](abcABC|GENH|H)[\])}]:((?:\s+[-+\d.]\S*)+)")
_QUANTITY = re.compile(r"([A-Za-z_]\w*)\{([^}]*)\}")
_STEP = re.compile(r"\bStep:\s*(\d+)")
_LENGTHS = {
    "": units.Bohr, "automatic": units.Bohr, "atomic_unit": units.Bohr, "bohr": units.Bohr,
    "angstrom": 1.0, "ase": 1.0, "nanometer": 10.0, "picometer": 0.01, "meter": 1e10,
}  # fmt: skip
_POSITIONS = ("positions", "x_centroid")


@dataclass(frozen=True, eq=False)
class IPIComment:
    """The comment of a frame.

    Attributes:
        scale: Å in the file's unit of length.
        cell: [3, 3] Å, vectors as rows.
        step: None where it is missing.
    """

    scale: float
    cell: NDArray[np.float64]
    step: int | None


def read_ipi_comment(line: str) -> IPIComment | None:
    """The comment line of an XYZ frame by i-PI; None if it is another program's.

    i-PI writes ``# CELL(abcABC): a b c alpha beta gamma  Step: 0  Bead: 0 positions{angstrom}
    cell{atomic_unit}``, in atomic units where it names none. The vectors of H are columns.

    Raises:
        ForceDeltaError: the frame holds no positions, or its units are unknown.
    """
    found = _CELL.search(line)
    if found is None:
        return None
    named = dict(_QUANTITY.findall(line[found.end() :]))
    cell_scale = _length("cell", named.pop("cell", ""))
    quantity, unit = next(iter(named.items()), ("positions", ""))
    if quantity not in _POSITIONS:
        raise ForceDeltaError(f"it holds {quantity} of i-PI and no positions: give the positions")
    try:
        numbers = np.array(found[2].split(), dtype=float)
        if found[1] == "abcABC":
            cell = Cell.fromcellpar([*numbers[:3] * cell_scale, *numbers[3:6]]).array
        else:
            cell = numbers[:9].reshape(3, 3).T * cell_scale
    except (ValueError, AssertionError) as error:
        raise ForceDeltaError(f"its cell cannot be read: {found[0][:80]}") from error
    step = _STEP.search(line)
    return IPIComment(_length(quantity, unit), cell, None if step is None else int(step[1]))


def _length(quantity: str, unit: str) -> float:
    if unit.strip().lower() not in _LENGTHS:
        raise ForceDeltaError(
            f"its {quantity} are in {unit}, which is unknown here: write them in angstrom"
        )
    return _LENGTHS[unit.strip().lower()]
