"""Progress: two lines with a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from ase.data import chemical_symbols
from tqdm import tqdm

from .frame import Frame
from .hook import Hook
from .predicted_error import predicted_words
from .run_info import RunInfo, RunResult
from .text import printable
from .verdict import Action, Verdict

if TYPE_CHECKING:
    from rich.live import Live

# Output must never end a run: a closed terminal, a full disk behind a log file or `2>&1 | head -1`
# cost the lines that follow and nothing else.

TERMINAL_SECONDS = 0.5
LINE_SECONDS = 10.0

_COLOURS = {Action.CONTINUE: "green", Action.FLAG: "yellow", Action.STOP: "bold red"}


class QuietStream:
    """A text stream that ignores write errors.

    Args:
        stream: where to write; None (Python's value for a closed descriptor) drops everything.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write, escaping characters that the encoding lacks; do nothing after a failure."""
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
        """Whether output is dropped, because the stream is closed or has failed."""
        return self._stream is None

    def flush(self) -> None:
        """Flush; do nothing after a failure."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """The file descriptor, from which progress bars get the width of the terminal."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()


def print_line(line: object, stream: TextIO | None = None) -> None:
    """Print a line for people, with control characters escaped; ignore write errors.

    Args:
        line: one line or several.
        stream: the standard error stream by default.
    """
    out = QuietStream(sys.stderr if stream is None else stream)
    out.write(f"{printable(line)}\n")
    out.flush()


class Progress(Hook):
    """Shows step, time left, temperature, U, thresholds, number of flags and worst atom of a run.

    A terminal gets two lines that are redrawn twice a second, in colour unless ``NO_COLOR`` is set.
    Any other stream gets a plain line at the first frame, about every ten seconds and at the end.
    A replay counts frames instead of steps.

    Args:
        stream: where to write; standard error by default.
        clock: returns the time in seconds; only differences matter.
    """

    shared = True

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._info = RunInfo()
        self._live: Live | None = None
        self._flags = 0

    def open(self, info: RunInfo) -> None:
        """Start the display."""
        self._info = info
        self._out = QuietStream(sys.stderr if self._stream is None else self._stream)
        self._live = _live_display(self._out) if self._out.isatty() else None
        self._interval = LINE_SECONDS if self._live is None else TERMINAL_SECONDS
        self._due = -math.inf
        if self.ended is None or info.restart_step is None:
            self._flags = 0
        self._frames = info.frames_before
        self._began = self._clock()
        self._first: int | None = None
        self._last: Frame | None = None
        self._last_with_u: Frame | None = None
        self._action = Action.CONTINUE

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Count the frame; redraw if the last drawing is old enough."""
        self._last = frame
        self._frames += 1
        if frame.force_delta is not None:
            self._last_with_u = frame
            self._action = verdict.action
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
        if self._live is not None:
            self._draw(frame, self._live)
            return
        text = "  ".join(words for words, _ in self._quantities(frame))
        left = self._time_left(frame)
        self._out.write(f"{self._position(frame)}  {text}{left and '  '}{left}\n")
        self._out.flush()

    def _draw(self, frame: Frame, live: Live) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        first = Table.grid(padding=(0, 2, 0, 0), expand=True)
        first.add_column(no_wrap=True)
        first.add_column(ratio=1)
        first.add_column(no_wrap=True)
        total, done = self._total, self._done(frame)
        bar = "" if total is None else ProgressBar(total=total, completed=done)
        first.add_row(self._position(frame), bar, self._time_left(frame))
        second = Text("  ").join(Text(words, style) for words, style in self._quantities(frame))
        second.no_wrap, second.overflow = True, "crop"
        live.update(Group(first, second), refresh=True)

    @property
    def _total(self) -> int | None:
        """Number of frames of a replay, or of steps of a run."""
        frames = self._info.planned_frames
        return self._info.planned_steps if frames is None else frames

    def _done(self, frame: Frame) -> int:
        if self._info.planned_frames is not None:
            return self._frames
        return frame.step - (self._first or 0)

    def _position(self, frame: Frame) -> str:
        if self._info.planned_frames is not None:
            place = f"frame {self._frames}/{self._info.planned_frames}  step {frame.step}"
        else:
            end = self._info.planned_steps
            place = f"step {frame.step}" + ("" if end is None else f"/{(self._first or 0) + end}")
        return place if math.isnan(frame.time) else f"{place}  {frame.time:.1f} fs"

    def _time_left(self, frame: Frame) -> str:
        """The time left at the mean pace of this run; "" while that is unknown."""
        total, done = self._total, self._done(frame)
        paced = done - self._info.frames_before
        elapsed = self._clock() - self._began
        if total is None or paced <= 0 or elapsed < self._interval / 2 or done >= total:
            return ""
        return f"{tqdm.format_interval(elapsed / paced * (total - done))} left"

    def _quantities(self, frame: Frame) -> list[tuple[str, str]]:
        """Each quantity with its colour, the most important first: a terminal crops the rest."""
        parts = [] if frame.temperature is None else [(f"T {frame.temperature:.0f} K", "")]
        with_u = self._last_with_u
        if with_u is not None:
            parts.append((f"U {with_u.force_delta:.3f} eV/Å", _COLOURS[self._action]))
            if error := predicted_words(with_u.extra):
                parts.append((error, ""))
        for policy in self._info.policies():
            stop, flag = policy.get("stop_threshold"), policy.get("flag_threshold")
            what = "error " if policy.get("on") == "predicted_error" else ""
            if stop is not None:
                parts.append((f"stop {what}> {stop:.3f}", ""))
            elif policy.get("stop_above") == "auto":
                parts.append(("burn-in", "cyan"))
            if flag is not None:
                parts.append((f"flag {what}> {flag:.3f}", ""))
        if self._flags:
            parts.append((f"flagged {self._flags}", "yellow"))
        if with_u is not None and with_u.worst_atom is not None:
            symbol = chemical_symbols[int(with_u.numbers[with_u.worst_atom])]
            worst = f"worst {symbol}{with_u.worst_atom} {with_u.worst_force_delta:.3f}"
            parts.append((worst, ""))
        return parts

    def close(self, result: RunResult) -> None:
        """Show the last frame and end the display; its two lines stay."""
        try:
            if self._last is not None:
                self._show(self._last)
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None


def _live_display(out: QuietStream) -> Live | None:
    """A display of lines that are redrawn in place; None on terminals that cannot move the cursor."""
    from rich.console import Console  # only terminals need it, and it takes a while to import
    from rich.live import Live

    console = Console(file=out, force_terminal=True, highlight=False)  # type: ignore[arg-type]
    if console.is_dumb_terminal:
        return None
    # what others write to stderr meanwhile appears above the lines; what goes to stdout may be data
    live = Live(console=console, auto_refresh=False, redirect_stdout=False)
    live.start()
    console.show_cursor(True)  # a killed process could not bring it back
    return live
