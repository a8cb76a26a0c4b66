"""Choice of the reader for a trajectory."""

from __future__ import annotations

from pathlib import Path

import h5py
from ase.io.formats import UnknownFileTypeError, filetype

from forcedelta.errors import ForceDeltaError
from forcedelta.reading_files import check_regular
from forcedelta.reading_options import ReadingOptions
from forcedelta.text_formats.elements import read_type_map
from forcedelta.text_formats.reading import format_named
from forcedelta.text_formats.splitting import DAMAGED
from forcedelta.trajectories.ase_readers import (
    TEXT_FORMATS,
    LoadedTrajectory,
    RecordedTrajectory,
    open_text_format,
    open_with_ase,
)
from forcedelta.trajectories.base import StoredTrajectory, reason_of
from forcedelta.trajectories.foreign_hdf5 import open_foreign_hdf5
from forcedelta.trajectories.h5md_reader import H5MDTrajectory
from forcedelta.trajectories.mdanalysis_reader import MDAnalysisTrajectory
from forcedelta.trajectories.options import AdaptedTrajectory
from forcedelta.trajectories.topology import elements_of
from md_hooks.h5md.links import leads_elsewhere
from md_hooks.h5md.validation import is_recorded

_NUMBERED = ("lammps-dump-text", "gromacs", "proteindatabank")
"""Text formats that take their elements from a topology."""

WITHOUT_ELEMENTS = (".dcd", ".xtc", ".trr", ".tng", ".nc", ".ncdf", ".mdcrd", ".h5md")
"""Formats that do not store elements."""


def open_trajectory(
    path: str | Path,
    topology: str | Path | None = None,
    options: ReadingOptions | None = None,
) -> StoredTrajectory:
    """Open a trajectory for reading frame by frame.

    Args:
        path: a file that ASE or MDAnalysis reads, or a recorded run or audit.
        topology: file that names the elements; if given, MDAnalysis reads the trajectory, or a
            reader of ours its text.
        options: what the file does not say itself; None: nothing.

    Raises:
        ForceDeltaError: a file is missing, or no reader supports it.
    """
    options = options or ReadingOptions()
    topology = topology or options.topology
    path, top = Path(path), None if topology is None else Path(topology)
    source = _open(path, top, options)
    if options.changes_frames:
        try:
            return AdaptedTrajectory(source, options, top)
        except BaseException:
            source.close()
            raise
    return source


def _open(path: Path, topology: Path | None, options: ReadingOptions) -> StoredTrajectory:
    for file in (path, topology):
        if file is None:
            continue
        if not file.exists():
            raise ForceDeltaError(f"{file} does not exist: give a file")
        if not file.is_file():
            check_regular(file, "give a trajectory" if file is path else "give a topology")
            if file is path and topology is None and (path / "metadata.json").is_file():
                return LoadedTrajectory(path, "bundletrajectory")
            raise ForceDeltaError(f"{file} is a folder: give a file")
        if h5py.is_hdf5(file) and (topology is not None or not _is_ours(file)):
            _check_links(file)  # our own reader checks links itself
    if topology is None and options.file_format is None:
        if h5py.is_hdf5(path):
            if _is_ours(path):
                return RecordedTrajectory(path)
            return open_foreign_hdf5(path)
        if path.suffix.lower() in WITHOUT_ELEMENTS:
            raise ForceDeltaError(
                f"{path} does not store elements: pass a file that does as --topology "
                "(PDB, PRMTOP, TPR, PSF, or a structure that ASE reads)"
            )
    try:
        file_format = _format_of(path, options)
    except (UnknownFileTypeError, OSError, UnicodeDecodeError) as error:
        if topology is not None:
            return _open_with_topology(path, topology, options)
        raise ForceDeltaError(
            f"{path} is not in a format that ASE supports ({reason_of(error)}): give another file, or "
            "pass --topology to read it with MDAnalysis"
        ) from error
    if file_format in TEXT_FORMATS and (topology is None or file_format in _NUMBERED):
        types = None if options.type_map is None else read_type_map(options.type_map)
        numbers = None if topology is None else elements_of(topology)
        return open_text_format(path, file_format, types, numbers)
    if topology is not None:
        return _open_with_topology(path, topology, options)
    return open_with_ase(path, file_format)


def _open_with_topology(path: Path, topology: Path, options: ReadingOptions) -> StoredTrajectory:
    if options.file_format is None and h5py.is_hdf5(path):
        with h5py.File(path, "r", locking=False) as file:
            h5md = "particles" in file
        if h5md:
            return H5MDTrajectory(path, elements_of(topology))
    return MDAnalysisTrajectory(path, topology, options.file_format, options.no_pbc)


def _format_of(path: Path, options: ReadingOptions) -> str:
    """Name of the format in ASE.

    Raises:
        UnknownFileTypeError, OSError, UnicodeDecodeError: there is none.
    """
    if options.file_format is not None:
        try:
            return format_named(options.file_format)
        except ForceDeltaError:
            raise UnknownFileTypeError(f"'{options.file_format}' is no format of ASE") from None
    try:
        return str(filetype(str(path)))
    except DAMAGED:  # of the small part that tells the format
        return str(filetype(str(path), read=False))


def _check_links(path: Path) -> None:
    """Refuse an HDF5 file, for instance H5MD or NetCDF, with links to other files.

    Raises:
        ForceDeltaError: it has such links.
    """
    why = leads_elsewhere(path)
    if why is not None:
        raise ForceDeltaError(
            f"{path} was not read, as it may expose other files ({why}): give a copy without external "
            "links"
        )


def _is_ours(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return is_recorded(file)
    except (OSError, KeyError, RuntimeError, ValueError):
        return path.suffix == ".h5"  # our own reader then raises a precise error
