"""``forcedelta watch``: a run in the terminal, from another process while it grows."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from ase.data import chemical_symbols

from md_hooks import Trajectory
from md_hooks.progress import QuietStream, say
from md_hooks.text import printable

from .encoding import can_write

REFRESH_SECONDS = 1.0
LAST_STEPS = 2000
"""The plot shows so many of the latest steps."""
THRESHOLD_SHOWN = 3.0
"""A threshold farther than this many times the largest U is left out: it would flatten the plot."""


def watch(
    path: Annotated[Path, typer.Argument(metavar="RUN.h5", help="Recorded run.")],
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot without the plot and end.")
    ] = False,
) -> int:
    """Show a run while it grows: step, time, temperature, U, worst atom, thresholds, flags.

    Looks at the file each second until the run has ended or Ctrl-C; the run does not notice. When
    the output is no terminal, lines without the plot are printed.
    """
    trajectory = Trajectory(path)
    if once:
        say(snapshot(trajectory), sys.stdout)
        return 0
    out = QuietStream(sys.stdout)
    terminal = out.isatty()
    shown = ""
    while True:
        text = snapshot(trajectory)
        if terminal:
            clear = "\x1b[H\x1b[2J"
            out.write(f"{clear}{printable(text)}\n{_plot(trajectory)}\n")
            out.flush()
        elif text != shown:
            out.write(f"{printable(text)}\n")
            out.flush()
            shown = text
        if out.broken or trajectory.outcome.get("reason") != "running":
            return 0
        time.sleep(REFRESH_SECONDS)
        trajectory.refresh()


def snapshot(trajectory: Trajectory) -> str:
    """The latest numbers of a run, two lines."""
    series = trajectory.series
    reason = trajectory.outcome.get("reason", "unknown")
    message = trajectory.outcome.get("message")
    state = f"{reason} ({message})" if message else str(reason)
    if not len(series.get("step", ())):
        return f"{trajectory.path}: {state}, no steps yet"
    step = int(series["step"][-1])
    steps = trajectory.metadata.get("settings", {}).get("steps")
    total = "" if steps is None else f"/{steps}"
    parts = [
        f"step {step}{total}",
        f"{series['time'][-1]:.1f} fs",
    ]
    if np.isfinite(series["temperature"][-1]):  # an audited trajectory may have no velocities
        parts.append(f"T {series['temperature'][-1]:.0f} K")
    known = np.flatnonzero(np.isfinite(series["force_delta"]))
    if len(known):
        row = known[-1]
        parts.append(f"U {series['force_delta'][row]:.3f} eV/Å")
        parts.append(f"worst {_atom(trajectory, row)} {series['force_delta_max'][row]:.3f}")
    thresholds = trajectory.thresholds
    for kind in ("stop", "flag"):
        if thresholds[kind] is not None:
            parts.append(f"{kind} > {thresholds[kind]:.3f}")
    parts.append(f"flagged {len(trajectory.flags)}")
    return f"{trajectory.path}: {state}\n{'  '.join(parts)}"


def _atom(trajectory: Trajectory, row: int) -> str:
    atom = int(trajectory.series["worst_atom"][row])
    if len(trajectory) == 0:
        return str(atom)
    return f"{chemical_symbols[int(trajectory.frame(0).numbers[atom])]}{atom}"


def _plot(trajectory: Trajectory) -> str:
    """U of the latest steps over time with the thresholds, as text for a terminal."""
    import plotext

    u = trajectory.series.get("force_delta", np.empty(0))[-LAST_STEPS:]
    known = np.isfinite(u)
    if not known.any():
        return ""
    at = trajectory.series["time"][-LAST_STEPS:][known]
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
    figure.label("time (fs)", axis="x")
    return str(figure.build().string(colorless=True))
