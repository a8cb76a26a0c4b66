"""``forcedelta watch``: monitor a run in the terminal from another process."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.text import Text

from md_hooks import Trajectory
from md_hooks.progress import QuietStream
from md_hooks.text import printable

from ..report.snapshot import Snapshot, has_times, snapshot
from .encoding import can_write
from .exit_status import ExitStatus
from .printing import print_json
from .tables import cell, rendered

REFRESH_SECONDS = 1.0
_HOME = "\x1b[H\x1b[2J"
LAST_STEPS = 2000
"""Number of latest steps in the plot."""
THRESHOLD_SHOWN = 3.0
"""Thresholds above this multiple of the largest U are not drawn, since they would flatten the plot."""


def watch(
    path: Annotated[Path, typer.Argument(metavar="RUN.h5", help="Recorded run.")],
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot without the plot and exit.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print each change as a line of JSON, without the plot.")
    ] = False,
) -> int:
    """Monitor a run: step, time, temperature, U, worst atom, thresholds, flags, energy drift.

    Reads the file every second until the run ends or Ctrl-C, without disturbing the run. If the
    output is not a terminal, lines without the plot are printed.
    """
    trajectory = Trajectory(path)
    out = QuietStream(sys.stdout)
    terminal = out.isatty() and not (once or json)
    shown = None
    while True:
        found = snapshot(trajectory)
        if terminal:
            out.write(f"{_HOME}{rendered([*_lines(found)], True)}{_plot(trajectory)}\n")
            out.flush()
        elif found != shown:
            if json:
                print_json(found.as_dict())
            else:
                out.write(
                    "".join(f"{printable(line)}\n" for line in (found.state, found.numbers) if line)
                )
                out.flush()
            shown = found
        if once or out.broken or found.reason != "running":
            return ExitStatus.DONE
        time.sleep(REFRESH_SECONDS)
        trajectory.refresh()


def _lines(found: Snapshot) -> list[Text]:
    """State and numbers for a terminal: U in red above the stop, in yellow above the flag threshold."""
    colour = ""
    u = found.force_delta
    for threshold, style in ((found.flag_threshold, "yellow"), (found.stop_threshold, "bold red")):
        if u is not None and threshold is not None and not u <= threshold:
            colour = style
    numbers = cell(found.numbers)
    if colour:
        numbers.highlight_regex(r"U \S+ eV/Å", colour)
    return [cell(found.state, "bold"), numbers]


def _plot(trajectory: Trajectory) -> str:
    """Text plot of U and the thresholds against time for the latest steps."""
    import plotext

    u = trajectory.series.get("force_delta", np.empty(0))[-LAST_STEPS:]
    known = np.isfinite(u)
    if not known.any():
        return ""
    timed = has_times(trajectory)
    at = trajectory.series["time" if timed else "step"][-LAST_STEPS:][known]
    u = u[known]
    size = shutil.get_terminal_size()
    figure = plotext.figure
    figure.clear.all()
    figure.plot_size(size.columns, max(8, min(24, size.lines - 4)))
    marker = "braille" if can_write("⣿") else "*"
    figure.draw(figure.signal(at.tolist(), u.tolist(), marker=marker).lines())
    for kind in ("stop", "flag"):
        value = trajectory.thresholds[kind]
        if value is not None and value < THRESHOLD_SHOWN * u.max():
            figure.line(value)
    figure.title("U (eV/Å)")
    figure.label("time (fs)" if timed else "step", axis="x")
    return str(figure.build().string(colorless=True))
