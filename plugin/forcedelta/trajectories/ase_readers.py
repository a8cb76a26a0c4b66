"""Readers of recorded runs and of formats that ASE supports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.text_formats.gro import parse_gro, split_gro
from forcedelta.text_formats.lammps_dump import parse_lammps_dump, split_lammps_dump
from forcedelta.text_formats.pdb import parse_pdb, split_pdb
from forcedelta.text_formats.splitting import DAMAGED, open_text
from forcedelta.text_formats.xyz import parse_xyz, split_xyz
from forcedelta.trajectories.base import (
    RandomAccessTrajectory,
    SequentialTrajectory,
    StoredFrame,
    StoredTrajectory,
    from_atoms,
    reason_of,
)
from md_hooks import Trajectory
from md_hooks.constraints import put_constraints
from md_hooks.electronic_state import ElectronicState
from md_hooks.environment import Surroundings

TEXT_FORMATS = ("xyz", "extxyz", "lammps-dump-text", "gromacs", "proteindatabank")
"""Names in ASE of formats that are read frame by frame."""


class TextTrajectory(SequentialTrajectory):
    """A text format, compressed or not.

    ASE's readers index or load the whole file. This one splits the file into frames and parses one
    at a time, which bounds the memory and confines an error to its frame.

    Args:
        path: the file.
        kind: name of the format.
        split: from the open file to the frames.
        parse: from a frame to its structure, see `SequentialTrajectory.parts`.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        split: Callable[[IO[bytes]], Iterator[Any]],
        parse: Callable[[Any], Atoms | tuple[Atoms, Sequence[str]]],
    ) -> None:
        self._path, self.kind = path, kind
        self._split, self._parse = split, parse
        self._length: int | None = None

    def __len__(self) -> int:
        if self._length is None:
            self._length = 0
            try:
                for _ in self.parts():
                    self._length += 1
            except ForceDeltaError:
                pass  # to be reported when the frames are read
        return self._length

    def parts(self) -> Iterator[Callable[[], Atoms | tuple[Atoms, Sequence[str]]]]:
        """See `SequentialTrajectory`."""
        with open_text(self._path) as file:
            try:
                for frame in self._split(file):
                    yield partial(self._parse, frame)
            except DAMAGED as error:
                raise ForceDeltaError(
                    f"the compressed file is cut off or damaged ({reason_of(error)})"
                ) from error


def open_text_format(
    path: Path,
    file_format: str,
    type_map: Mapping[int, str] | None,
    numbers: NDArray[np.int64] | None,
) -> TextTrajectory:
    """The reader of one of `TEXT_FORMATS`.

    Args:
        path: the file.
        file_format: by its name in ASE.
        type_map: elements of LAMMPS's types.
        numbers: atomic numbers from a topology.
    """
    if file_format == "lammps-dump-text":
        parse = partial(parse_lammps_dump, type_map=type_map, numbers=numbers)
        return TextTrajectory(path, "LAMMPS dump", split_lammps_dump, parse)
    if file_format == "gromacs":
        return TextTrajectory(path, "GRO", split_gro, partial(parse_gro, numbers=numbers))
    if file_format == "proteindatabank":
        return TextTrajectory(path, "PDB", split_pdb, partial(parse_pdb, numbers=numbers))
    return TextTrajectory(path, "extended XYZ", split_xyz, parse_xyz)


class ASETrajectory(RandomAccessTrajectory):
    """ASE's own .traj."""

    kind = "ASE trajectory"

    def __init__(self, path: Path) -> None:
        self._trajectory = ase.io.Trajectory(str(path))

    def __len__(self) -> int:
        return len(self._trajectory)

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        return from_atoms(index, self._trajectory[index])

    def close(self) -> None:
        """Close the file."""
        self._trajectory.close()


class RecordedTrajectory(RandomAccessTrajectory):
    """A run or audit written by a Recorder."""

    kind = "recorded run"

    def __init__(self, path: Path) -> None:
        self._trajectory = Trajectory(path)
        settings = self._trajectory.metadata.get("settings", {})
        self._info = {name: settings.get(name) for name in ("charge", "spin")}

    def __len__(self) -> int:
        return len(self._trajectory)

    def run_id(self) -> str:
        """The recorded id of the run; see `StoredTrajectory`."""
        return self._trajectory.run_id

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        return next(self._stored(range(index, index + 1)))

    def frames(self, start: int, stop: int | None, every: int) -> Iterator[StoredFrame]:
        """See `StoredTrajectory`; frames are read in blocks."""
        end = len(self) if stop is None else min(stop, len(self))
        return self._stored(range(start, end, every))

    def _stored(self, indices: range) -> Iterator[StoredFrame]:
        for index, frame in zip(indices, self._trajectory.frames(indices), strict=True):
            atoms = Atoms(
                numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc,
                masses=frame.masses,
            )  # fmt: skip
            # earlier versions stored charge and spin only in the settings
            atoms.info = {name: value for name, value in self._info.items() if value is not None}
            ElectronicState(frame.charge, frame.spin, frame.magnetic_moments).put(atoms)
            Surroundings(len(atoms), frame.system_particles, frame.environment).put(atoms)
            put_constraints(atoms, frame.constraints)
            yield StoredFrame(
                index, atoms, frame.step, frame.time, frame.velocities, frame.temperature
            )


class LoadedTrajectory(RandomAccessTrajectory):
    """Any other format that ASE reads, loaded as a whole."""

    kind = "read by ASE"

    def __init__(self, path: Path, file_format: str | None = None) -> None:
        self._images: list[Atoms] = []
        self._problem: Exception | None = None
        try:
            for atoms in ase.io.iread(
                str(path), ":", format=file_format, do_not_split_by_at_sign=True
            ):
                self._images.append(atoms)
        except Exception as error:
            if not self._images:
                raise ForceDeltaError(
                    f"{path} cannot be read as a trajectory ({reason_of(error)}): give a file that "
                    "ASE reads ('ase info --formats'), or one that MDAnalysis reads with --topology"
                ) from error
            self._problem = error

    def __len__(self) -> int:
        return len(self._images) + (self._problem is not None)

    def read(self, index: int) -> StoredFrame:
        """See `RandomAccessTrajectory`."""
        if index == len(self._images) and self._problem is not None:
            raise self._problem
        return from_atoms(index, self._images[index])


def open_with_ase(path: Path, file_format: str) -> StoredTrajectory:
    """The reader for a format, given by its name in ASE."""
    if file_format == "traj":
        try:
            return ASETrajectory(path)
        except Exception as error:
            raise ForceDeltaError(
                f"{path} cannot be read as an ASE trajectory ({reason_of(error)}): it is truncated, "
                "or holds no frame yet"
            ) from error
    return LoadedTrajectory(path, file_format)
