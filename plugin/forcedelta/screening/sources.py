"""The structures to screen: files, folders searched for them, and every frame of each file."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.io.formats import PEEK_BYTES, UnknownFileTypeError, filetype, ioformats, match_magic

from forcedelta.errors import ForceDeltaError
from forcedelta.reading_files import check_regular
from forcedelta.reading_options import ReadingOptions
from forcedelta.trajectories.base import UnreadableFrame, reason_of
from forcedelta.trajectories.opening import WITHOUT_ELEMENTS, open_trajectory

_AMBIGUOUS = (
    ".ascii", ".cell", ".com", ".config", ".dat", ".data", ".geom", ".in", ".json", ".log", ".md", ".out",
    ".restart",
)  # fmt: skip
"""Endings of some formats of ASE that other files have as well, such as README.md or the log of a job. In a
folder these count only if name or content shows the format."""

_KEPT = ("charge", "spin", "occupancy")


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure with its place.

    Attributes:
        file: as given, or as found in a folder.
        frame: counted from 0.
        atoms: elements, positions (Å), cell (Å) and periodicity; ``info`` may have charge and spin.
    """

    file: str
    frame: int
    atoms: Atoms = field(repr=False)

    @property
    def geometry(self) -> str:
        """A hash of elements, positions, cell and periodicity, the same wherever they are stored."""
        atoms = self.atoms
        digest = hashlib.sha256()
        digest.update(np.asarray(atoms.numbers, dtype="<i8").tobytes())
        digest.update(np.asarray(atoms.positions, dtype="<f8").tobytes())
        digest.update(np.asarray(atoms.cell.array, dtype="<f8").tobytes())
        digest.update(atoms.pbc.tobytes())
        return digest.hexdigest()[:32]

    @property
    def key(self) -> str:
        """The same with all that is kept in ``info``."""
        known = repr(sorted(self.atoms.info.items())).encode()
        return hashlib.sha256(self.geometry.encode() + known).hexdigest()[:32]


@dataclass(frozen=True)
class Unreadable:
    """A frame, or a file, from which no structure can be read, with the reason."""

    file: str
    frame: int | None
    reason: str


def files_to_screen(
    paths: Sequence[str | Path], outputs: Collection[Path] = ()
) -> tuple[list[str], list[str]]:
    """The files, folders replaced by what they and their subfolders hold.

    Args:
        paths: files and folders, each once however often it is given.
        outputs: files of the screen itself, not to be found in folders.

    Returns:
        the files; and those in folders that are in no format that ASE reads.

    Raises:
        ForceDeltaError: nothing is given; a path does not exist; a folder holds no structure file.
    """
    if not paths:
        raise ForceDeltaError(
            "no structures: give files that ASE reads, or folders with such files"
        )
    ours = {os.path.realpath(path) for path in outputs}
    found: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ForceDeltaError(f"{path} does not exist: give a structure file or a folder")
        if not path.is_dir():
            check_regular(path, "give a structure file or a folder")
            found.setdefault(os.path.realpath(path), str(path))
            continue
        within = [file for file in _files_below(path) if os.path.realpath(file) not in ours]
        readable = [file for file in within if _holds_structures(file)]
        if not readable:
            raise ForceDeltaError(
                f"the folder {path} holds no file in a format that ASE reads ({len(within)} files in "
                "all): give another folder"
            )
        for file in within:
            listed = found if file in readable else left_out
            listed.setdefault(os.path.realpath(file), str(file))
    return list(found.values()), [name for real, name in left_out.items() if real not in found]


def _files_below(folder: Path) -> Iterator[Path]:
    """Regular files below a folder in the order of their names, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _format(path: Path) -> str | None:
    """The name of the file's format in ASE; None if ASE reads no such files."""
    try:
        name = filetype(str(path))
    except (UnknownFileTypeError, OSError, EOFError, UnicodeDecodeError):
        return None
    return name if name in ioformats and ioformats[name].can_read else None


def _holds_structures(path: Path) -> bool:
    """Whether a file in a folder counts as one with structures, damaged or not."""
    if _format(path) is None:
        return False
    if path.suffix.lower() not in _AMBIGUOUS:
        return True
    with path.open("rb") as file:
        beginning = file.read(PEEK_BYTES)
    try:
        match_magic(beginning)
    except UnknownFileTypeError:
        return any(entry.match_name(path.name) for entry in ioformats.values())
    return True


def structures_of(
    file: str,
    found: Callable[[int], None] | None = None,
    options: ReadingOptions | None = None,
) -> Iterator[Structure | Unreadable]:
    """Every frame of a file; errors of the readers become items with their reason.

    Args:
        file: its path.
        found: called with the number of frames once the file is open.
        options: how to read it; None: as it says itself.
    """
    path, options = Path(file), options or ReadingOptions()
    if path.suffix.lower() in WITHOUT_ELEMENTS and not h5py.is_hdf5(path):
        yield Unreadable(
            file, None, "its format does not store elements: convert it, e.g. to extended XYZ"
        )
        return
    if options.file_format is None and not h5py.is_hdf5(path) and _format(path) is None:
        yield Unreadable(file, None, "it is in no format that ASE reads ('ase info --formats')")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of readers are not errors
        try:
            source = open_trajectory(path, None, options)
        except (Exception, SystemExit) as error:  # readers raise errors of all kinds
            cause = error.__cause__
            yield Unreadable(file, None, _reason(cause if isinstance(cause, Exception) else error))
            return
    if found is not None:
        found(max(1, len(source)))
    frames = source.frames(0, None, 1)
    empty = True
    try:
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                item = next(frames, None)
            if item is None:
                break
            empty = False
            if isinstance(item, UnreadableFrame):
                later = "; no later frame can be read" if item.last else ""
                yield Unreadable(file, item.index, f"it cannot be read: {item.reason}{later}")
            else:
                yield Structure(file, item.index, _bare(item.atoms))
    finally:
        source.close()
    if empty:
        yield Unreadable(file, None, "it holds no structure")


def _reason(error: BaseException) -> str:
    return f"it cannot be read: {reason_of(error)}"  # type: ignore[arg-type]


def _bare(atoms: Atoms) -> Atoms:
    """What U depends on, and occupancies: no masses, velocities, constraints or results."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {name: atoms.info[name] for name in _KEPT if atoms.info.get(name) is not None}
    if "occupancy" in bare.info and atoms.has("spacegroup_kinds"):
        bare.arrays["spacegroup_kinds"] = atoms.arrays["spacegroup_kinds"]
    return bare
