"""The latest numbers of a run, while it grows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from md_hooks import Trajectory


@dataclass(frozen=True)
class Snapshot:
    """The latest numbers of a recorded run; None where a number is unknown.

    Attributes:
        file: the run.
        reason: "running", or how it ended.
        message: why it ended so.
        step: the last one.
        steps: planned in total.
        time: fs; None for an audit of frames without times.
        temperature: K.
        force_delta: the last U, eV/Å.
        worst_atom: index of its worst atom.
        worst_element: symbol of that atom.
        worst: largest u_i, eV/Å.
        stop_threshold: eV/Å.
        flag_threshold: eV/Å.
        flagged: number of flagged frames.
    """

    file: str
    reason: str
    message: str
    step: int | None = None
    steps: int | None = None
    time: float | None = None
    temperature: float | None = None
    force_delta: float | None = None
    worst_atom: int | None = None
    worst_element: str | None = None
    worst: float | None = None
    stop_threshold: float | None = None
    flag_threshold: float | None = None
    flagged: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The numbers, JSON-able."""
        return asdict(self)

    @property
    def state(self) -> str:
        """The file and whether its run goes on, one line."""
        state = f"{self.reason} ({self.message})" if self.message else self.reason
        return f"{self.file}: {state}" + (", no steps yet" if self.step is None else "")

    @property
    def numbers(self) -> str:
        """The numbers, one line; empty before the first step."""
        if self.step is None:
            return ""
        total = "" if self.steps is None else f"/{self.steps}"
        parts = [f"step {self.step}{total}"]
        if self.time is not None:
            parts.append(f"{self.time:.1f} fs")
        if self.temperature is not None:
            parts.append(f"T {self.temperature:.0f} K")
        if self.force_delta is not None:
            parts.append(f"U {self.force_delta:.3f} eV/Å")
            parts.append(f"worst {self.worst_element or ''}{self.worst_atom} {self.worst:.3f}")
        for kind, value in (("stop", self.stop_threshold), ("flag", self.flag_threshold)):
            if value is not None:
                parts.append(f"{kind} > {value:.3f}")
        parts.append(f"flagged {self.flagged}")
        return "  ".join(parts)


def has_times(trajectory: Trajectory) -> bool:
    """Whether the steps have times. Frames of an audit may have none, or one and the same."""
    time = trajectory.series["time"]
    audited = "trajectory" in trajectory.metadata.get("settings", {})
    return bool(np.isfinite(time).all() and (not audited or np.ptp(time) > 0))


def _element(trajectory: Trajectory, step: int, atom: int) -> str | None:
    """Element of an atom at a step; None where that is not known, as the frame is not stored."""
    at = np.flatnonzero(trajectory.frame_steps == step)
    atoms = trajectory.series.get("atoms")
    if not len(at) and (not len(trajectory) or (atoms is not None and np.ptp(atoms) > 0)):
        return None
    numbers = trajectory.frame(int(at[0]) if len(at) else 0).numbers
    return str(chemical_symbols[int(numbers[atom])])


def snapshot(trajectory: Trajectory) -> Snapshot:
    """The latest numbers of a run.

    Args:
        trajectory: just opened or refreshed.
    """
    series, outcome = trajectory.series, trajectory.outcome
    known: dict[str, Any] = {
        "file": str(trajectory.path),
        "reason": str(outcome.get("reason", "unknown")),
        "message": str(outcome.get("message") or ""),
    }
    if not len(series.get("step", ())):
        return Snapshot(**known)
    steps = trajectory.metadata.get("settings", {}).get("steps")
    known |= {"step": int(series["step"][-1]), "steps": steps}
    if has_times(trajectory):
        known["time"] = float(series["time"][-1])
    if np.isfinite(series["temperature"][-1]):  # an audited trajectory may have no velocities
        known["temperature"] = float(series["temperature"][-1])
    rows = np.flatnonzero(np.isfinite(series["force_delta"]))
    if len(rows):
        row = rows[-1]
        atom = int(series["worst_atom"][row])
        known |= {
            "force_delta": float(series["force_delta"][row]),
            "worst_atom": atom,
            "worst": float(series["force_delta_max"][row]),
        }
        if atom >= 0:
            known["worst_element"] = _element(trajectory, int(series["step"][row]), atom)
    thresholds = trajectory.thresholds
    return Snapshot(
        **known,
        stop_threshold=thresholds["stop"],
        flag_threshold=thresholds["flag"],
        flagged=len(trajectory.flags),
    )
