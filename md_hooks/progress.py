"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from ase.data import chemical_symbols
from tqdm import tqdm

from .frame import Frame
from .hook import Hook
from .run_info import RunInfo, RunResult
from .text import printable
from .verdict import Action, Verdict

# What people read must never end what they wait for: a terminal that was closed, a full disk behind
# a log file or `2>&1 | head -1` cost the lines that follow, and nothing else.

BAR_SECONDS = 0.2
LINE_SECONDS = 10.0


class QuietStream:
    """A text stream that drops what cannot be written.

    Args:
        stream: where to write; None, as Python has it for a closed descriptor, drops all.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write, in the characters that the stream has; after the first failure do nothing."""
        if self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    coded = text.encode(self.encoding, "backslashreplace")
                    self._stream.write(coded.decode(self.encoding))
            except (OSError, ValueError):  # ValueError: closed
                self._stream = None
        return len(text)

    @property
    def broken(self) -> bool:
        """Whether what is written is dropped."""
        return self._stream is None

    def flush(self) -> None:
        """Flush; after the first failure do nothing."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Of the stream; tqdm asks it how wide the terminal is."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()


def say(line: object, stream: TextIO | None = None) -> None:
    """Write a line for people, control characters escaped; where that fails, do nothing.

    Args:
        line: one or several lines.
        stream: the standard error stream by default.
    """
    out = QuietStream(sys.stderr if stream is None else stream)
    out.write(f"{printable(line)}\n")
    out.flush()


class Progress(Hook):
    """Shows step, temperature, U, the worst atom, the threshold and the time left during a run.

    A replay counts its frames instead of steps.

    Args:
        stream: where to write; the standard error stream by default. A terminal gets a bar, any
            other stream a line at the first frame, about every ten seconds and at the end.
        clock: gives the time in seconds; only differences matter.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._info = RunInfo()
        self._bar: Any = None

    def open(self, info: RunInfo) -> None:
        """Start the bar."""
        self._info = info
        self._out = QuietStream(sys.stderr if self._stream is None else self._stream)
        self._terminal = self._out.isatty()
        self._interval = BAR_SECONDS if self._terminal else LINE_SECONDS
        self._due = -math.inf
        self._flags = 0
        self._frames = info.frames_before
        self._began = self._clock()
        self._first: int | None = None
        self._seen: Frame | None = None
        self._with_u: Frame | None = None
        if self._terminal:
            replay = info.planned_frames is not None
            self._bar = tqdm(
                total=info.planned_frames if replay else info.planned_steps,
                initial=info.frames_before,
                file=self._out,
                unit="frame" if replay else "step",
                leave=True,
            )

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Look at a frame; most cost no more than a glance at the clock."""
        self._seen = frame
        self._frames += 1
        if frame.force_delta is not None:
            self._with_u = frame
        if verdict.action == Action.FLAG:
            self._flags += 1
        if self._first is None:
            restart = self._info.restart_step
            self._first = frame.step if restart is None else restart
        now = self._clock()
        if now >= self._due:
            self._due = now + self._interval
            self._show(frame)

    def _show(self, frame: Frame) -> None:
        text = self._describe(frame)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = self._done(frame)
            self._bar.refresh()
        else:
            self._out.write(f"{self._place(frame)}  {text}{self._left(frame)}\n")
            self._out.flush()

    def _done(self, frame: Frame) -> int:
        if self._info.planned_frames is not None:
            return self._frames
        return frame.step - (self._first or 0)

    def _place(self, frame: Frame) -> str:
        if self._info.planned_frames is not None:
            place = f"frame {self._frames}/{self._info.planned_frames}  step {frame.step}"
        else:
            end = self._info.planned_steps
            place = f"step {frame.step}" + ("" if end is None else f"/{(self._first or 0) + end}")
        return f"{place}  {frame.time:.1f} fs"

    def _left(self, frame: Frame) -> str:
        """The time that the rest takes at the pace so far."""
        total = self._info.planned_frames
        total = self._info.planned_steps if total is None else total
        done = self._done(frame)
        paced = done - self._info.frames_before
        elapsed = self._clock() - self._began
        if total is None or paced <= 0 or elapsed < LINE_SECONDS / 2 or done >= total:
            return ""
        return f"  {tqdm.format_interval(elapsed / paced * (total - done))} left"

    def _describe(self, frame: Frame) -> str:
        parts = [] if frame.temperature is None else [f"T {frame.temperature:.0f} K"]
        seen = self._with_u
        if seen is not None:
            parts.append(f"U {seen.force_delta:.3f} eV/Å")
            atom = seen.worst_atom
            if atom is not None:
                symbol = chemical_symbols[int(seen.numbers[atom])]
                parts.append(f"worst {symbol}{atom} {seen.worst_force_delta:.3f}")
        for policy in self._info.policies():
            stop, flag = policy.get("stop_threshold"), policy.get("flag_threshold")
            if stop is not None:
                parts.append(f"stop > {stop:.3f}")
            elif policy.get("stop_above") == "auto":
                parts.append("burn-in")
            if flag is not None:
                parts.append(f"flag > {flag:.3f}")
        if self._flags:
            parts.append(f"flagged {self._flags}")
        return "  ".join(parts)

    def close(self, result: RunResult) -> None:
        """Show the last frame and leave the bar."""
        if self._seen is not None:
            self._show(self._seen)
        if self._bar is not None:
            self._bar.close()
            self._bar = None
