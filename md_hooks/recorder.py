"""Recorder: the trajectory of a run in an H5MD file that survives crashes of the run.

Write schedule: every step adds a row of scalars; every ``every``-th step, and every step that a
hook flags or stops, adds a frame. Rows and frames are buffered and written together about once a
second (a step that takes longer is written at once), and immediately when the run stops or ends. A
killed process loses at most that last second.

Why the file can be read while it grows, and after kill -9. The format is the oldest that HDF5
supports (``libver="earliest"``), which carries no mark that a writer left behind. What is written
reaches the disk in steps that are made as a whole or not at all (`md_hooks.h5md.storage`); the datasets
by which readers count frames come last, together with the checkpoint. Readers in other processes
need no switch and disturb nobody; a second writer is refused (`md_hooks.locking`).
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .constraints import Records, warn_not_storable
from .errors import HookError
from .frame import Frame
from .h5md.abandoned import abandoned_run_id
from .h5md.checkpoint import Checkpoint
from .h5md.remark import Remark
from .h5md.writer import H5MDFile
from .hook import Hook
from .run_id import new_run_id
from .run_info import RunInfo, RunResult
from .verdict import Action, Verdict

WRITE_OUT_SECONDS = 1.0
MAX_ROWS = 4096
MAX_FRAMES = 512
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
MAX_FRAME_VALUES = 1_000_000  # particles x buffered frames: about 130 MB


class Recorder(Hook):
    """Writes the frames of a run to an H5MD file; see `md_hooks.h5md.layout` for its structure.

    Another run with the same recorder is a further leg of the run in the file and continues it, in any
    mode (`md_hooks.legs`); `md_hooks.Trajectory.legs` tells them apart.

    Positions, velocities and cell are float64, forces and u_i float32. A checkpoint accompanies each
    written frame if the engine supplies one (`md_hooks.load_checkpoint`).

    Args:
        path: the file.
        every: record a frame every N steps, by step number; scalars are recorded at every step.
        mode: "create" refuses an existing file, "append" continues it (or creates it),
            "overwrite" replaces it once the first frames of the new run are on disk.
        replay: the frames come from a stored trajectory. They may then belong to different systems,
            ``every`` counts frames and not steps, a stop is not written at once, and the
            checkpoint, which stores the position in the trajectory, belongs to the last step
            written, with or without a frame.

    Raises:
        HookError: an invalid ``every`` or ``mode``; on open, a file that exists, is in use,
            holds another system or model, or ends before the restart; while running, a full disk,
            a file that another program moved, replaced or changed, or steps that go backwards.
    """

    def __init__(
        self,
        path: str | Path,
        every: int = 10,
        mode: Literal["create", "append", "overwrite"] = "create",
        replay: bool = False,
    ) -> None:
        if isinstance(every, bool) or int(every) != every or every < 1:
            raise HookError(f"every is {every!r}: pass a whole number of steps, at least 1")
        if mode not in ("create", "append", "overwrite"):
            raise HookError(f"mode is {mode!r}: pass 'create', 'append' or 'overwrite'")
        self.path = Path(path)
        self.run_file = str(self.path)
        self.every = int(every)
        self.mode = mode
        self.replay = replay
        self._file: H5MDFile | None = None
        self._info = RunInfo()

    # --- opening -----------------------------------------------------------------------------

    def open(self, info: RunInfo) -> None:
        """Create or open the file and register the run in it."""
        self._info = info
        self._rows: list[tuple[Any, ...]] = []
        self._frames: list[Frame] = []
        self._actions: list[int] = []
        self._remarks: list[tuple[int, Remark]] = []
        self._extra: tuple[str, ...] | None = None
        self._checkpoint: Checkpoint | None = None
        self._policies: list[dict[str, Any]] | None = None
        self._last: tuple[Frame, int] | None = None
        self._last_step = -1
        self._constraints: Records = ()
        self._n_rows = 0
        self._recorded_step: int | None = None
        self._written = time.monotonic()
        self._recorded = False
        file = self._open_file()
        try:
            if not file.is_new:
                self._recorded = file.n_steps > 0
                self._check(file, info)
            abandoned = abandoned_run_id(file.place) if file.is_new else ""
            self.begins_anew = bool(abandoned)
            self.run_id = file.run_id or abandoned or info.run_id or new_run_id()
            self._check_leg(file, info)
            self.leg = file.legs + (info.leg > 1 or info.restart_step is None or not file.legs)
            place = {"leg": self.leg, "after_step": file.last_step}
            file.begin_run(replace(info, run_id=self.run_id).summary() | place)
            file.place.remove_leftovers()
            if not file.replaces:
                file.publish()
            self._begin_leg(file, info)
        except (OSError, RuntimeError) as error:
            cause = file.error or error
            file.close()
            raise self._cannot_write(cause) from error
        except BaseException:
            file.close()
            raise
        self._file = file

    def _begin_leg(self, file: H5MDFile, info: RunInfo) -> None:
        """Write the state of a further leg's own dynamics: a restart is not to have that of the last."""
        if info.leg > 1 and self.ended is not None:
            self._take_checkpoint(self.ended.frame)
            if self._checkpoint is not None:
                file.checkpoint(self._checkpoint)
                file.commit()
                self._checkpoint = None

    def _open_file(self) -> H5MDFile:
        exists = os.path.lexists(os.path.realpath(self.path))
        goes_on = self.ended is not None and self._info.restart_step is not None
        if goes_on and not exists:
            raise HookError(
                f"{self.path} was moved or deleted since the last run with this recorder: put it back, or "
                "pass new hooks for a new run"
            )
        if exists and (self.mode != "create" or goes_on):
            append = self.mode == "append" or goes_on
            mode: Literal["append", "replace"] = "append" if append else "replace"
            return H5MDFile(self.path, mode, self.replay)
        try:
            return H5MDFile(self.path, "create", self.replay)
        except FileExistsError:
            raise HookError(
                f"{self.path} exists: pass append or overwrite, or choose another file"
            ) from None

    def _check(self, file: H5MDFile, info: RunInfo) -> None:
        """Refuse a file that this run does not continue; truncate it to the restart."""
        self._same_system(file, info.numbers)
        old, new = file.model, info.model
        for key in ("name", "weights_hash"):
            if key in old and key in new and old[key] != new[key]:
                raise HookError(
                    f"{self.path} was recorded with another model ({key} {old[key]}, now "
                    f"{new[key]}): choose another file, or pass overwrite"
                )
        last = file.last_step
        if info.restart_step is not None:
            if (last if last is not None else -1) < info.restart_step:
                raise HookError(
                    f"{self.path} ends at step {last}, before the restart at step "
                    f"{info.restart_step}: restart from this file's own checkpoint"
                )
            file.cut_after(info.restart_step)
            last = file.last_step
        else:
            file.cut_after(None)
        self._last_step = -1 if last is None else last
        self._n_rows = file.n_steps

    def _check_leg(self, file: H5MDFile, info: RunInfo) -> None:
        """Refuse another run's file in the place of the one that the last leg wrote."""
        if info.leg > 1 and self.ended is not None and file.run_id != self.ended.run_id:
            raise HookError(
                f"{self.path} was replaced since the last run with this recorder: put its file back, or "
                "pass new hooks for a new run"
            )

    def _same_system(self, file: H5MDFile, numbers: np.ndarray | None) -> None:
        there = file.numbers
        if there is None or numbers is None or np.array_equal(there, numbers):
            return
        raise HookError(
            f"{self.path} holds another system ({len(there)} atoms, this run has {len(numbers)}; "
            "or other elements): choose another file, or pass overwrite"
        )

    # --- recording ---------------------------------------------------------------------------

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Buffer a frame; write the buffer when it is due.

        Raises:
            HookError: the recorder is not open, a step that does not increase, another system than that of
                the file, or a file that cannot be written.
        """
        if self._file is None:
            raise HookError(f"the recorder of {self.path} is not open: run it through attach()")
        if frame.step <= self._last_step:
            raise HookError(
                f"step {frame.step} after step {self._last_step} in {self.path}: steps must increase; "
                "continue from load_checkpoint() with its step as restart_step, or pass overwrite"
            )
        moved = False
        if self._last is None and not self.replay:
            self._same_system(self._file, frame.numbers)
            # atoms that were moved between two legs: without a frame nobody would know
            moved = self._info.leg > 1 and frame.time == self._info.restart_time
        action = int(verdict.action)
        self._last_step = frame.step
        self._last = (frame, action)
        self._rows.append(self._row(frame, action))
        place = self._n_rows if self.replay else frame.step
        self._n_rows += 1
        if place % self.every == 0 or action != Action.CONTINUE or moved:
            self._record(frame, action)
        if (
            (action == Action.STOP and not self.replay)
            or time.monotonic() - self._written > WRITE_OUT_SECONDS
            or len(self._rows) >= MAX_ROWS
            or len(self._frames) >= MAX_FRAMES
            or len(self._frames) * frame.particles >= MAX_FRAME_VALUES
        ):
            if self.replay:
                self._take_checkpoint(frame)
            self._write_out()

    def remark(self, remark: Remark) -> None:
        """Attach a remark to a frame of a replayed trajectory; written with the next steps."""
        self._remarks.append((self._last_step, remark))
        if len(self._remarks) >= MAX_ROWS:
            self._write_out()

    def _row(self, frame: Frame, action: int) -> tuple[Any, ...]:
        if self._extra is None:
            self._extra = tuple(frame.extra)
        deltas = frame.force_deltas
        if deltas is None:
            worst, largest = -1, np.nan
        else:
            worst = int(deltas.argmax())
            largest = float(deltas[worst])
        u = np.nan if frame.force_delta is None else frame.force_delta
        row = (
            frame.step, frame.time, frame.energy, frame.temperature, u, largest, worst, action,
        )  # fmt: skip
        if not self._extra:
            return row
        return row + tuple(frame.extra.get(name, np.nan) for name in self._extra)

    def _record(self, frame: Frame, action: int) -> None:
        if frame.constraints is not self._constraints and frame.constraints != self._constraints:
            self._constraints = frame.constraints
            warn_not_storable(frame.constraints, str(self.path))
        self._frames.append(frame)
        self._actions.append(action)
        self._recorded_step = frame.step
        if not self.replay:
            self._take_checkpoint(frame)

    def _take_checkpoint(self, frame: Frame) -> None:
        state = None if self._info.checkpoint is None else self._info.checkpoint()
        if state is not None:
            self._checkpoint = Checkpoint(
                frame.step, frame.time, frame.positions, frame.velocities, frame.cell,
                dict(state), self._info.hook_states(),
            )  # fmt: skip

    def _write_out(self) -> None:
        file = self._file
        if file is None:
            return
        where = file.place.whereabouts()
        if not file.is_whole():
            self._file = None
            file.close()
            raise HookError(
                f"{self.path} was changed by another program while the run wrote to it: its content may "
                "be damaged; start the run again in another file"
            )
        try:
            policies = self._info.policies()
            if policies != self._policies:
                file.note("policies", policies)
                self._policies = policies
            if self._rows:
                file.append_series(self._rows, self._extra or ())
                self._rows.clear()
            if self._remarks:
                file.append_remarks(self._remarks)
                self._remarks.clear()
            if self._frames:
                file.append_frames(self._frames, self._actions)
                self._frames.clear()
                self._actions.clear()
            try:
                if self._checkpoint is not None:
                    file.checkpoint(self._checkpoint)
                    self._checkpoint = None
            finally:  # the frames are stored even if the engine's state cannot be
                file.commit()
            if where != "here":
                raise self._lost(file, where)
            if self._n_rows:
                file.publish()
                self._recorded = True
        except (OSError, RuntimeError, ValueError, SystemError) as error:
            self._file = None
            cause = file.error or error
            file.close()
            raise self._cannot_write(cause) from error
        except HookError:
            self._file = None
            file.close()
            raise
        self._written = time.monotonic()

    def _lost(self, file: H5MDFile, where: str) -> HookError:
        """The error for a file that was moved or replaced; saves the recorded frames if possible."""
        what = f"{self.path} was {where} by another program while the run wrote to it"
        if where == "moved":
            name = file.place.name_now()
            what += ", which ends the run"
            file.note("outcome", {"reason": "error", "message": what})
            file.commit()
            there = "the moved file" if name is None else name
            return HookError(
                f"{what}: all data up to step {self._last_step} are in {there}; continue from that file"
            )
        file.note("outcome", {"reason": "error", "message": what})
        file.commit()
        copy = file.place.save_copy(file.size)
        if copy is None:
            return HookError(f"{what}, and no copy could be saved: the recorded data are lost")
        return HookError(
            f"{what}: all data up to step {self._last_step} were saved in {copy}; continue from that file"
        )

    def _cannot_write(self, error: Exception) -> HookError:
        number = error.errno if isinstance(error, OSError) else None
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        cure = "free some space" if number in _FULL else "check the disk"
        what = f"{self.path} cannot be written to ({' '.join(why.split())}): {cure}, then"
        if not self._recorded:
            return HookError(f"{what} start the run again: no frame had been recorded yet")
        return HookError(
            f"{what} continue from the last checkpoint; data recorded before it are readable"
        )

    def flush(self) -> None:
        """Write buffered rows and frames to disk."""
        self._write_out()

    def close(self, result: RunResult) -> None:
        """Write the last frame, its checkpoint and the outcome of the run; close the file."""
        if self._file is None:
            return
        if self._last is not None and self._recorded_step != self._last[0].step:
            self._record(*self._last)
        if self._last is not None and self.replay:
            self._take_checkpoint(self._last[0])
        self._write_out()
        file, self._file = self._file, None
        outcome = {name: getattr(result, name) for name in result.__dataclass_fields__}
        try:
            file.note("outcome", outcome)
            file.commit()
            file.close()
        except (OSError, RuntimeError) as error:
            raise self._cannot_write(file.error or error) from error
        finally:
            file.close()
