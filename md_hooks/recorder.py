"""Recorder: the trajectory of a run as an H5MD file that survives what happens to the run.

What is written when. Every step leaves a row of scalars, every ``every``-th step and every step
that a hook flags or stops leaves a frame. Rows and frames are gathered and written out together
at most about once a second (a step that takes longer is written at once), and immediately when
the run stops or ends. A process that is killed loses that last second and nothing else.

Why the file can be read while it grows, and after kill -9. The format is the oldest that HDF5
knows (``libver="earliest"``), which carries no mark that a writer left behind. All writing happens
in bursts that end with a flush, the datasets by which readers count frames come last, and the
checkpoint after them. Readers in other processes switch HDF5's lock off and try again when they
met a burst (`md_hooks.reading`); a second writer is refused by the lock.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .chain import RunInfo, RunResult
from .checkpoint import Checkpoint
from .errors import HookError
from .frame import Frame
from .h5md_file import H5MDFile
from .remark import Remark
from .run_id import new_run_id
from .verdict import Action, Verdict

WRITE_OUT_SECONDS = 1.0
MAX_ROWS = 4096
MAX_FRAMES = 512
MAX_FRAME_VALUES = 1_000_000  # atoms x frames held back: about 130 MB


class Recorder:
    """Writes the frames of a run to an H5MD file; see `md_hooks.layout` for what is where.

    Positions, velocities and cell are float64, forces and u_i float32. With each written frame
    goes a checkpoint, if the engine gives one (`md_hooks.load_checkpoint`).

    Args:
        path: the file.
        every: a frame each so many steps, counted by the step number; scalars are kept each step.
        mode: "create" refuses an existing file, "append" continues it (or creates it),
            "overwrite" replaces it.
        replay: the frames are those of a stored trajectory. They may then be of different systems,
            ``every`` counts frames and not steps, a stop is not written at once, and the
            checkpoint, which says how far the trajectory was read, belongs to the last of all
            steps written, recorded or not.

    Raises:
        HookError: ``every`` or ``mode`` makes no sense; on open, a file that exists, holds another
            system or model, or is ahead of the run; while running, a full disk or steps that go
            backwards.
    """

    def __init__(
        self,
        path: str | Path,
        every: int = 10,
        mode: Literal["create", "append", "overwrite"] = "create",
        replay: bool = False,
    ) -> None:
        if isinstance(every, bool) or int(every) != every or every < 1:
            raise HookError(f"every is {every!r}: give a whole number of steps, at least 1")
        if mode not in ("create", "append", "overwrite"):
            raise HookError(f"mode is {mode!r}: say 'create', 'append' or 'overwrite'")
        self.path = Path(path)
        self.every = int(every)
        self.mode = mode
        self.replay = replay
        self._file: H5MDFile | None = None
        self._info = RunInfo()
        self.run_id = ""
        """Of the run in the file (`md_hooks.run_id`), once the recorder was opened."""

    @property
    def run_file(self) -> str:
        """The file as other hooks name it in their provenance."""
        return str(self.path)

    # --- opening -----------------------------------------------------------------------------

    def open(self, info: RunInfo) -> None:
        """Create or open the file and note the run in it."""
        exists = self.path.exists()
        if exists and self.mode == "create":
            raise HookError(f"{self.path} exists: say append or overwrite, or choose another file")
        appending = exists and self.mode == "append"
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
        self._n_rows = 0
        self._recorded_step: int | None = None
        self._written = time.monotonic()
        file = H5MDFile(self.path, create=not appending, replay=self.replay)
        try:
            if appending:
                self._check(file, info)
            self.run_id = file.run_id or info.run_id or new_run_id()
            file.begin_run(replace(info, run_id=self.run_id).summary())
        except OSError as error:
            file.close()
            raise self._no_space(error) from error
        except BaseException:
            file.close()
            raise
        self._file = file

    def _check(self, file: H5MDFile, info: RunInfo) -> None:
        """Refuse a file that this run does not continue; cut it back to where it does."""
        self._same_system(file, info.numbers)
        old, new = file.model, info.model
        for key in ("name", "weights_hash"):
            if key in old and key in new and old[key] != new[key]:
                raise HookError(
                    f"{self.path} was recorded with another model ({key} {old[key]}, now "
                    f"{new[key]}): choose another file, or say overwrite"
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

    def _same_system(self, file: H5MDFile, numbers: np.ndarray | None) -> None:
        there = file.numbers
        if there is None or numbers is None or np.array_equal(there, numbers):
            return
        raise HookError(
            f"{self.path} holds another system ({len(there)} atoms, this run has {len(numbers)}; "
            "or other elements): choose another file, or say overwrite"
        )

    # --- recording ---------------------------------------------------------------------------

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Take a frame in; write out when it is time."""
        if self._file is None:
            raise HookError(f"the recorder of {self.path} is not open: run it through attach()")
        if frame.step <= self._last_step:
            raise HookError(
                f"step {frame.step} after step {self._last_step} in {self.path}: steps must grow; "
                "continue from load_checkpoint() with its step as restart_step, or say overwrite"
            )
        if self._last is None and not self.replay:
            self._same_system(self._file, frame.numbers)
        action = int(verdict.action)
        self._last_step = frame.step
        self._last = (frame, action)
        self._rows.append(self._row(frame, action))
        place = self._n_rows if self.replay else frame.step
        self._n_rows += 1
        if place % self.every == 0 or action != Action.CONTINUE:
            self._record(frame, action)
        if (
            (action == Action.STOP and not self.replay)
            or time.monotonic() - self._written > WRITE_OUT_SECONDS
            or len(self._rows) >= MAX_ROWS
            or len(self._frames) >= MAX_FRAMES
            or len(self._frames) * len(frame.numbers) >= MAX_FRAME_VALUES
        ):
            if self.replay:
                self._take_checkpoint(frame)
            self._write_out()

    def remark(self, remark: Remark) -> None:
        """Note something about a frame of a replayed trajectory; written out with the next steps."""
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
        try:
            policies = self._info.policies()
            if self._rows or self._checkpoint is not None or policies != self._policies:
                file.reserve(len(self._rows), self._frames, len(self._remarks))
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
            if self._checkpoint is not None:
                file.checkpoint(self._checkpoint)
                self._checkpoint = None
            file.flush()
        except OSError as error:
            self._file = None
            with contextlib.suppress(OSError, RuntimeError):
                file.close()  # the full disk again; what was flushed before is on it
            raise self._no_space(error) from error
        self._written = time.monotonic()

    def _no_space(self, error: OSError) -> HookError:
        return HookError(
            f"{self.path} cannot be written to ({error.strerror or error}): free some space, then "
            "continue from the last checkpoint; what was recorded before can be read"
        )

    def flush(self) -> None:
        """Write out what is held back."""
        self._write_out()

    def close(self, result: RunResult) -> None:
        """Write the last frame, its checkpoint and how the run ended; close the file."""
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
            file.flush()
        except OSError as error:
            raise self._no_space(error) from error
        finally:
            file.close()
