"""Choice of the reader for a trajectory."""

from __future__ import annotations

from pathlib import Path

import h5py
from ase.io.formats import UnknownFileTypeError, filetype

from forcedelta.errors import ForceDeltaError
from forcedelta.reading_files import check_regular
from forcedelta.trajectories.ase_readers import RecordedTrajectory, open_with_ase
from forcedelta.trajectories.base import StoredTrajectory, reason_of
from forcedelta.trajectories.mdanalysis_reader import MDAnalysisTrajectory
from md_hooks.h5md.links import leads_elsewhere
from md_hooks.h5md.validation import is_recorded

WITHOUT_ELEMENTS = (".dcd", ".xtc", ".trr", ".tng", ".nc", ".ncdf", ".mdcrd", ".h5md")
"""Formats that do not store elements."""


def open_trajectory(path: str | Path, topology: str | Path | None = None) -> StoredTrajectory:
    """Open a trajectory for reading frame by frame.

    Args:
        path: a file that ASE or MDAnalysis reads, or a recorded run or audit.
        topology: file that names the elements; if given, MDAnalysis reads the trajectory.

    Raises:
        ForceDeltaError: a file is missing, or no reader supports it.
    """
    path = Path(path)
    for file in (path, None if topology is None else Path(topology)):
        if file is None:
            continue
        if not file.exists():
            raise ForceDeltaError(f"{file} does not exist: give a file")
        if not file.is_file():
            check_regular(file, "give a trajectory" if file is path else "give a topology")
            raise ForceDeltaError(f"{file} is a folder: give a file")
        if h5py.is_hdf5(file) and (topology is not None or not _is_ours(file)):
            _check_links(file)  # our own reader checks links itself
    if topology is not None:
        return MDAnalysisTrajectory(path, Path(topology))
    if h5py.is_hdf5(path) and _is_ours(path):
        return RecordedTrajectory(path)
    if path.suffix.lower() in WITHOUT_ELEMENTS:
        raise ForceDeltaError(
            f"{path} does not store elements: pass a file that does as --topology "
            "(PDB, PRMTOP, TPR, PSF, or a structure that ASE reads)"
        )
    try:
        file_format = filetype(str(path))
    except (UnknownFileTypeError, OSError, UnicodeDecodeError) as error:
        raise ForceDeltaError(
            f"{path} is not in a format that ASE supports ({reason_of(error)}): give another file, or "
            "pass --topology to read it with MDAnalysis"
        ) from error
    return open_with_ase(path, file_format)


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
