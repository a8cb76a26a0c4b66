"""Which reader a trajectory needs."""

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
"""Formats that do not say of which elements the atoms are."""


def open_trajectory(path: str | Path, topology: str | Path | None = None) -> StoredTrajectory:
    """A trajectory, ready to be read frame by frame.

    Args:
        path: a file that ASE reads, one that MDAnalysis reads, or one of ours.
        topology: what MDAnalysis is to take the elements from; with it MDAnalysis reads the file.

    Raises:
        ForceDeltaError: a file that is missing, or that none of them can read.
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
            _check_links(file)  # our own reader looks itself
    if topology is not None:
        return MDAnalysisTrajectory(path, Path(topology))
    if h5py.is_hdf5(path) and _is_ours(path):
        return RecordedTrajectory(path)
    if path.suffix.lower() in WITHOUT_ELEMENTS:
        raise ForceDeltaError(
            f"{path} does not hold the elements of its atoms: give a file that does with --topology "
            "(PDB, PRMTOP, TPR, PSF, or a structure that ASE reads)"
        )
    try:
        file_format = filetype(str(path))
    except (UnknownFileTypeError, OSError, UnicodeDecodeError) as error:
        raise ForceDeltaError(
            f"{path} is of no format that ASE knows ({reason_of(error)}): give another, or a "
            "--topology with which MDAnalysis reads it"
        ) from error
    return open_with_ase(path, file_format)


def _check_links(path: Path) -> None:
    """Refuse an HDF5 file, for instance H5MD or NetCDF, that leads into other files.

    Raises:
        ForceDeltaError: it does.
    """
    why = leads_elsewhere(path)
    if why is not None:
        raise ForceDeltaError(
            f"{path} is not read, as it may show other files ({why}): give a copy that holds all its "
            "data itself"
        )


def _is_ours(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return is_recorded(file)
    except (OSError, KeyError, RuntimeError, ValueError):
        return path.suffix == ".h5"  # the error of our own reader says what is wrong with it
