"""What a stored trajectory gives: its frames one after the other, and what cannot be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from md_hooks.foreign_fields import finite, has_numbers, step_of
from md_hooks.run_id import id_of_content, is_run_id

MOST_BROKEN = 8
"""A trajectory of which so many frames in a row cannot be read is taken to end there."""


_IDENTIFYING = 2
"""So many frames tell a trajectory from others: several runs may begin at one structure."""


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """One frame as its file has it.

    Attributes:
        index: its number in the file, counted from 0.
        atoms: elements, positions (Å), cell (Å) and periodicity, masses; ``info`` may have charge
            and spin.
        step: None where the file has none.
        time: fs; None where the file has none.
        velocities: [N, 3] Å/fs; None where the file has none.
        temperature: K, from the velocities.
    """

    index: int
    atoms: Atoms
    step: int | None = None
    time: float | None = None
    velocities: NDArray[np.floating] | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class UnreadableFrame:
    """A frame that cannot be read.

    Attributes:
        index: its number in the file, counted from 0.
        reason: what the reader said, in one line.
        last: nothing can be read from there on.
    """

    index: int
    reason: str
    last: bool = False


class StoredTrajectory(ABC):
    """A stored trajectory. No more than a frame, or a small block of them, is held in memory."""

    kind: str
    """What the format is called, with what is to be known about its numbers."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of frames that seem to be there."""

    @abstractmethod
    def frames(
        self, start: int, stop: int | None, every: int
    ) -> Iterator[StoredFrame | UnreadableFrame]:
        """Each ``every``-th frame from ``start`` to before ``stop``, all there are with None."""

    def run_id(self) -> str:
        """The id of the run that made the trajectory (`md_hooks.run_id`).

        Frames of our own runs may carry it. Of others it is made from the first frames, so that it
        does not depend on the name of the file, and stays when the trajectory grows.
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
    """A trajectory that gives any of its frames."""

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
            except Exception as error:  # readers of many formats, each with its own kinds of errors
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
    """A trajectory that is read from its beginning."""

    @abstractmethod
    def parts(self) -> Iterator[Callable[[], Atoms]]:
        """For each frame a function that makes it; may raise anything where the frames end."""

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
                yield from_atoms(index, make())
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
    """A frame from what ASE read.

    ``info["step"]`` and ``info["time"]``, fs, are step and time, as in our own files. The
    temperature counts the degrees of freedom that the constraints leave.

    Raises:
        ForceDeltaError: there are no atoms.
    """
    if len(atoms) == 0:
        raise ForceDeltaError("it has no atoms")
    for name, shape in (("masses", (len(atoms),)), ("momenta", (len(atoms), 3))):
        if atoms.has(name) and not has_numbers(atoms.arrays[name], *shape):
            del atoms.arrays[name]  # of another program, and of another meaning
    velocities = temperature = None
    if atoms.has("momenta"):
        with np.errstate(all="ignore"):  # masses of 0; what is not finite is remarked
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
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
