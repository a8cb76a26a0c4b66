"""What the pictures of a report show, for readers who cannot see them."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from forcedelta.report.attack_figure import is_attack
from forcedelta.report.digest import Digest
from md_hooks import Action, Frame, Leg, Trajectory

_NAMED = 3


def overview_in_words(digest: Digest) -> str:
    """U over the frames in one line: its range, where it is largest, marks and thresholds."""
    u = digest.series["force_delta"]
    known = np.flatnonzero(np.isfinite(u))
    over = "along the paths of an attack" if is_attack(digest.trajectory) else "over time"
    if not len(known):
        return f"U {over}: none of {len(u)} frames has a finite U"
    largest = int(known[u[known].argmax()])
    parts = [
        f"U {over} in {len(u)} frames: median {np.median(u[known]):.3g} eV/Å, largest {u[largest]:.3g} "
        f"eV/Å at step {digest.series['step'][largest]}"
    ]
    for action, kind, marks in (
        (Action.FLAG, "flag", "flagged"),
        (Action.STOP, "stop", "at which a guard says stop"),
    ):
        threshold = digest.trajectory.thresholds[kind]
        above = "" if threshold is None else f" (above {threshold:.3g} eV/Å)"
        if (number := digest.marked(action)) or above:
            parts.append(f"{number} frames {marks}{above}")
    if digest.not_finite:
        parts.append(digest.not_finite)
    return "; ".join(parts)


def legs_in_words(trajectory: Trajectory) -> list[str]:
    """Each leg of a run in one line; empty for a run of one leg."""
    legs = trajectory.legs
    return [_leg_in_words(leg) for leg in legs] if len(legs) > 1 else []


def _leg_in_words(leg: Leg) -> str:
    parts = [f"leg {leg.number}: steps {leg.after_step + 1} to {leg.last_step}"]
    if "dynamics" in leg.settings:
        parts.append(str(leg.settings["dynamics"]))
    for name, unit in (("temperature", "K"), ("timestep", "fs")):
        value = leg.settings.get(name)
        if isinstance(value, int | float):
            parts.append(f"{value:g} {unit}")
    parts.append(str(leg.outcome.get("reason", "")))
    return ", ".join(part for part in parts if part)


def structure_in_words(frame: Frame) -> str:
    """Formula, step and the worst atoms of a frame in one line."""
    assert frame.force_deltas is not None
    formula = Atoms(frame.numbers).get_chemical_formula()
    worst = ", ".join(
        f"{chemical_symbols[int(frame.numbers[k])]}{k} {frame.force_deltas[k]:.2g}"
        for k in np.argsort(-frame.force_deltas)[:_NAMED]
    )
    return (
        f"{formula} at step {frame.step}, atoms coloured by u_i from pale (0) to dark red; the largest: "
        f"{worst} eV/Å"
    )
