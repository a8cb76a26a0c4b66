"""Stored trajectories: iteration over their frames, readable or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from md_hooks.foreign_fields import finite, has_numbers, step_of
from md_hooks.run_id import id_of_content, is_run_id

MOST_BROKEN = 8
"""After this many unreadable frames in a row a trajectory is taken to end."""

UNKNOWN_TIMES = (
    "LAMMPS wrote this DCD file, which does not tell its unit of time: times are unknown; pass "
    "--timestep with the fs of a step"
)

_IDENTIFYING = 2
"""Number of frames in the id; one is not enough, as several runs may start from one structure."""


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """One frame as stored in its file.

    Attributes:
        index: position in the file, counted from 0.
        atoms: elements, positions (Å), cell (Å) and periodicity, masses; ``info`` may have charge
            and spin.
        step: None where the file has none.
        time: fs; None where the file has none.
        velocities: [N, 3] Å/fs; None where the file has none.
        temperature: K, from the velocities.
        notes: what the file leaves open, and how it was read.
    """

    index: int
    atoms: Atoms
    step: int | None = None
    time: float | None = None
    velocities: NDArray[np.floating] | None = None
    temperature: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnreadableFrame:
    """A frame that cannot be read.

    Attributes:
        index: position in the file, counted from 0.
        reason: error message of the reader, in one line.
        last: no later frame can be read.
    """

    index: int
    reason: str
    last: bool = False


class StoredTrajectory(ABC):
    """A stored trajectory. At most one frame or a small block of frames is held in memory."""

    kind: str
    """Name of the format."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of frames, unreadable ones included."""

    @abstractmethod
    def frames(
        self, start: int, stop: int | None, every: int
    ) -> Iterator[StoredFrame | UnreadableFrame]:
        """Every ``every``-th frame from ``start`` up to but not including ``stop``; None: to the end."""

    def run_id(self) -> str:
        """The id of the run that made the trajectory (`md_hooks.run_id`).

        Frames of our own runs may carry it. For other trajectories it is a hash of the first frames,
        which does not depend on the file name and stays the same when the trajectory grows.
        """
        peeked = islice(self.frames(0, None, 1), MOST_BROKEN)
        first = list(islice((f for f in peeked if isinstance(f, StoredFrame)), _IDENTIFYING))
        known = {frame.atoms.info.get("run_id") for frame in first}
        if len(known) == 1 and is_run_id(found := known.pop()):
            return str(found)
        return id_of_content(part for frame in first for part in _content(frame))

    def close(self) -> None:  # noqa: B027 - not every source holds a file open
        """Close the file."""


class RandomAccessTrajectory(StoredTrajectory):
    """A trajectory with random access to its frames."""

    @abstractmethod
    def read(self, index: int) -> StoredFrame:
        """One frame; may raise anything."""

    def frames(
        self, start: int, stop: int | None, every: int
    ) -> Iterator[StoredFrame | UnreadableFrame]:
        """See `StoredTrajectory`."""
        end = len(self) if stop is None else min(stop, len(self))
        broken: list[UnreadableFrame] = []
        for index in range(start, end, every):
            try:
                frame = self.read(index)
            except Exception as error:  # readers of many formats raise errors of many kinds
                broken.append(UnreadableFrame(index, reason_of(error)))
                if len(broken) == MOST_BROKEN:
                    yield UnreadableFrame(broken[0].index, broken[0].reason, last=True)
                    return
                continue
            yield from broken
            broken.clear()
            yield frame
        if broken:
            yield UnreadableFrame(broken[0].index, broken[0].reason, last=True)


class SequentialTrajectory(StoredTrajectory):
    """A trajectory that can only be read from its beginning."""

    @abstractmethod
    def parts(self) -> Iterator[Callable[[], Atoms | tuple[Atoms, Sequence[str]]]]:
        """A function for each frame that parses it; may raise anything where the frames end.

        It returns the structure, or the structure and notes (`StoredFrame`).
        """

    def frames(
        self, start: int, stop: int | None, every: int
    ) -> Iterator[StoredFrame | UnreadableFrame]:
        """See `StoredTrajectory`."""
        parts = self.parts()
        for index in count():
            if stop is not None and index >= stop:
                return
            try:
                make = next(parts)
            except StopIteration:
                return
            except Exception as error:
                yield UnreadableFrame(index, reason_of(error), last=True)
                return
            if index < start or (index - start) % every:
                continue
            try:
                made = make()
                atoms, notes = made if isinstance(made, tuple) else (made, ())
                yield replace(from_atoms(index, atoms), notes=tuple(notes))
            except Exception as error:
                yield UnreadableFrame(index, reason_of(error))


def _content(frame: StoredFrame) -> Iterator[bytes]:
    atoms = frame.atoms
    yield np.asarray(atoms.numbers, dtype="<i8").tobytes()
    for array in (atoms.positions, atoms.cell.array, frame.velocities):
        if array is not None:
            yield np.asarray(array, dtype="<f8").tobytes()
    yield repr((frame.step, frame.time)).encode()


def from_atoms(index: int, atoms: Atoms) -> StoredFrame:
    """Convert a structure that ASE read to a frame.

    Step and time (fs) come from ``info["step"]`` and ``info["time"]``, as in our own files. The
    temperature counts the degrees of freedom that the constraints leave.

    Raises:
        ForceDeltaError: the structure has no atoms.
    """
    if len(atoms) == 0:
        raise ForceDeltaError("it has no atoms")
    for name, shape in (("masses", (len(atoms),)), ("momenta", (len(atoms), 3))):
        if atoms.has(name) and not has_numbers(atoms.arrays[name], *shape):
            del atoms.arrays[name]  # written by another program with another meaning
    velocities = temperature = None
    if atoms.has("momenta"):
        with np.errstate(
            all="ignore"
        ):  # masses of 0; values that are not finite are reported later
            velocities = atoms.get_velocities() * units.fs
            temperature = float(atoms.get_temperature())
    return StoredFrame(
        index=index,
        atoms=atoms,
        step=step_of(atoms.info.get("step")),
        time=finite(atoms.info.get("time")),
        velocities=velocities,
        temperature=temperature,
    )


def reason_of(error: Exception) -> str:
    """The message of an error in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
