"""The latest numbers of a run, while it grows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from forcedelta.monitoring import recorded_monitoring
from md_hooks import Drift, Trajectory, drift_of
from md_hooks.predicted_error import OUTSIDE, PREDICTED, last_predicted, predicted_words


@dataclass(frozen=True)
class Snapshot:
    """The latest numbers of a recorded run; None where a number is unknown.

    Attributes:
        file: the run.
        reason: "running", or how it ended.
        message: why it ended so.
        step: the last one.
        steps: planned in total.
        time: fs; None where unknown.
        temperature: K.
        force_delta: the last U, eV/Å.
        worst_atom: index of its worst atom.
        worst_element: symbol of that atom.
        worst: largest u_i, eV/Å.
        predicted_error: of the direct forces at that step, eV/Å, by the calibration of the run.
        predicted_error_low, predicted_error_high: its interval, eV/Å.
        predicted_error_outside: number of signals outside the calibrated range.
        stop_threshold: eV/Å.
        flag_threshold: eV/Å.
        flagged: number of flagged frames.
        monitoring: what adaptive monitoring did, in words; "" without it.
        drift: of the conserved energy, meV/atom/ps.
        drift_error: its standard error, meV/atom/ps.
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
    predicted_error: float | None = None
    predicted_error_low: float | None = None
    predicted_error_high: float | None = None
    predicted_error_outside: float | None = None
    stop_threshold: float | None = None
    flag_threshold: float | None = None
    flagged: int = 0
    monitoring: str = ""
    drift: float | None = None
    drift_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The numbers, JSON-able."""
        return asdict(self)

    @property
    def predicted(self) -> dict[str, float]:
        """The predicted error as the scalars of a frame; empty without one."""
        values = {name: getattr(self, name) for name in (*PREDICTED, OUTSIDE)}
        return {} if self.predicted_error is None else values

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
            if error := predicted_words(self.predicted):
                parts.append(error)
            parts.append(f"worst {self.worst_element or ''}{self.worst_atom} {self.worst:.3f}")
        for kind, value in (("stop", self.stop_threshold), ("flag", self.flag_threshold)):
            if value is not None:
                parts.append(f"{kind} > {value:.3f}")
        parts.append(f"flagged {self.flagged}")
        if self.monitoring:
            parts.append(self.monitoring)
        if self.drift is not None and self.drift_error is not None:
            parts.append(f"drift {Drift(self.drift, self.drift_error)}")
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
        known |= last_predicted(series)
        if atom >= 0:
            known["worst_element"] = _element(trajectory, int(series["step"][row]), atom)
    drift = drift_of(trajectory)
    if drift is not None:
        known |= {"drift": drift.value, "drift_error": drift.error}
    thresholds = trajectory.thresholds
    return Snapshot(
        **known,
        stop_threshold=thresholds["stop"],
        flag_threshold=thresholds["flag"],
        flagged=len(trajectory.flags),
        monitoring=recorded_monitoring(trajectory),
    )
