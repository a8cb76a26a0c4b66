"""The constraints on the atoms of recorded frames, as lines of JSON in one dataset of bytes.

A line says from which step on the frames have which constraints (`md_hooks.constraints`). A dataset,
not an attribute: HDF5 holds 64 kB of attributes, less than the indices of a large frozen layer.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from ..constraints import Records
from ..frame import Frame
from . import checksum, layout

_CHUNK_BYTES = 4096
_SIGNED = "constraints"
"""Name of the checksum of the whole dataset."""


class ConstraintsError(Exception):
    """Lines that no Recorder wrote."""


class Held:
    """Constraints by the step from which they hold.

    Args:
        lines: the content of the dataset.

    Raises:
        ConstraintsError: it is damaged.
    """

    def __init__(self, lines: bytes = b"") -> None:
        self.lines = lines
        self._steps: list[int] = []
        self._records: list[Records] = []
        for number, line in enumerate(lines.splitlines(), start=1):
            try:
                found = json.loads(line)
                step, records, known = found["step"], found["constraints"], found["checksum"]
                good = known == _checksum(step, records) and isinstance(step, int)
                good = good and all(isinstance(record["name"], str) for record in records)
            except (ValueError, KeyError, TypeError, RecursionError):
                good = False
            if not good:
                raise ConstraintsError(f"line {number} of the constraints")
            self.add(step, tuple(records))

    def add(self, step: int, records: Records) -> None:
        """From this step on these constraints hold; what was known of later steps is dropped."""
        while self._steps and self._steps[-1] >= step:
            self._steps.pop()
            self._records.pop()
        self._steps.append(step)
        self._records.append(records)

    def at(self, step: int) -> Records | None:
        """The constraints at a step; None if nothing is known of it."""
        index = bisect_right(self._steps, step)
        return self._records[index - 1] if index else None

    def cut_after(self, step: int) -> bytes:
        """The lines of the steps up to this one."""
        kept = zip(self._steps, self._records, strict=True)
        return b"".join(line_of(first, records) for first, records in kept if first <= step)


def line_of(step: int, records: Records) -> bytes:
    """A line of the dataset."""
    found = {"step": step, "checksum": _checksum(step, records), "constraints": records}
    return json.dumps(found).encode() + b"\n"


def _checksum(step: int, records: Any) -> int:
    return int(checksum.of_bytes(json.dumps([step, records])))


def read(file: h5py.File) -> bytes:
    """The content of the dataset of a file; empty where there is none."""
    data = file.get(layout.CONSTRAINTS)
    return b"" if data is None else data[()].tobytes()


def check(file: h5py.File) -> None:
    """Refuse constraints that are not those that were written, or are missing.

    Raises:
        ConstraintsError: they are not.
    """
    lines = read(file)
    signed = file.get(layout.CHECKSUMS)
    known = None if signed is None else signed.attrs.get(_SIGNED)
    if known is not None and not np.all(known == checksum.of_bytes(lines)):
        raise ConstraintsError("the checksum of the constraints")
    Held(lines)


class HeldWriter:
    """Adds the constraints of frames to a file as they are appended.

    Args:
        file: open for writing.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._last: Records | None = None
        self._begun = False

    def note(self, frames: Sequence[Frame], n_frames: int) -> None:
        """Add the constraints that differ from those of the frame before.

        Args:
            frames: to be appended.
            n_frames: frames in the file.
        """
        if not self._begun:
            # None: of a file of an earlier version, whose frames have those of its settings
            self._last = Held(read(self._file)).at(frames[0].step) if n_frames else ()
            self._begun = True
        lines = b""
        for frame in frames:
            if frame.constraints is not self._last and frame.constraints != self._last:
                lines += line_of(frame.step, frame.constraints)
                self._last = frame.constraints
        if lines:
            self._put(lines)

    def cut_after(self, step: int) -> None:
        """Drop what holds from later steps on."""
        lines = read(self._file)
        kept = Held(lines).cut_after(step)
        if kept != lines:
            self._file[layout.CONSTRAINTS].resize(0, axis=0)
            self._put(kept)

    def _put(self, lines: bytes) -> None:
        data = self._file.get(layout.CONSTRAINTS)
        if data is None:
            data = self._file.create_dataset(
                layout.CONSTRAINTS, (0,), "u1", maxshape=(None,), chunks=(_CHUNK_BYTES,)
            )
        start = int(data.shape[0])
        data.resize(start + len(lines), axis=0)
        if lines:
            data[start:] = np.frombuffer(lines, dtype="u1")
        if layout.CHECKSUMS in self._file:  # tells that there are lines, too
            signed = checksum.of_bytes(read(self._file))
            self._file[layout.CHECKSUMS].attrs[_SIGNED] = signed
