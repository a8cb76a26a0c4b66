"""Frames of XYZ and extended XYZ files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import IO, Any

from ase import Atoms, units
from ase.io.extxyz import read_extxyz

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.elements import HYDROGENS
from forcedelta.text_formats.ipi import read_ipi_comment
from forcedelta.text_formats.splitting import full_width, next_lines
from md_hooks.constraints import take_from_info

_UNITS = re.compile(
    r"(?:\bunits?\s*[=:]\s*\"?|\b(?:coordinates|positions|geometry|coords)\b[^,;]*?\bin\s+)"
    r"(bohr|atomic|a\.?u\b|nm\b|nanomet|pm\b|picomet)",
    re.IGNORECASE,
)
_SCALES = {"b": units.Bohr, "a": units.Bohr, "n": 10.0, "p": 0.01}  # Å, by the first letter


def split_xyz(file: IO[Any]) -> Iterator[bytes]:
    """The text of each frame; blank lines between frames are skipped.

    Raises:
        ForceDeltaError: the file ends within a frame, or a frame does not begin with a number of atoms.
    """
    head = _next_head(file)
    while head:
        try:
            lines = [head, *next_lines(file, 1 + _count(head))]
        except ValueError:
            found = head[:40].decode(errors="replace").strip()
            raise ForceDeltaError(
                f"expected the number of atoms, found '{found}': give an XYZ file as programs write it"
            ) from None
        if not lines[-1].endswith(b"\n"):
            if not lines[-1]:
                raise ForceDeltaError("the file ends in the middle of this frame")
            if file.readline() == b"" and not full_width(lines[2:]):
                raise ForceDeltaError("the file ends in the middle of the last line of this frame")
        head = file.readline()
        while head.lstrip().startswith(b"VEC"):
            lines.append(head)
            head = file.readline()
        yield b"".join(lines)
        if head and not head.strip():
            head = _next_head(file)


def _next_head(file: IO[Any]) -> bytes:
    """The next line that is not blank; empty at the end of the file."""
    for line in file:
        if line.strip():
            return bytes(line)
    return b""


def _count(head: bytes) -> int:
    """The number of atoms in the first line of a frame; ValueError if it is not one."""
    count = int(head)
    if count < 0:
        raise ValueError
    return count


def parse_xyz(text: bytes) -> Atoms:
    """The structure of a frame, in Å.

    Cells and units in the comments of i-PI, and units named in words, are respected.

    Raises:
        ForceDeltaError: it holds other quantities than positions, or foreign units.
    """
    head, comment, body = (*text.decode().split("\n", 2), "")[:3]
    ipi = read_ipi_comment(comment)
    if ipi is not None:
        atoms = _parse(f"{head}\n\n{body}")
        atoms.positions *= ipi.scale
        atoms.set_cell(ipi.cell)
        atoms.pbc = True
        if ipi.step is not None:
            atoms.info["step"] = ipi.step
        return atoms
    atoms = _parse(text.decode())
    take_from_info(atoms)
    unit = None if "Properties=" in comment else _UNITS.search(comment)
    if unit is not None:
        atoms.positions *= _SCALES[unit[1][0].lower()]
    return atoms


def _parse(text: str) -> Atoms:
    try:
        return next(iter(read_extxyz(io.StringIO(text), 0)))
    except KeyError as error:
        symbol = str(error.args[0])
        if symbol in HYDROGENS:
            raise ForceDeltaError(
                f"it names the isotope {symbol}: write H, with a column of masses if they matter"
            ) from error
        raise ForceDeltaError(f"it names '{symbol}', which is not an element") from error
