"""Structures from text formats whose units, elements or ends ASE does not check."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.gro import parse_gro, split_gro
from forcedelta.text_formats.lammps_dump import parse_lammps_dump, split_lammps_dump
from forcedelta.text_formats.pdb import parse_pdb, split_pdb
from forcedelta.text_formats.splitting import DAMAGED, open_text
from forcedelta.text_formats.xyz import parse_xyz, split_xyz

_log = logging.getLogger(__name__)

_READERS: dict[str, tuple[Callable[[IO[bytes]], Iterator[Any]], Callable[..., Any]]] = {
    "xyz": (split_xyz, parse_xyz),
    "extxyz": (split_xyz, parse_xyz),
    "gromacs": (split_gro, parse_gro),
    "proteindatabank": (split_pdb, parse_pdb),
    "lammps-dump-text": (split_lammps_dump, parse_lammps_dump),
}


_ALIASES = {
    "lammpsdump": "lammps-dump-text", "lammpstrj": "lammps-dump-text", "gro": "gromacs",
    "pdb": "proteindatabank",
}  # fmt: skip
"""Names in MDAnalysis, and endings of files, by their names in ASE."""


def format_named(name: str) -> str:
    """The name in ASE of a format that a user names.

    Raises:
        ForceDeltaError: ASE has none of this name.
    """
    found = _ALIASES.get(name.lower(), name.lower())
    if found not in ioformats:
        raise ForceDeltaError(f"--format {name}: no format of ASE; 'ase info --formats' lists them")
    return found


def read_text_format(
    path: str,
    index: int | slice,
    type_map: Mapping[int, str] | None = None,
    file_format: str | None = None,
) -> Atoms | list[Atoms] | None:
    """One or several structures of a file, of which no others are held in memory.

    Args:
        path: the file.
        index: of the structures, counted from 0, as for a list.
        type_map: elements of LAMMPS's types.
        file_format: name in ASE; None: from name and content.

    Returns:
        None if the file is in another format.

    Raises:
        ForceDeltaError: a frame cannot be read, or there is none.
    """
    try:
        file_format = file_format or filetype(path)
    except (UnknownFileTypeError, OSError, UnicodeDecodeError):
        return None
    except DAMAGED:
        file_format = filetype(path, read=False)
    if file_format not in _READERS:
        return None
    split, parse_frame = _READERS[file_format]
    options = {"type_map": type_map} if file_format == "lammps-dump-text" else {}
    noted: dict[str, None] = {}

    def parse(frame: Any) -> Atoms:
        made = parse_frame(frame, **options)
        atoms, notes = made if isinstance(made, tuple) else (made, ())
        noted.update(dict.fromkeys(notes))
        return atoms

    try:
        if index == -1:
            with open_text(Path(path)) as file:
                last = deque(split(file), maxlen=1)
            if not last:
                raise ForceDeltaError("it holds no structure")
            atoms = parse(last[0])
            _tell(path, noted)
            return atoms
        with open_text(Path(path)) as file:
            count = sum(1 for _ in split(file))
        wanted = _wanted(index, count)
        with open_text(Path(path)) as file:
            frames = islice(split(file), max(wanted, default=-1) + 1)
            found = {k: parse(frame) for k, frame in enumerate(frames) if k in wanted}
    except DAMAGED as error:
        raise ForceDeltaError(f"the compressed file is cut off or damaged ({error})") from error
    _tell(path, noted)
    return [found[k] for k in wanted] if isinstance(index, slice) else found[wanted[0]]


def _tell(path: str, notes: Iterable[str]) -> None:
    for note in notes:
        _log.warning("%s: %s", path, note)


def _wanted(index: int | slice, count: int) -> range:
    """The structures of an index.

    Raises:
        ForceDeltaError: there are none, or none of this number.
    """
    if not count:
        raise ForceDeltaError("it holds no structure")
    if isinstance(index, slice):
        return range(count)[index]
    if not -count <= index < count:
        raise ForceDeltaError(f"it has {count} structures and none of index {index}")
    return range(count)[index : index + 1 or None]
