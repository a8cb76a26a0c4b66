"""The pictures of a report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.visualize.plot import Matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from forcedelta.report.digest import Digest, Row, intervals
from forcedelta.report.run_figure import ATOM_COLOUR, FLAG_COLOUR, STOP_COLOUR, U_COLOUR, line
from forcedelta.report.structure_view import COLOURS, atoms_shown
from md_hooks import Action, Frame
from md_hooks.drift import CONSERVED_ENERGY

DPI = 160
_LABELLED = 5  # the worst atoms by name
_LONG = 2e4  # fs; from there on ps
_LONGEST_BOND = 3.5  # Å; those to a periodic image would cross the picture
_LOG_ABOVE = 20.0  # times the median
_WRECKED = 100.0  # times the largest U below the stop threshold; more is above the picture


def overview(digest: Digest) -> Figure:
    """U over time with its distribution beside it, then energy and, where known, temperature."""
    series = digest.series
    hot = bool(np.isfinite(series["temperature"]).any())
    rows = [3.2, 1.5, 1.5] if hot else [3.2, 1.5]
    figure = Figure(figsize=(8.6, 2.0 + 1.05 * sum(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2, height_ratios=rows, width_ratios=[5, 1])
    delta = figure.add_subplot(grid[0, 0])
    spread = figure.add_subplot(grid[0, 1], sharey=delta)
    x, label = _abscissa(digest)
    _force_delta(delta, digest, x)
    _distribution(spread, series["force_delta"], delta.get_yscale() == "log", digest)
    energy = figure.add_subplot(grid[1, 0], sharex=delta)
    _energy(energy, digest, x)
    if CONSERVED_ENERGY in series:
        _conserved_energy(energy, digest, x)
    last = energy
    if hot:
        last = figure.add_subplot(grid[2, 0], sharex=delta)
        line(last, x, series["temperature"], color="#555555", linewidth=0.8)
        last.set_ylabel("temperature (K)")
        _leave_out_unphysical(last, digest, series["temperature"])
        last.set_ylim(bottom=0)
    for axes in {delta, energy, last}:
        _shade(axes, digest, x)
        axes.grid(alpha=0.25)
        axes.label_outer()
    margin = 0.01 * (x[-1] - x[0]) or 1.0
    delta.set_xlim(x[0] - margin, x[-1] + margin)
    last.set_xlabel(label)
    figure.align_ylabels([delta, energy, last])
    return figure


def _energy(axes: Any, digest: Digest, x: NDArray[np.float64]) -> None:
    values, unit = digest.series["potential_energy"], "eV"
    atoms = digest.series.get("atoms")
    if atoms is not None and (atoms != atoms[0]).any():
        values, unit = values / atoms, "eV/atom"
    known = values[np.isfinite(values)]
    offset = float(np.median(known)) if len(known) else 0.0
    line(axes, x, values - offset, color="#555555", linewidth=0.8)
    _leave_out_unphysical(axes, digest, values - offset)
    axes.set_ylabel(f"energy ({unit})")
    axes.set_title(f"predicted energy, relative to {offset:.6g} {unit}", fontsize=8, loc="left")


def _conserved_energy(axes: Any, digest: Digest, x: NDArray[np.float64]) -> None:
    """Draw the conserved energy relative to its first value, on the axes of the predicted energy."""
    values = digest.series[CONSERVED_ENERGY]
    known = values[np.isfinite(values)]
    if not len(known):
        return
    limits = axes.get_ylim()
    line(
        axes,
        x,
        values - known[0],
        color=FLAG_COLOUR,
        linewidth=1.0,
        label="conserved, from its start",
    )
    calm = (values - known[0])[np.isfinite(values) & digest.intact]
    if len(calm):
        axes.set_ylim(min(limits[0], calm.min()), max(limits[1], calm.max()))
    axes.legend(loc="upper left", fontsize=7)


def _leave_out_unphysical(axes: Any, digest: Digest, values: NDArray[np.float64]) -> None:
    """Scale an axis for the frames before an explosion, where there was one."""
    known = np.isfinite(values)
    calm = values[known & digest.intact]
    if not len(calm) or len(calm) == known.sum():
        return
    low, high = calm.min(), calm.max()
    margin = 0.15 * (high - low) or 1.0
    axes.set_ylim(max(axes.get_ylim()[0], low - margin), min(axes.get_ylim()[1], high + margin))


def _abscissa(digest: Digest) -> tuple[NDArray[np.float64], str]:
    time = digest.series["time"]
    if not digest.timed:
        return digest.series["step"].astype(float), "step (the trajectory has no times)"
    if time[-1] - time[0] > _LONG:
        return time / 1000.0, "time (ps)"
    return time, "time (fs)"


def _force_delta(axes: Any, digest: Digest, x: NDArray[np.float64]) -> None:
    series, thresholds = digest.series, digest.trajectory.thresholds
    u, largest = series["force_delta"], series["force_delta_max"]
    line(axes, x, largest, color=ATOM_COLOUR, linewidth=0.8, label="largest $u_i$")
    line(axes, x, u, color=U_COLOUR, linewidth=1.0, label="$U$")
    watched = largest if thresholds["on"] == "worst_atom" else u
    for action, colour, size, label in (
        (Action.FLAG, FLAG_COLOUR, 14, "flagged"), (Action.STOP, STOP_COLOUR, 18, "stop"),
    ):  # fmt: skip
        rows = np.flatnonzero((series["action"] == action) & np.isfinite(watched))
        if len(rows):
            axes.scatter(x[rows], watched[rows], s=size, color=colour, zorder=3, label=label)
    shown = np.concatenate([u, largest])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if len(shown) and shown.max() > _LOG_ABOVE * np.median(shown):
        axes.set_yscale("log")
        calm = largest[digest.intact & np.isfinite(largest)]
        if len(calm) and 0 < _WRECKED * calm.max() < shown.max():
            axes.set_ylim(top=_WRECKED * calm.max())
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    _thresholds(axes, digest, labelled=True)
    axes.set_ylabel("Force Delta (eV/Å)")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8, ncols=6, frameon=False,
        borderaxespad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


def _thresholds(axes: Any, digest: Digest, labelled: bool) -> None:
    for kind, colour in (("stop", STOP_COLOUR), ("flag", FLAG_COLOUR)):
        value = digest.trajectory.thresholds[kind]
        if value is not None and value < 3 * axes.get_ylim()[1]:
            label = f"{kind} above {value:.3g}" if labelled else None
            axes.axhline(value, color=colour, linestyle="--", linewidth=1, label=label)


def _shade(axes: Any, digest: Digest, x: NDArray[np.float64]) -> None:
    """Stretches of flagged and stop frames, at least as wide as can be seen."""
    half = 0.5 * float(np.median(np.diff(x))) if len(x) > 1 else 0.5
    for action, colour in ((Action.FLAG, FLAG_COLOUR), (Action.STOP, STOP_COLOUR)):
        for first, last in intervals(digest.series["action"] == action):
            axes.axvspan(x[first] - half, x[last] + half, color=colour, alpha=0.15, linewidth=0)


def _distribution(axes: Any, u: NDArray[np.float64], logarithmic: bool, digest: Digest) -> None:
    u = u[np.isfinite(u) & (u > 0) & (u < axes.get_ylim()[1])]
    if len(u):
        low, high = u.min(), u.max()
        bins: Any = int(np.clip(2 * np.sqrt(len(u)), 8, 40))
        if logarithmic and high > low:
            bins = np.geomspace(low, high, bins + 1)
        axes.hist(u, bins=bins, orientation="horizontal", color=U_COLOUR, alpha=0.7)
    _thresholds(axes, digest, labelled=False)
    axes.tick_params(labelleft=False)
    # inside, so that the panels below need not make room for it
    axes.tick_params(axis="x", direction="in", pad=-14, labelsize=7)
    axes.set_title("frames at this $U$", fontsize=8)
    axes.grid(alpha=0.25)


def structure(frame: Frame) -> Figure:
    """The atoms of a frame, coloured by u_i, the worst of them by name."""
    assert frame.force_deltas is not None
    chosen = atoms_shown(frame)
    deltas = frame.force_deltas[chosen].astype(float)
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)[chosen]
    periodic = bool(frame.pbc.any())
    colours = ScalarMappable(Normalize(0.0, float(deltas.max()) or 1.0), COLOURS)
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.subplots()
    drawing = Matplotlib(
        atoms, axes, colors=colours.to_rgba(deltas)[:, :3], radii=0.5,
        rotation="-80x,12y,0z" if periodic else _broadside(atoms.positions),
        show_unit_cell=2 if periodic and len(chosen) == len(frame.numbers) else 0,
    )  # fmt: skip
    drawing.write()
    at = drawing.positions[: len(atoms), :2]
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))
    lengths = np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1)
    for i, j in zip(first[lengths < _LONGEST_BOND], second[lengths < _LONGEST_BOND], strict=True):
        axes.plot(*at[[i, j]].T, color="#8a8a8a", linewidth=2, zorder=0, solid_capstyle="round")
    for k in np.argsort(-deltas)[:_LABELLED]:
        name = f"{atoms.symbols[k]}{chosen[k]} {deltas[k]:.2g}"
        axes.annotate(
            name, at[k], xytext=(10, 10), textcoords="offset points", fontsize=8, zorder=1000,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 0},
            arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )  # fmt: skip
    axes.margins(0.05)
    axes.set_axis_off()
    figure.colorbar(colours, ax=axes, label="$u_i$ (eV/Å)", shrink=0.8)
    return figure


def _broadside(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation that shows a molecule from where it is widest."""
    _, _, axes = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=True)
    if np.linalg.det(axes) < 0:
        axes[2] *= -1
    return np.ascontiguousarray(axes.T)


def points(figure: Figure, digest: Digest) -> list[tuple[Row, float, float]]:
    """The frames of the table that are on the picture of `overview`, once it is drawn.

    Returns:
        each with the distances of its point from the left and the upper edge, as shares of the picture.
    """
    axes = figure.axes[0]
    x, _ = _abscissa(digest)
    on_worst = digest.trajectory.thresholds["on"] == "worst_atom"
    found = []
    for row in digest.rows:
        value = row.largest if on_worst else row.force_delta
        low, high = sorted(axes.get_ylim())
        if np.isfinite(value):
            at = axes.transData.transform((x[row.place], float(np.clip(value, low, high))))
            left, bottom = at / figure.bbox.size
            found.append((row, float(left), float(1.0 - bottom)))
    return found


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    return buffer.getvalue()
