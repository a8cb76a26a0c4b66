"""Readers of recorded runs and of formats that ASE supports."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import ase.io
from ase import Atoms
from ase.io.extxyz import read_extxyz
from ase.io.formats import open_with_compression

from forcedelta.errors import ForceDeltaError
from forcedelta.trajectories.base import (
    RandomAccessTrajectory,
    SequentialTrajectory,
    StoredFrame,
    StoredTrajectory,
    from_atoms,
    reason_of,
)
from md_hooks import Trajectory
from md_hooks.electronic_state import ElectronicState


class XYZTrajectory(SequentialTrajectory):
    """XYZ and extended XYZ, compressed or not.

    ASE's reader first indexes the whole file. This one splits the file into frames and lets ASE
    parse one at a time, which bounds the memory and confines an error to its frame.
    """

    kind = "extended XYZ"

    def __init__(self, path: Path) -> None:
        self._path = path
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

    def parts(self) -> Iterator[Callable[[], Atoms]]:
        """See `SequentialTrajectory`."""
        with open_with_compression(str(self._path), "rb") as file:
            for text in _split(file):
                yield partial(_parse, text)


def _split(file: IO[Any]) -> Iterator[bytes]:
    """The text of each frame.

    Raises:
        ForceDeltaError: the file ends within a frame, or a frame does not begin with a number of atoms.
    """
    head = file.readline()
    while head.strip():
        try:
            lines = [head, *_next_lines(file, 1 + _count(head))]
        except ValueError:
            found = head[:40].decode(errors="replace").strip()
            raise ForceDeltaError(f"expected the number of atoms, found '{found}'") from None
        if not lines[-1].endswith(b"\n"):
            if not lines[-1]:
                raise ForceDeltaError("the file ends in the middle of this frame")
            if file.readline() == b"" and not _full_width(lines):
                raise ForceDeltaError("the file ends in the middle of the last line of this frame")
        head = file.readline()
        while head.lstrip().startswith(b"VEC"):
            lines.append(head)
            head = file.readline()
        yield b"".join(lines)


def _count(head: bytes) -> int:
    """The number of atoms in the first line of a frame; ValueError if it is not one."""
    count = int(head)
    if count < 0:
        raise ValueError
    return count


def _next_lines(file: IO[Any], count: int) -> Iterator[bytes]:
    """The next ``count`` lines; if the file ends earlier, the last one is empty."""
    for _ in range(count):
        line = file.readline()
        yield line
        if not line:
            return


def _full_width(lines: list[bytes]) -> bool:
    """Whether the last line, which lacks a line break, is as long as those of the other atoms.

    A truncated number is still a number; a file typed by hand may merely lack the last line break.
    """
    others = {len(line.rstrip()) for line in lines[2:-1]}
    return not others or len(lines[-1].rstrip()) >= min(others)


def _parse(text: bytes) -> Atoms:
    return next(iter(read_extxyz(io.StringIO(text.decode()), 0)))


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
            yield StoredFrame(
                index, atoms, frame.step, frame.time, frame.velocities, frame.temperature
            )


class LoadedTrajectory(RandomAccessTrajectory):
    """Any other format that ASE reads, loaded as a whole."""

    kind = "read by ASE"

    def __init__(self, path: Path) -> None:
        self._images: list[Atoms] = []
        self._problem: Exception | None = None
        try:
            for atoms in ase.io.iread(str(path), ":"):
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
    if file_format in ("xyz", "extxyz"):
        return XYZTrajectory(path)
    if file_format == "traj":
        try:
            return ASETrajectory(path)
        except Exception as error:
            raise ForceDeltaError(
                f"{path} cannot be read as an ASE trajectory ({reason_of(error)}): it is truncated, "
                "or holds no frame yet"
            ) from error
    return LoadedTrajectory(path)
