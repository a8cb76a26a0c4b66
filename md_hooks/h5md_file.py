"""The file behind a Recorder: created, appended to, cut back, and flushed in the right order."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import checkpoint as ckpt
from . import layout
from .errors import HookError
from .frame import Frame
from .remark import ROW, Remark
from .run_id import stored_run_id

_REMARKS_CHUNK = 64
_MARGIN = 262144  # bytes kept free beyond the data of a write-out: chunk indices, headers


class H5MDFile:
    """A recorded file open for writing.

    Args:
        path: the file.
        create: make a new file, replacing what is there; else open an existing one.
        replay: whether the frames may be of different systems; fixed when a file is created.

    Raises:
        HookError: the file cannot be created or opened, or was not written by a Recorder.
    """

    def __init__(self, path: Path, create: bool, replay: bool = False) -> None:
        self.path = path
        self._replay = replay
        try:
            # 'earliest': opens after kill -9; files of newer formats carry an "open" mark
            self._file = h5py.File(
                path, "w" if create else "r+", libver="earliest", locking="best-effort"
            )
        except OSError as error:
            raise _cannot_open(path, error) from error
        if create:
            self._header()
        elif self.creator != layout.CREATOR:
            self._file.close()
            raise HookError(
                f"{path} was not written by a Recorder: choose another file, or say overwrite"
            )
        self._slots = ckpt.Slots(self._file)
        self._series = self._file.require_group(layout.PER_STEP)
        self._runs = self._file.require_group(layout.RUNS)
        self._reserve_fd = os.open(path, os.O_RDWR)

    @property
    def creator(self) -> str:
        """What wrote the file."""
        try:
            return str(self._file["h5md/creator"].attrs["name"])
        except KeyError:
            return ""

    def _header(self) -> None:
        # the creator first: it has to lie within the bytes that ASE looks at
        creator = self._file.create_group("h5md/creator")
        creator.attrs["name"] = layout.CREATOR
        creator.attrs["version"] = _version()
        author = self._file.create_group("h5md/author")
        author.attrs["name"] = os.environ.get("USER", "unknown")
        self._file["h5md"].attrs["version"] = np.array([1, 1])
        self._file.create_group(layout.PARTICLES)
        self._file.create_group(layout.OBSERVABLES)

    # --- what is there -----------------------------------------------------------------------

    @property
    def n_frames(self) -> int:
        """Frames that are complete."""
        path = f"{layout.PARTICLES}/position/value"
        return 0 if path not in self._file else int(self._file[path].shape[0])

    @property
    def n_steps(self) -> int:
        """Rows of the series."""
        steps = self._series.get("step")
        return 0 if steps is None else int(steps.shape[0])

    @property
    def last_step(self) -> int | None:
        """The last step of the series; None in an empty file."""
        steps = self._series.get("step")
        return None if steps is None or steps.shape[0] == 0 else int(steps[-1])

    @property
    def numbers(self) -> np.ndarray | None:
        """[N] atomic numbers of the system, None before the first frame."""
        path = f"{layout.PARTICLES}/species/value"
        if path not in self._file or self._file[path].shape[0] == 0:
            return None
        first: np.ndarray = self._file[path][0]
        return first[first >= 0]

    @property
    def model(self) -> dict[str, Any]:
        """What the last run said about its model."""
        if not len(self._runs):
            return {}
        run = self._runs[str(len(self._runs) - 1)]
        return json.loads(run.attrs["info"]).get("model", {})

    @property
    def run_id(self) -> str:
        """The id of the run in the file; empty in a new file."""
        return stored_run_id(self._file)

    # --- growing -----------------------------------------------------------------------------

    def begin_run(self, info: Mapping[str, Any]) -> None:
        """Note a new run: the first of the file or one that appends."""
        run = self._runs.create_group(str(len(self._runs)))
        run.attrs["info"] = json.dumps(dict(info), default=str)
        run.attrs["outcome"] = json.dumps({"reason": "running"})
        run.attrs["policies"] = "[]"
        self.flush()

    def note(self, name: str, value: Any) -> None:
        """Set an attribute ("policies", "outcome") of the current run, JSON-able."""
        self._runs[str(len(self._runs) - 1)].attrs[name] = json.dumps(value, default=str)

    def append_series(self, rows: Sequence[tuple[Any, ...]], extra: Sequence[str]) -> None:
        """Append one row per step: step, time, the values of `layout.SERIES`, then ``extra``."""
        columns = list(zip(*rows, strict=True))
        _shared(self._series)
        start = int(self._series["step"].shape[0])
        _put(self._series["step"], start, np.array(columns[0], dtype="i8"))
        _put(self._series["time"], start, np.array(columns[1], dtype="f8"))
        names = [*layout.SERIES, *((name, "f8", None) for name in extra)]
        for (name, dtype, unit), column in zip(names, columns[2:], strict=True):
            data = self._element(f"{layout.PER_STEP}/{name}", self._series, dtype, unit, ())
            _put(data, start, np.array(column, dtype=dtype))
        for name in set(self._series) - {"step", "time"} - {name for name, *_ in names}:
            self._series[name]["value"].resize(start + len(rows), axis=0)  # from an earlier run

    def append_frames(self, frames: Sequence[Frame], actions: Sequence[int]) -> None:
        """Append frames, with a flush between the parts.

        First what no reader counts by, then species and position, then the steps: znh5md counts
        frames by species and MDAnalysis goes on until the steps end, so that a reader of a file
        whose writer was killed in between does not look for a frame that is only half there.
        """
        first = frames[0]
        particles = self._file[layout.PARTICLES]
        if layout.MASSES not in self._file:
            masses = self._file.create_dataset(layout.MASSES, data=first.masses)
            masses.attrs["unit"] = "amu"
            box = particles.require_group("box")
            box.attrs["dimension"] = 3
            box.attrs["boundary"] = ["periodic" if p else "none" for p in first.pbc]
        position = particles.require_group("position")
        start = self.n_frames
        _shared(position)
        action = self._element(layout.ACTION, position, "i1", None, ())
        _put(action, start, np.array(actions, dtype="i1"))
        for late in (False, True):
            for element in layout.PARTICLE_ELEMENTS:
                if element.late == late and (self._replay or not element.replayed):
                    self._append_element(element, frames, start, position)
            self.flush()
        _put(position["step"], start, np.array([f.step for f in frames], dtype="i8"))
        _put(position["time"], start, np.array([f.time for f in frames], dtype="f8"))
        self.flush()

    def _append_element(
        self, element: layout.Element, frames: Sequence[Frame], start: int, shared: h5py.Group
    ) -> None:
        n_atoms = max(len(frame.numbers) for frame in frames)
        if element.per_atom and f"{element.path}/value" in self._file:
            n_atoms = max(n_atoms, self._file[element.path]["value"].shape[1])
        rows = layout.stack(element, list(frames), n_atoms)
        if rows is None and element.optional and element.path not in self._file:
            return
        data = self._element(
            element.path, shared, element.dtype, element.unit, element.shape(n_atoms)
        )
        if element.per_atom and data.shape[1] < n_atoms:
            data.resize(n_atoms, axis=1)  # a replay met a larger system
        if rows is None:
            rows = np.full((len(frames), *data.shape[1:]), layout.fill_value(element.dtype))
        _put(data, start, rows)

    def append_remarks(self, remarks: Sequence[tuple[int, Remark]]) -> None:
        """Append remarks, each with the step of the frame before it."""
        data = self._file.get(layout.REMARKS)
        if data is None:
            data = self._file.create_dataset(
                layout.REMARKS, (0,), ROW, maxshape=(None,), chunks=(_REMARKS_CHUNK,)
            )
        rows = [remark.row(after) for after, remark in remarks]
        _put(data, int(data.shape[0]), np.array(rows, dtype=ROW))

    def checkpoint(self, state: ckpt.Checkpoint) -> None:
        """Write a checkpoint; only after the frames up to its step."""
        self._slots.write(state)

    def _element(
        self,
        path: str,
        shared: h5py.Group,
        dtype: str,
        unit: str | None,
        shape: tuple[int, ...],
    ) -> h5py.Dataset:
        """The value dataset of an element, made when it is first needed; older rows are empty."""
        group = self._file.require_group(path)
        if "value" in group:
            return group["value"]
        row = max(1, int(np.prod(shape, dtype=int))) * np.dtype(dtype).itemsize
        chunk = max(1, min(layout.SERIES_CHUNK_ROWS, layout.FRAME_CHUNK_BYTES // row))
        most = (None, *shape[1:]) if self._replay and shape else shape
        value = group.create_dataset(
            "value", (0, *shape), dtype, maxshape=(None, *most), chunks=(chunk, *shape),
            fillvalue=layout.fill_value(dtype),
        )  # fmt: skip
        if unit is not None:
            value.attrs["unit"] = unit
        for name in ("step", "time"):
            if name not in group:
                group[name] = shared[name]
        return value

    # --- cutting back ------------------------------------------------------------------------

    def cut_after(self, step: int | None) -> None:
        """Drop what lies after a step, and rows that only some datasets have.

        Args:
            step: the last step to keep; None keeps all that is complete.
        """
        groups = (
            (layout.FRAME_STEP, self._lengths(layout.PARTICLES, layout.OBSERVABLES)),
            (layout.SERIES_STEP, self._lengths(layout.PER_STEP)),
        )
        for steps, lengths in groups:
            core = [length for path, length in lengths.items() if path in layout.CORE]
            if not core:
                continue
            keep = min(core)
            if step is not None:
                keep = int(np.searchsorted(self._file[steps][:keep], step, side="right"))
            for path, length in lengths.items():
                if length != keep:
                    self._file[path].resize(keep, axis=0)
        if step is not None:
            self._slots.drop_after(step)
            remarks = self._file.get(layout.REMARKS)
            if remarks is not None:
                remarks.resize(int((remarks["after"] < step).sum()), axis=0)
        self.flush()

    def _lengths(self, *roots: str) -> dict[str, int]:
        """Rows of every growing dataset below these groups, by path, each counted once."""
        lengths: dict[str, int] = {}

        def visit(item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.maxshape[:1] == (None,):
                lengths[item.name] = int(item.shape[0])

        for root in roots:
            if root in self._file:
                self._file[root].visititems(lambda _, item: visit(item))
        return lengths

    # --- disk --------------------------------------------------------------------------------

    def reserve(self, n_rows: int, frames: Sequence[Frame], n_remarks: int = 0) -> None:
        """Claim the disk space of a write-out before HDF5 is in the middle of it.

        HDF5 that runs out of space half-way leaves a file that may not open; asking the file
        system first means that a full disk is met while the file is still whole.

        Raises:
            OSError: disk full, quota or file-size limit reached.
        """
        row = 8 * (2 + len(layout.SERIES))
        need = _MARGIN + n_rows * row + n_remarks * ROW.itemsize
        if frames:
            n_atoms = max(len(frame.numbers) for frame in frames)
            need += len(frames) * 130 * n_atoms
            need += 12 * max(layout.FRAME_CHUNK_BYTES, 24 * n_atoms)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._reserve_fd, self._file.id.get_filesize(), need)

    def flush(self) -> None:
        """Hand everything to the operating system: a killed process loses nothing after this."""
        self._file.flush()

    def close(self) -> None:
        """Close the file and give back what `reserve` claimed; harmless when closed already."""
        if self._reserve_fd < 0:
            return
        try:
            self._file.flush()
            size = self._file.id.get_filesize()
            self._file.close()
            if os.fstat(self._reserve_fd).st_size > size:
                os.ftruncate(self._reserve_fd, size)
        finally:
            os.close(self._reserve_fd)
            self._reserve_fd = -1


def _shared(group: h5py.Group) -> None:
    """Make the step and time datasets that the elements of a group share."""
    if "step" not in group:
        rows = {"shape": (0,), "maxshape": (None,), "chunks": (layout.SERIES_CHUNK_ROWS,)}
        group.create_dataset("step", dtype="i8", fillvalue=-1, **rows)
        group.create_dataset("time", dtype="f8", **rows).attrs["unit"] = "fs"


def _put(data: h5py.Dataset, start: int, rows: np.ndarray) -> None:
    data.resize(start + len(rows), axis=0)
    data[start:] = rows


def _cannot_open(path: Path, error: OSError) -> HookError:
    if isinstance(error, BlockingIOError) or "unable to lock" in str(error):
        return HookError(
            f"{path} is in use: another run writes to it or a program such as MDAnalysis keeps it "
            "open; close it there, or choose another file"
        )
    if not path.parent.is_dir():
        return HookError(f"{path} cannot be created: make the directory {path.parent} first")
    if path.is_file() and not h5py.is_hdf5(path):
        return HookError(f"{path} is not an HDF5 file or is cut off: say overwrite to replace it")
    return HookError(f"{path} cannot be opened for writing ({error}): choose another file")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("forcedelta")
    except PackageNotFoundError:
        return "unknown"
