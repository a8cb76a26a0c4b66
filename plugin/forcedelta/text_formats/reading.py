"""Structures from text formats whose units, elements or ends ASE does not check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.gro import parse_gro, split_gro
from forcedelta.text_formats.lammps_dump import parse_lammps_dump, split_lammps_dump
from forcedelta.text_formats.pdb import parse_pdb, split_pdb
from forcedelta.text_formats.splitting import DAMAGED, open_text
from forcedelta.text_formats.xyz import parse_xyz, split_xyz


def _without_notes(frame: Any, type_map: Mapping[int, str] | None) -> Atoms:
    return parse_lammps_dump(frame, type_map)[0]


_READERS: dict[str, tuple[Callable[[IO[bytes]], Iterator[Any]], Callable[..., Atoms]]] = {
    "xyz": (split_xyz, parse_xyz),
    "extxyz": (split_xyz, parse_xyz),
    "gromacs": (split_gro, parse_gro),
    "proteindatabank": (split_pdb, parse_pdb),
    "lammps-dump-text": (split_lammps_dump, _without_notes),
}


def read_text_format(
    path: str, index: int | slice, type_map: Mapping[int, str] | None = None
) -> Atoms | list[Atoms] | None:
    """One or several structures of a file.

    Args:
        path: the file.
        index: of the structures, counted from 0, as for a list.
        type_map: elements of LAMMPS's types.

    Returns:
        None if the file is in another format.

    Raises:
        ForceDeltaError: a frame cannot be read, or there is none.
    """
    try:
        file_format = filetype(path)
    except (UnknownFileTypeError, OSError, UnicodeDecodeError):
        return None
    except DAMAGED:
        file_format = filetype(path, read=False)
    if file_format not in _READERS:
        return None
    split, parse = _READERS[file_format]
    options = {"type_map": type_map} if file_format == "lammps-dump-text" else {}
    try:
        with open_text(Path(path)) as file:
            frames = list(split(file))
    except DAMAGED as error:
        raise ForceDeltaError(f"the compressed file is cut off or damaged ({error})") from error
    if not frames:
        raise ForceDeltaError("it holds no structure")
    if isinstance(index, slice):
        return [parse(frame, **options) for frame in frames[index]]
    if not -len(frames) <= index < len(frames):
        raise ForceDeltaError(f"it has {len(frames)} structures and none of index {index}")
    return parse(frames[index], **options)
