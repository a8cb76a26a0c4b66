"""Frames of LAMMPS's text dumps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.calculators.lammps import convert
from ase.data import atomic_masses, atomic_numbers
from ase.io.lammpsrun import read_lammps_dump_text
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.splitting import check_complete, next_lines

UNITS = ("metal", "real", "si", "cgs", "electron")
"""Sets of units that ASE converts."""

NO_UNITS = (
    "the dump does not name its units: lengths are taken as Å, and velocities are left out "
    "('dump_modify units yes' of LAMMPS names them)"
)
_ADVICE = (
    "name them by --type-map, as in --type-map 1=C,2=H (run, audit, screen, check), by a file with the elements as "
    "--topology (audit), or in the dump itself ('dump_modify element' of LAMMPS)"
)
_POSITIONS = frozenset(f"{axis}{kind}" for axis in "xyz" for kind in ("", "s", "u", "su"))
_SAME_MASS = 0.1  # amu; repartitioned hydrogen masses match no element
_FS = {"metal": 1e3, "real": 1.0, "si": 1e15, "cgs": 1e15, "electron": 1.0}  # per unit of time


@dataclass(frozen=True)
class DumpFrame:
    """The text of one frame.

    Attributes:
        head: the lines from the step to the box.
        columns: names of the columns.
        rows: a line for each atom.
        units: the set of units of LAMMPS; None where the file does not name it.
        time: in that unit; None where the file does not have it.
    """

    head: bytes
    columns: tuple[str, ...]
    rows: bytes
    units: str | None
    time: float | None


def split_lammps_dump(file: IO[Any]) -> Iterator[DumpFrame]:
    """The text of each frame.

    Raises:
        ForceDeltaError: the file ends within a frame, or holds something else.
    """
    units: str | None = None
    while True:
        head: list[bytes] = []
        time: float | None = None
        count: int | None = None
        for line in file:
            if line.strip():
                break
        else:
            return
        while not line.startswith(b"ITEM: ATOMS"):
            if not line.startswith(b"ITEM: "):
                where = "the file is cut off" if not line else f"found '{_shown(line)}'"
                raise ForceDeltaError(f"expected the next item of a LAMMPS dump, {where}")
            lengths = {b"ITEM: BOX": 3}
            values = list(next_lines(file, lengths.get(line[:9], 1)))
            check_complete(values, len(values), "lines of its header")
            try:
                if line.startswith(b"ITEM: UNITS"):
                    units = values[0].decode().strip()
                elif line.startswith(b"ITEM: TIME\n") or line.rstrip() == b"ITEM: TIME":
                    time = float(values[0])
                else:
                    head += [line, *values]
                    if line.startswith(b"ITEM: NUMBER"):
                        count = int(values[0])
            except ValueError as error:
                raise ForceDeltaError(f"'{_shown(values[0])}' is not a number") from error
            line = file.readline()
        if count is None:
            raise ForceDeltaError("the frame does not tell its number of atoms")
        rows = list(next_lines(file, count))
        check_complete(rows, count)
        columns = tuple(line.decode().split()[2:])
        yield DumpFrame(b"".join(head), columns, b"".join(rows), units, time)


def _shown(line: bytes) -> str:
    return line[:40].decode(errors="replace").strip()


def parse_lammps_dump(
    frame: DumpFrame,
    type_map: Mapping[int, str] | None = None,
    numbers: NDArray[np.int64] | None = None,
) -> tuple[Atoms, list[str]]:
    """The structure of a frame, with what the file leaves open.

    ``info`` has the step, and the time in fs where the file has it.

    Args:
        frame: as `split_lammps_dump` yields it.
        type_map: element of each type.
        numbers: atomic numbers of a topology, in the order of the atoms' ids.

    Raises:
        ForceDeltaError: elements or units are unknown.
    """
    if frame.units not in (None, *UNITS):
        raise ForceDeltaError(
            f"its units are '{frame.units}' of LAMMPS, which have no length in Å: convert the file"
        )
    table = _table(frame)
    order = np.argsort(table["id"].astype(int), kind="stable") if "id" in table else slice(None)
    table = {name: column[order] for name, column in table.items()}
    units = frame.units or "metal"
    atoms = _geometry(frame, table, units)
    atoms.numbers[:] = _numbers(table, type_map, numbers)
    atoms.info = {"step": atoms.info.pop("timestep")}
    notes = []
    if {"vx", "vy", "vz"} <= table.keys():
        if frame.units is None:
            notes.append(NO_UNITS)
        else:
            velocities = np.column_stack([table[name].astype(float) for name in ("vx", "vy", "vz")])
            atoms.set_velocities(convert(velocities, "velocity", units, "ASE"))
    if frame.time is not None and frame.units is not None:
        atoms.info["time"] = frame.time * _FS[frame.units]
    return atoms, notes


def _table(frame: DumpFrame) -> dict[str, NDArray[np.str_]]:
    """The columns of a frame, as text."""
    rows = [line.split() for line in frame.rows.decode().splitlines()]
    for k, row in enumerate(rows):
        if len(row) != len(frame.columns):
            raise ForceDeltaError(
                f"line {k + 1} of its atoms has {len(row)} of {len(frame.columns)} columns: it is "
                "cut off or damaged"
            )
    columns = np.array(rows, dtype=str).reshape(len(rows), len(frame.columns)).T
    return dict(zip(frame.columns, columns, strict=True))


def _geometry(frame: DumpFrame, table: dict[str, NDArray[np.str_]], units: str) -> Atoms:
    """Positions (Å), cell and step as ASE reads them, with hydrogen for all atoms."""
    names = [name for name in table if name in _POSITIONS]
    lines = [" ".join(row) for row in zip(*(table[name] for name in names), strict=True)]
    text = frame.head.decode() + "ITEM: ATOMS id type " + " ".join(names) + "\n"
    text += "".join(f"{k + 1} 1 {line}\n" for k, line in enumerate(lines))
    return read_lammps_dump_text(io.StringIO(text), index=0, specorder=["H"], units=units)


def _numbers(
    table: dict[str, NDArray[np.str_]],
    type_map: Mapping[int, str] | None,
    numbers: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Atomic numbers, from the topology, the map of types, or a column of elements or masses."""
    count = len(next(iter(table.values())))
    if numbers is not None:
        if len(numbers) != count:
            raise ForceDeltaError(
                f"it has {count} atoms and the topology {len(numbers)}: give the matching topology"
            )
        return numbers
    if type_map and "type" in table:
        types = [int(found) for found in table["type"]]
        unknown = sorted(set(types) - type_map.keys())
        if unknown:
            raise ForceDeltaError(
                f"its atoms of type {', '.join(map(str, unknown))} have no element: add "
                f"{unknown[0]}=ELEMENT to --type-map"
            )
        return np.array([atomic_numbers[type_map[found]] for found in types])
    if "element" in table:
        symbols = table["element"].tolist()
        foreign = next((symbol for symbol in symbols if symbol not in atomic_numbers), None)
        if foreign is None:
            return np.array([atomic_numbers[symbol] for symbol in symbols])
        raise ForceDeltaError(f"'{foreign}' in its column of elements is not one: {_ADVICE}")
    if "mass" in table:
        masses = table["mass"].astype(float)
        nearest = np.abs(masses[:, None] - atomic_masses[None, 1:]).argmin(axis=1) + 1
        if (np.abs(atomic_masses[nearest] - masses) < _SAME_MASS).all():
            return nearest.astype(np.int64)
    raise ForceDeltaError(f"it has types of LAMMPS and no elements: {_ADVICE}")
