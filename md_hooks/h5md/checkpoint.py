"""Checkpoints inside a recorded file: the exact state from which a run continues.

A checkpoint is one blob: a header (sequence number, length, CRC-32), a JSON tree and the raw
bytes of its arrays. The file holds two slots that are written in turn, after the frames they
belong to; the reader takes the valid one with the highest sequence number. A process killed in
the middle of a write can therefore spoil at most one slot, and the older one still stands.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import HookError
from . import layout
from .opening import open_to_read
from .validation import check

GROUP = "/checkpoint"
_HEADER = struct.Struct("<QQI")


@dataclass(frozen=True)
class Checkpoint:
    """The state after a recorded step.

    Attributes:
        step: its number; the next frame of a continued run has a later one.
        time: fs.
        positions: [N, 3] Å.
        velocities: [N, 3] Å/fs; None in a replay of frames that have none.
        cell: [3, 3] Å.
        state: what the engine stored (`md_hooks.RunInfo.checkpoint`), e.g. thermostat and random
            numbers; tuples come back as lists.
        hooks: states of the hooks, for `md_hooks.HookChain.load_state_dict`.
    """

    step: int
    time: float
    positions: NDArray[np.floating]
    velocities: NDArray[np.floating] | None
    cell: NDArray[np.floating]
    state: dict[str, Any]
    hooks: dict[str, Any]


def encode(checkpoint: Checkpoint, sequence: int) -> NDArray[np.uint8]:
    """A checkpoint as bytes.

    Raises:
        HookError: the state holds something that is neither JSON nor an array.
    """
    arrays: list[np.ndarray] = []

    def pack(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError(f"an array of Python objects ({value!r})")
            arrays.append(np.ascontiguousarray(value))
            return {"__array__": len(arrays) - 1}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            return {str(key): pack(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [pack(item) for item in value]
        return value

    names = ("step", "time", "positions", "velocities", "cell", "state", "hooks")
    try:
        tree = {name: pack(getattr(checkpoint, name)) for name in names}
        shapes = [(array.dtype.str, array.shape) for array in arrays]
        text = json.dumps({"tree": tree, "arrays": shapes}).encode()
    except TypeError as error:
        raise HookError(
            f"the checkpoint cannot be stored: {error}; give numbers, strings, lists, dicts and "
            "numpy arrays only"
        ) from error
    payload = struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays)
    header = _HEADER.pack(sequence, len(payload), zlib.crc32(payload))
    return np.frombuffer(header + payload, dtype=np.uint8)


def decode(blob: bytes) -> tuple[int, Checkpoint] | None:
    """Sequence number and checkpoint of a slot; None when the slot is empty or torn."""
    if len(blob) < _HEADER.size:
        return None
    sequence, length, crc = _HEADER.unpack_from(blob)
    payload = blob[_HEADER.size : _HEADER.size + length]
    if sequence == 0 or len(payload) != length or zlib.crc32(payload) != crc:
        return None
    try:
        checkpoint = _unpack(payload)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, struct.error):
        return None  # a valid checksum, but not a checkpoint of this package
    return (sequence, checkpoint) if _is_sound(checkpoint) else None


def _is_sound(checkpoint: Checkpoint) -> bool:
    """Whether the parts have the types and shapes that `Checkpoint` promises."""
    positions, velocities, cell = checkpoint.positions, checkpoint.velocities, checkpoint.cell
    shape = np.shape(positions)
    return (
        isinstance(checkpoint.step, int)
        and isinstance(checkpoint.time, int | float)
        and len(shape) == 2
        and shape[1] == 3
        and (velocities is None or np.shape(velocities) == shape)
        and np.shape(cell) == (3, 3)
        and all(a is None or a.dtype.kind == "f" for a in (positions, velocities, cell))
        and isinstance(checkpoint.state, dict)
        and isinstance(checkpoint.hooks, dict)
    )


def _unpack(payload: bytes) -> Checkpoint:
    (size,) = struct.unpack_from("<Q", payload)
    content = json.loads(payload[8 : 8 + size])
    arrays = []
    offset = 8 + size
    for dtype, shape in content["arrays"]:
        count = int(np.prod(shape, dtype=int))
        array = np.frombuffer(payload, dtype, count, offset).reshape(shape).copy()
        arrays.append(array)
        offset += array.nbytes

    def unpack(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"__array__"}:
                return arrays[value["__array__"]]
            return {key: unpack(item) for key, item in value.items()}
        if isinstance(value, list):
            return [unpack(item) for item in value]
        return value

    return Checkpoint(**unpack(content["tree"]))


class Slots:
    """The two slots of an open file, written in turn."""

    def __init__(self, file: h5py.File) -> None:
        self._group = file.require_group(GROUP)
        self._sequence = max((found[0] for found in _valid(file)), default=0)

    def write(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint into the older slot."""
        sequence = self._sequence + 1
        blob = encode(checkpoint, sequence)
        name = f"slot{sequence % 2}"
        slot = self._group.get(name)
        if slot is None or slot.shape[0] < blob.size:
            if slot is not None:
                del self._group[name]
            slot = self._group.create_dataset(name, shape=(blob.size * 3 // 2,), dtype="u1")
        slot[: blob.size] = blob
        self._sequence = sequence

    def drop_after(self, step: int) -> None:
        """Empty the slots that belong to a later step."""
        for name in self._group:
            found = decode(self._group[name][()].tobytes())
            if found is not None and found[1].step > step:
                self._group[name][: _HEADER.size] = 0


def _valid(file: h5py.File) -> list[tuple[int, Checkpoint]]:
    if GROUP not in file:
        return []
    slots = (decode(slot[()].tobytes()) for slot in file[GROUP].values())
    return [found for found in slots if found is not None]


def newest(file: h5py.File) -> Checkpoint | None:
    """The newest valid checkpoint of an open file."""
    return max(_valid(file), key=lambda found: found[0], default=(0, None))[1]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The newest checkpoint of a recorded file, ``path``, which may still be growing.

    Raises:
        HookError: the file cannot be read or holds no checkpoint.
    """

    def read(file: h5py.File) -> tuple[Checkpoint | None, bool, bool]:
        check(file, path)
        frames = file.get(layout.FRAME_STEP)
        slots = file.get(GROUP)
        return newest(file), frames is not None and frames.shape[0] > 0, bool(slots)

    checkpoint, with_frames, with_slots = open_to_read(path, read)
    if checkpoint is not None:
        return checkpoint
    what = "holds no checkpoint that is whole" if with_slots else "holds no checkpoint"
    if not with_frames:
        raise HookError(
            f"{path} {what} and no frame, so a run cannot continue from it: begin the run anew, "
            "and pass overwrite to replace the file"
        )
    raise HookError(
        f"{path} {what}, so a run cannot continue from it: start a new one from its last frame"
    )
