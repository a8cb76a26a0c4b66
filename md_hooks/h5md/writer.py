"""The file behind a Recorder: created, appended to, cut back, and written out in the right order."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ..errors import HookError
from ..frame import Frame
from ..run_id import stored_run_id
from ..versions import versions_of
from . import checkpoint as ckpt
from . import checksum, layout
from .held import HeldWriter
from .output_file import OutputFile
from .remark import ROW, Remark
from .storage import Storage
from .validation import check, damaged

_REMARKS_CHUNK = 64
_POSITION = f"{layout.PARTICLES}/position"
"""Its step and time are those of all elements of the frames."""


class H5MDFile:
    """A recorded file open for writing.

    What is appended or noted reaches the disk with `commit`, as a whole or not at all. HDF5's own
    locks are not used: `md_hooks.h5md.output_file` keeps other writers out and lets readers in.

    Args:
        path: the file.
        mode: "create" a new one, "append" to one that a Recorder wrote, or "replace" a file with a
            new one that is begun beside it. New files get to their place by `publish`.
        replay: whether the frames may be of different systems; fixed when a file is created.

    Attributes:
        is_new: whether the file was created, not appended to.
        replaces: whether it is begun beside another one, whose place it will take.

    Raises:
        HookError: the file cannot be created or opened, or was not written by a Recorder.
        FileExistsError: on "create", there is one.
    """

    def __init__(
        self, path: Path, mode: Literal["create", "append", "replace"], replay: bool = False
    ) -> None:
        self.path = path
        self.is_new = mode != "append"
        self.replaces = mode == "replace"
        self._replay = replay
        self.place = OutputFile(path, mode)
        try:
            if mode == "append":
                self._look()
            self._storage = Storage(self.place.fd)
            # 'earliest': opens after kill -9; files of newer formats carry an "open" mark
            self._file = h5py.File(
                self._storage,
                "r+" if mode == "append" else "w",
                libver="earliest",
                rdcc_nbytes=2 * layout.FRAME_CHUNK_BYTES,  # of each dataset: they stay open
            )
        except BaseException:
            self.place.discard()
            raise
        try:
            self._begin(new=mode != "append")
        except BaseException:
            self.close()
            raise

    def _begin(self, new: bool) -> None:
        if new:
            self._header()
        self._data: dict[str, h5py.Dataset] = {}
        """Growing datasets by path, once they are used."""
        self._slots = ckpt.Slots(self._file)
        self._series = self._file.require_group(layout.PER_STEP)
        self._runs = self._file.require_group(layout.RUNS)
        self._with_checksums = layout.CHECKSUMS in self._file
        self._held = HeldWriter(self._file)

    def _look(self) -> None:
        """Refuse a file that is damaged or foreign before anything of it is changed."""
        try:
            with h5py.File(Storage(self.place.fd, writable=False), "r") as file:
                check(file, self.path)
        except HookError:
            raise
        except Exception as error:  # HDF5 raises whatever a damaged file makes it raise
            if not h5py.is_hdf5(self.path):
                raise HookError(
                    f"{self.path} is not an HDF5 file or is cut off: pass overwrite to replace it"
                ) from error
            raise damaged(self.path, str(error)) from error

    def _header(self) -> None:
        # the creator first: it has to lie within the bytes that ASE looks at
        creator = self._file.create_group("h5md/creator")
        creator.attrs["name"] = layout.CREATOR
        creator.attrs["version"] = versions_of("forcedelta").get("forcedelta", "unknown")
        author = self._file.create_group("h5md/author")
        author.attrs["name"] = os.environ.get("USER", "unknown")
        self._file["h5md"].attrs["version"] = np.array([1, 1])
        self._file.create_group(layout.PARTICLES)
        self._file.create_group(layout.OBSERVABLES)
        self._file.create_group(layout.CHECKSUMS)

    # --- present content -----------------------------------------------------------------------

    @property
    def n_frames(self) -> int:
        """Frames that are complete."""
        data = self._found(f"{layout.PARTICLES}/position/value")
        return 0 if data is None else int(data.shape[0])

    @property
    def n_steps(self) -> int:
        """Rows of the series."""
        steps = self._found(layout.SERIES_STEP)
        return 0 if steps is None else int(steps.shape[0])

    @property
    def last_step(self) -> int | None:
        """The last step of the series; None in an empty file."""
        steps = self._found(layout.SERIES_STEP)
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
        return self._last_info.get("model", {})

    @property
    def legs(self) -> int:
        """Number of legs in the file; files written before runs had legs have one."""
        leg = self._last_info.get("leg", 1) if len(self._runs) else 0
        return leg if isinstance(leg, int) else 1

    @property
    def _last_info(self) -> dict[str, Any]:
        last = self._runs.get(str(len(self._runs) - 1))
        return {} if last is None else json.loads(last.attrs["info"])

    @property
    def run_id(self) -> str:
        """The id of the run in the file; empty in a new file."""
        return stored_run_id(self._file)

    # --- growing -----------------------------------------------------------------------------

    def begin_run(self, info: Mapping[str, Any]) -> None:
        """Note a new run: the first of the file or one that appends."""
        self._runs.create_group(str(len(self._runs)))
        self.note("info", dict(info))
        self.note("outcome", {"reason": "running"})
        self.note("policies", [])
        self.commit()

    def note(self, name: str, value: Any) -> None:
        """Set an attribute ("info", "policies", "outcome") of the current run, JSON-able."""
        run = len(self._runs) - 1
        text = json.dumps(value, default=str)
        self._runs[str(run)].attrs[name] = text
        self._sign(f"runs/{run}/{name}", text)

    def _sign(self, name: str, data: bytes | str) -> None:
        if self._with_checksums:
            self._file[layout.CHECKSUMS].attrs[name] = checksum.of_bytes(data)

    def append_series(self, rows: Sequence[tuple[Any, ...]], extra: Sequence[str]) -> None:
        """Append one row per step: step, time, the values of `layout.SERIES`, then ``extra``."""
        columns = list(zip(*rows, strict=True))
        step, time = self._shared(layout.PER_STEP)
        start = self.n_steps
        steps, times = np.array(columns[0], dtype="i8"), np.array(columns[1], dtype="f8")
        _put(step, start, steps)
        _put(time, start, times)
        total = checksum.of_rows("step", steps, -1) + checksum.of_rows("time", times, np.nan)
        names = [*layout.SERIES, *((name, "f8", layout.extra_unit(name)) for name in extra)]
        for (name, dtype, unit), column in zip(names, columns[2:], strict=True):
            data = self._element(f"{layout.PER_STEP}/{name}", layout.PER_STEP, dtype, unit, ())
            values = np.array(column, dtype=dtype)
            _put(data, start, values)
            total += checksum.of_rows(name, values, layout.fill_value(dtype))
        if self._with_checksums:
            data = self._element(layout.SERIES_CHECKSUM, layout.PER_STEP, "i8", None, ())
            _put(data, start, checksum.stored(total))
        for name in set(self._series) - {"step", "time", "checksum"} - {name for name, *_ in names}:
            self._series[name]["value"].resize(start + len(rows), axis=0)  # from an earlier run

    def append_frames(self, frames: Sequence[Frame], actions: Sequence[int]) -> None:
        """Append frames, with a commit between the parts; that of the steps is left to the caller.

        First what no reader counts by, then species, then the times, then the steps: znh5md counts
        frames by species and MDAnalysis goes on until the steps end, so that a reader of a file
        whose writer was killed in between does not look for a frame that is only half there. The
        steps become part of the file together with the checkpoint of the last of them, so that a
        run can be continued from wherever it has frames.
        """
        if self._found(layout.MASSES) is None:
            self._note_system(frames[0])
        start = self.n_frames
        self._held.note(frames, start)
        step, time = self._shared(_POSITION)
        steps = np.array([f.step for f in frames], dtype="i8")
        times = np.array([f.time for f in frames], dtype="f8")
        done = np.array(actions, dtype="i1")
        _put(self._element(layout.ACTION, _POSITION, "i1", None, ()), start, done)
        total = checksum.of_rows("step", steps, -1) + checksum.of_rows("time", times, np.nan)
        total += checksum.of_rows(layout.ACTION, done, -1)
        late = []
        for element in layout.PARTICLE_ELEMENTS:
            if element.replayed and not self._replay:
                continue
            rows = self._rows_of(element, frames)
            if rows is not None:
                total += checksum.of_rows(element.path, rows, layout.fill_value(element.dtype))
            if element.late:
                late.append((element, rows))
            else:
                self._append_element(element, rows, start + len(frames))
        if self._with_checksums:
            data = self._element(layout.CHECKSUM, _POSITION, "i8", None, ())
            _put(data, start, checksum.stored(total))
        self.commit()
        for element, rows in late:
            self._append_element(element, rows, start + len(frames))
        self.commit()
        _put(time, start, times)
        self.commit()
        _put(step, start, steps)

    def _note_system(self, first: Frame) -> None:
        """Masses and boundary, which have no rows."""
        masses = np.asarray(first.masses, dtype="f8")
        boundary = ["periodic" if p else "none" for p in first.pbc]
        self._file.create_dataset(layout.MASSES, data=masses).attrs["unit"] = "amu"
        box = self._file.require_group(f"{layout.PARTICLES}/box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = boundary
        self._sign("masses", masses.tobytes())
        self._sign("boundary", " ".join(boundary))

    @staticmethod
    def _rows_of(element: layout.Element, frames: Sequence[Frame]) -> np.ndarray | None:
        """What an element holds of these frames, as wide as the largest of them."""
        n_atoms = max(element.count(frame) for frame in frames)
        rows = layout.stack(element, list(frames), n_atoms)
        if rows is None and not element.optional:
            shape = (len(frames), *element.shape(n_atoms))
            rows = np.full(shape, layout.fill_value(element.dtype), dtype=element.dtype)
        return rows

    def _append_element(self, element: layout.Element, rows: np.ndarray | None, stop: int) -> None:
        """Let an element grow to ``stop`` rows, of which ``rows`` are the last."""
        data = self._found(f"{element.path}/value")
        if data is None:
            if rows is None:
                return
            shape = rows.shape[1:]
            data = self._element(element.path, _POSITION, element.dtype, element.unit, shape)
        if rows is None:
            data.resize(stop, axis=0)  # with what stands for "not computed"
            return
        if element.per_atom and data.shape[1] < rows.shape[1]:
            if not self._replay:  # the atoms are the same, as the Recorder has seen
                raise HookError(
                    f"{self.path} has environments of {data.shape[1]} particles, but this run has "
                    f"{rows.shape[1]}: choose another file, or pass overwrite"
                )
            data.resize(rows.shape[1], axis=1)  # a replay met a larger system
        _put(data, stop - len(rows), rows)

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

    def _found(self, path: str) -> h5py.Dataset | None:
        """A dataset by its path; None where there is none (yet)."""
        if path not in self._data:
            if path not in self._file:
                return None
            self._data[path] = self._file[path]
        return self._data[path]

    def _shared(self, path: str) -> tuple[h5py.Dataset, h5py.Dataset]:
        """The step and time datasets that the elements of a group share, made when needed."""
        if self._found(f"{path}/step") is None:
            group = self._file.require_group(path)
            rows = {"shape": (0,), "maxshape": (None,), "chunks": (layout.SERIES_CHUNK_ROWS,)}
            group.create_dataset("step", dtype="i8", fillvalue=-1, **rows)
            group.create_dataset("time", dtype="f8", **rows).attrs["unit"] = "fs"
        step, time = self._found(f"{path}/step"), self._found(f"{path}/time")
        assert step is not None
        assert time is not None
        return step, time

    def _element(
        self, path: str, shared: str, dtype: str, unit: str | None, shape: tuple[int, ...]
    ) -> h5py.Dataset:
        """The value dataset of an element, made when it is first needed; older rows are empty."""
        found = self._found(f"{path}/value")
        if found is not None:
            return found
        row = max(1, int(np.prod(shape, dtype=int))) * np.dtype(dtype).itemsize
        chunk = max(1, min(layout.SERIES_CHUNK_ROWS, layout.FRAME_CHUNK_BYTES // row))
        most = (None, *shape[1:]) if self._replay and shape else shape
        group = self._file.require_group(path)
        value = group.create_dataset(
            "value", (0, *shape), dtype, maxshape=(None, *most), chunks=(chunk, *shape),
            fillvalue=layout.fill_value(dtype),
        )  # fmt: skip
        if unit is not None:
            value.attrs["unit"] = unit
        for name, data in zip(("step", "time"), self._shared(shared), strict=True):
            if name not in group:
                group[name] = data
        self._data[f"{path}/value"] = value
        return value

    # --- cutting back ------------------------------------------------------------------------

    def cut_after(self, step: int | None) -> None:
        """Drop what lies after a step, and rows that only some datasets have.

        Args:
            step: the last step to keep; None keeps all that is complete.
        """
        groups = (
            (
                layout.FRAME_STEP,
                self._lengths(layout.PARTICLES, layout.OBSERVABLES, layout.ENVIRONMENT),
            ),
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
            self._held.cut_after(step)
        self.commit()

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

    def commit(self) -> None:
        """Make what was written part of the file: a killed process loses nothing after this.

        Raises:
            OSError: disk full, quota or file-size limit reached, or the disk failed; the file is
                as it was after the last commit.
        """
        self._file.flush()
        self._storage.commit()

    def publish(self) -> None:
        """Put a new file at its place; see `md_hooks.h5md.output_file.OutputFile.publish`."""
        if not self.place.published:
            self.place.publish()

    @property
    def error(self) -> OSError | None:
        """What the operating system could not do, where HDF5 does not tell."""
        return self._storage.error

    @property
    def size(self) -> int:
        """Bytes of the file after the last commit."""
        return self._storage.committed

    def is_whole(self) -> bool:
        """Whether the file on the disk is as long as it was left."""
        return os.fstat(self.place.fd).st_size == self._storage.size

    def close(self) -> None:
        """Close the file as it was committed last; a new one that has no place yet is removed.

        Raises:
            OSError: a network file system reports only now that it could not write.
        """
        self._storage.roll_back()
        with contextlib.suppress(OSError, RuntimeError):  # after an error it has lost its bearings
            self._file.close()
        if self.place.published:
            self.place.close()
        else:
            self.place.discard()


def _put(data: h5py.Dataset, start: int, rows: np.ndarray) -> None:
    """Make rows the last ones of a dataset, which may be wider; `data[start:] = rows`, but faster."""
    shape = data.shape
    data.id.set_extent((start + len(rows), *shape[1:]))
    place = data.id.get_space()
    place.select_hyperslab((start, *(0 for _ in shape[1:])), rows.shape)
    data.id.write(h5py.h5s.create_simple(rows.shape), place, np.ascontiguousarray(rows))
