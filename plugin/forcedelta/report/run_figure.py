"""Pictures of recorded runs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.monitoring import ESTIMATE
from md_hooks import Leg, Trajectory, drift_of
from md_hooks.drift import CONSERVED_ENERGY
from md_hooks.replacing import replace_file
from md_hooks.text import printable

FLAG_COLOUR, STOP_COLOUR, U_COLOUR, ATOM_COLOUR = "#b86e00", "#c1272d", "#1f5a99", "#5f93c4"
ESTIMATE_COLOUR = "#8a8a8a"
"""All with a contrast of 3 or more to white, as WCAG 2.2 asks of graphics (1.4.11)."""
MOST_POINTS = 4000
"""More points than this are drawn as the range of each block, which looks the same."""


def write_png(figure: Any, path: Path, fix: str) -> None:
    """Write a figure as PNG, all of it or nothing.

    Args:
        figure: a `matplotlib.figure.Figure`.
        path: the file.
        fix: what the user can do where it cannot be written.

    Raises:
        ForceDeltaError: it cannot.
    """
    replace_file(path, png(figure), fix, ForceDeltaError)


def png(figure: Any) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()  # not into the file: a full disk is an error of many kinds in matplotlib
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def draw(trajectory: Trajectory) -> Any:
    """The figure, a `matplotlib.figure.Figure` that no window belongs to."""
    from matplotlib.figure import Figure

    series = trajectory.series
    time = _abscissa(series)
    conserved = bool(np.isfinite(series.get(CONSERVED_ENERGY, np.empty(0))).any())
    rows = [2, 3, 2, 1.5] if conserved else [2, 3, 2]
    figure = Figure(figsize=(8, sum(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, gridspec_kw={"height_ratios": rows})
    hot, delta, worst = panels[:3]
    _temperature(hot, trajectory)
    _force_delta(delta, trajectory)
    _worst_atom(worst, trajectory)
    if conserved:
        _conserved_energy(panels[3], trajectory)
    for leg in trajectory.legs[1:]:
        at = time[min(np.searchsorted(series["step"], leg.after_step), len(time) - 1)]
        for axes in panels:
            axes.axvline(at, color="#777777", linewidth=0.8, linestyle=":")
    for step in trajectory.stops:
        at = time[np.searchsorted(series["step"], step)]
        for axes in panels:
            axes.axvline(at, color=STOP_COLOUR, linewidth=1.2)
        where = f"{at:g} fs" if _timed(series) else f"step {step}"
        delta.annotate(
            f"stopped at {where}", (at, 1), xycoords=("data", "axes fraction"),
            xytext=(-5, -6), textcoords="offset points", ha="right", va="top", color=STOP_COLOUR,
        )  # fmt: skip
    for axes in panels:
        axes.grid(alpha=0.25)
    margin = 0.02 * (time[-1] - time[0]) or 1.0
    hot.set_xlim(time[0] - margin, time[-1] + margin)
    panels[-1].set_xlabel("time (fs)" if _timed(series) else "step")
    figure.suptitle(_title(trajectory), fontsize=10, parse_math=False)
    figure.align_ylabels()
    return figure


def _timed(series: Mapping[str, Any]) -> bool:
    """Whether the times are known."""
    return bool(np.isfinite(series["time"]).all())


def _abscissa(series: Mapping[str, Any]) -> Any:
    """The times (fs), or the steps where they are unknown."""
    return series["time"] if _timed(series) else series["step"]


def _title(trajectory: Trajectory) -> str:
    settings = trajectory.metadata.get("settings", {})
    model = trajectory.metadata.get("model", {}).get("name", "unknown model")
    parts = [trajectory.path.name, str(model)]
    if "ensemble" in settings:
        parts.append(f"{settings['ensemble']}, {settings.get('forces')} forces")
    parts.append(str(trajectory.outcome.get("reason", "")))
    return printable("  ·  ".join(part for part in parts if part), keep="")


def _temperature(axes: Any, trajectory: Trajectory) -> None:
    series = trajectory.series
    line(axes, _abscissa(series), series["temperature"], color="#555555", linewidth=0.8)
    settings = trajectory.metadata.get("settings", {})
    if settings.get("ramp_to") is not None and "ramp_steps" in settings:
        # interpolated, so that it ends where the run does
        marks = np.array(settings["ramp_steps"]) * settings["timestep"]
        time = np.linspace(series["time"][0], series["time"][-1], 200)
        target = np.interp(time, marks, [settings["temperature"], settings["ramp_to"]])
        axes.plot(time, target, color="black", linestyle="--", linewidth=1, label="target")
        axes.legend(loc="upper left", fontsize=8)
    elif len(legs := trajectory.legs) > 1:
        _targets(axes, trajectory, legs)
    axes.set_ylabel("temperature (K)")
    axes.set_ylim(bottom=0)


def _targets(axes: Any, trajectory: Trajectory, legs: list[Leg]) -> None:
    """The target temperature of each leg that has one."""
    steps, abscissa = trajectory.series["step"], _abscissa(trajectory.series)
    label = "target"
    for leg in legs:
        target = leg.settings.get("temperature")
        rows = np.flatnonzero((steps >= leg.after_step) & (steps <= leg.last_step))
        if isinstance(target, int | float) and len(rows):
            ends = abscissa[rows[[0, -1]]]
            axes.plot(
                ends, [target, target], color="black", linestyle="--", linewidth=1, label=label
            )
            label = ""
    if not label:
        axes.legend(loc="upper left", fontsize=8)


def _force_delta(axes: Any, trajectory: Trajectory) -> None:
    series = trajectory.series
    time, u, largest = _abscissa(series), series["force_delta"], series["force_delta_max"]
    if ESTIMATE in series:
        line(
            axes,
            time,
            series[ESTIMATE],
            color=ESTIMATE_COLOUR,
            linewidth=0.6,
            label="estimated $U$",
        )
    line(axes, time, largest, color=ATOM_COLOUR, linewidth=0.8, label="largest $u_i$")
    line(axes, time, u, color=U_COLOUR, linewidth=1.0, label="$U$")
    thresholds = trajectory.thresholds
    watched = largest if thresholds["on"] == "worst_atom" else u
    for kind, colour in (("stop", STOP_COLOUR), ("flag", FLAG_COLOUR)):
        value = thresholds[kind]
        if value is not None:
            axes.axhline(
                value, color=colour, linestyle="--", linewidth=1, label=f"{kind} above {value:.3g}"
            )
    for steps, colour, size, label in (
        (trajectory.flags, FLAG_COLOUR, 14, "flagged"), (trajectory.stops, STOP_COLOUR, 30, None),
    ):  # fmt: skip
        rows = np.searchsorted(series["step"], steps)
        if len(rows):
            axes.scatter(time[rows], watched[rows], s=size, color=colour, zorder=3, label=label)
    shown = np.concatenate([u, largest])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if len(shown) and shown.max() > 20 * np.median(shown):
        axes.set_yscale("log")
        axes.set_ylim(top=5 * axes.get_ylim()[1])  # room for the legend
    else:
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.set_ylabel("Force Delta (eV/Å)")
    axes.legend(loc="upper left", fontsize=8, ncols=3)


def _worst_atom(axes: Any, trajectory: Trajectory) -> None:
    series = trajectory.series
    known = series["worst_atom"] >= 0
    axes.set_ylabel("worst atom")
    if not known.any() or not len(trajectory):
        return
    atoms = series["worst_atom"][known]
    axes.scatter(_abscissa(series)[known], atoms, s=3, color=U_COLOUR, linewidths=0)
    numbers = trajectory.frame(-1).numbers
    seen = np.unique(atoms)
    ticks = np.arange(len(numbers)) if len(numbers) <= 20 else seen
    if len(ticks) <= 20:
        labels = [f"{chemical_symbols[int(numbers[atom])]}{atom}" for atom in ticks]
        axes.set_yticks(ticks, labels, fontsize=6 if len(ticks) > 10 else 8)
        axes.set_ylim(ticks[0] - 0.7, ticks[-1] + 0.7)
    else:
        axes.set_ylabel("worst atom (index)")


def _conserved_energy(axes: Any, trajectory: Trajectory) -> None:
    series = trajectory.series
    energy = series[CONSERVED_ENERGY]
    first = energy[np.isfinite(energy)][0]
    line(axes, series["time"], energy - first, color="#555555", linewidth=0.8)
    axes.set_ylabel("conserved\nenergy (eV)")
    drift = drift_of(trajectory)
    if drift is not None:
        axes.set_title(f"drift {drift}", fontsize=8, loc="left")


def line(axes: Any, time: NDArray[Any], values: NDArray[Any], **style: Any) -> None:
    """Draw the values that are finite, a long series as the range of each block."""
    known = np.isfinite(values)
    time, values = time[known], values[known]
    if len(values) > MOST_POINTS:
        blocks = np.array_split(np.arange(len(values)), MOST_POINTS // 2)
        rows = [[b[values[b].argmin()], b[values[b].argmax()]] for b in blocks]
        keep = np.sort(np.array(rows), axis=1).ravel()
        time, values = time[keep], values[keep]
    axes.plot(time, values, **style)
