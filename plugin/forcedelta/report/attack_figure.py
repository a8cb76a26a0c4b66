"""Picture of an attack: U and energy along its paths."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from md_hooks import Trajectory


def is_attack(trajectory: Trajectory) -> bool:
    """Whether the frames belong to the paths of an attack."""
    return {"path", "move", "structure"} <= trajectory.series.keys()


def attack_figure(trajectory: Trajectory) -> Figure:
    """U and the energy above the start over the steps of each path, and one over the other.

    Paths from the same structure have one colour.
    """
    series = trajectory.series
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[3, 2])
    delta = figure.add_subplot(grid[0, 0])
    energy = figure.add_subplot(grid[1, 0], sharex=delta)
    both = figure.add_subplot(grid[:, 1])
    for path in np.unique(series["path"]):
        rows = np.flatnonzero(series["path"] == path)
        moves, u = series["move"][rows], series["force_delta"][rows]
        rise = series["potential_energy"][rows] - series["potential_energy"][rows[0]]
        rise = 1e3 * rise / series["atoms"][rows]
        style: dict[str, Any] = {
            "color": f"C{int(series['structure'][rows[0]]) % 10}", "linewidth": 0.9, "alpha": 0.8,
        }  # fmt: skip
        delta.plot(moves, u, **style)
        energy.plot(moves, rise, **style)
        both.plot(rise, u, **style)
        both.plot(rise[-1], u[-1], ".", **style)
    for axes in (delta, both):
        axes.set_yscale("log")
        axes.set_ylabel("Force Delta $U$ (eV/Å)")
    energy.set_xlabel("step of the path")
    energy.set_ylabel("energy above the start\n(meV/atom)")
    both.set_xlabel("energy above the start (meV/atom)")
    for axes in (delta, energy, both):
        axes.grid(alpha=0.25)
    delta.label_outer()
    return figure
