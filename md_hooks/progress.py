"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
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

_GREEN, _YELLOW, _RED, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"


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


def print_line(line: object, stream: TextIO | None = None) -> None:
    """Write a line for people, control characters escaped; where that fails, do nothing.

    Args:
        line: one or several lines.
        stream: the standard error stream by default.
    """
    out = QuietStream(sys.stderr if stream is None else stream)
    out.write(f"{printable(line)}\n")
    out.flush()


class Progress(Hook):
    """Shows step, time left, temperature, U with its worst atom, thresholds and flags during a run.

    A terminal gets a bar and, below it, a line of numbers, where U is coloured by the thresholds
    (not with ``NO_COLOR`` set). Any other stream gets a line at the first frame, about every ten
    seconds, and at the end. A replay counts its frames instead of steps.

    Args:
        stream: where to write; the standard error stream by default.
        clock: gives the time in seconds; only differences matter.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._info = RunInfo()
        self._bar: Any = None
        self._numbers: Any = None

    def open(self, info: RunInfo) -> None:
        """Start the bar."""
        self._info = info
        self._out = QuietStream(sys.stderr if self._stream is None else self._stream)
        terminal = self._out.isatty()
        self._coloured = (
            terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        )
        self._interval = BAR_SECONDS if terminal else LINE_SECONDS
        self._due = -math.inf
        self._flags = 0
        self._frames = info.frames_before
        self._began = self._clock()
        self._seen: Frame | None = None
        self._with_u: Frame | None = None
        self._replay = info.planned_frames is not None
        self._start = info.frames_before if self._replay else info.restart_step or 0
        planned = info.planned_frames if self._replay else info.planned_steps
        self._total = planned if self._replay or planned is None else self._start + planned
        if terminal:
            self._bar = tqdm(
                total=self._total,
                initial=self._start,
                file=self._out,
                unit="frame" if self._replay else "step",
                dynamic_ncols=True,
                position=0,
            )
            self._numbers = tqdm(
                bar_format="{desc}", file=self._out, dynamic_ncols=True, position=1
            )

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Take note of a frame; most cost no more than a glance at the clock."""
        self._seen = frame
        self._frames += 1
        if frame.force_delta is not None:
            self._with_u = frame
        if verdict.action == Action.FLAG:
            self._flags += 1
        now = self._clock()
        if now >= self._due:
            self._due = now + self._interval
            self._show(frame)

    def _show(self, frame: Frame) -> None:
        if self._bar is not None:
            self._bar.n = self._done(frame)
            self._bar.refresh()
            self._numbers.set_description_str(f"{frame.time:.1f} fs  {self._describe(frame)}")
        else:
            self._out.write(f"{self._place(frame)}  {self._describe(frame)}{self._left(frame)}\n")
            self._out.flush()

    def _done(self, frame: Frame) -> int:
        return self._frames if self._replay else frame.step

    def _place(self, frame: Frame) -> str:
        total = "" if self._total is None else f"/{self._total}"
        steps = f"step {frame.step}"
        place = f"frame {self._frames}{total}  {steps}" if self._replay else f"{steps}{total}"
        return f"{place}  {frame.time:.1f} fs"

    def _left(self, frame: Frame) -> str:
        """The time left at the pace so far."""
        done, elapsed = self._done(frame) - self._start, self._clock() - self._began
        if self._total is None or done <= 0 or elapsed < LINE_SECONDS / 2:
            return ""
        left = self._total - self._start - done
        return f"  {tqdm.format_interval(elapsed / done * left)} left" if left > 0 else ""

    def _describe(self, frame: Frame) -> str:
        stop, flag, burning_in = None, None, False
        for policy in self._info.policies():
            stop, flag = policy.get("stop_threshold"), policy.get("flag_threshold")
            burning_in = stop is None and policy.get("stop_above") == "auto"
        parts = [] if frame.temperature is None else [f"T {frame.temperature:.0f} K"]
        seen = self._with_u
        if seen is not None and seen.force_delta is not None:
            u = seen.force_delta
            colour = _RED if _above(u, stop) else _YELLOW if _above(u, flag) else _GREEN
            known = stop is not None or flag is not None
            parts.append(self._painted(f"U {u:.3f} eV/Å", colour if known else ""))
            atom = seen.worst_atom
            if atom is not None:
                symbol = chemical_symbols[int(seen.numbers[atom])]
                parts.append(f"worst {symbol}{atom} {seen.worst_force_delta:.3f}")
        if stop is not None:
            parts.append(f"stop > {stop:.3f}")
        elif burning_in:
            parts.append("burn-in")
        if flag is not None:
            parts.append(f"flag > {flag:.3f}")
        if self._flags:
            parts.append(self._painted(f"flagged {self._flags}", _YELLOW))
        return "  ".join(parts)

    def _painted(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._coloured and colour else text

    def close(self, result: RunResult) -> None:
        """Show the last frame and leave bar and numbers."""
        if self._seen is not None:
            self._show(self._seen)
        if self._bar is not None:
            self._bar.close()
            self._numbers.close()


def _above(value: float, threshold: float | None) -> bool:
    return threshold is not None and not value <= threshold  # NaN is above
