"""The result of an audit, and the counts behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from forcedelta.errors import ForceDeltaError
from md_hooks import Action, Frame, Hook, Remark, Verdict

_SEVERAL = {"other atoms": "changes of the atoms", "gap": "gaps", "not audited": "not audited",
            "not finite": "not finite", "unreadable": "unreadable", "step back": "steps that go back",
            "velocities": "without usable velocities"}  # fmt: skip


_NOT_AUDITED = {"unreadable": "not audited, no frame can be read", "failed": "the audit failed"}


class NoFramesError(ForceDeltaError):
    """A trajectory holds no frame that can be read."""


class NoModelError(ForceDeltaError):
    """The model cannot be used as requested, for any trajectory."""


class AuditCounts(Hook):
    """A hook that counts frames and remarks while an audit runs.

    Attributes:
        counts: of "audited", "flagged" and "stops".
        remarks: number of remarks by kind.
        first_stop, last_step, largest, largest_step: as in `AuditResult`.
        first_reason: why the first omitted frame was left out.
    """

    state_name = "Tally"  # in the checkpoints of all versions

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()
        self.first_stop: int | None = None
        self.last_step = -1
        self.largest: float | None = None
        self.largest_step: int | None = None
        self.first_reason = ""

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Count a frame."""
        self.counts["audited"] += 1
        self.last_step = frame.step
        if verdict.action == Action.FLAG:
            self.counts["flagged"] += 1
        elif verdict.action == Action.STOP:
            self.counts["stops"] += 1
            if self.first_stop is None:
                self.first_stop = frame.step
        u = frame.force_delta
        if u is not None and np.isfinite(u) and (self.largest is None or u > self.largest):
            self.largest, self.largest_step = float(u), frame.step

    def remark(self, remark: Remark) -> None:
        """Count a remark."""
        self.remarks[remark.kind] += 1
        if not self.first_reason and remark.kind in ("not audited", "unreadable", "end"):
            self.first_reason = remark.text

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, for a restart."""
        return {name: dict(v) if isinstance(v, Counter) else v for name, v in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        for name, value in state.items():
            setattr(self, name, Counter(value) if isinstance(value, dict) else value)


@dataclass(frozen=True)
class AuditResult:
    """The outcome of the audit of one trajectory.

    Attributes:
        trajectory: the audited file.
        out: the file of the audit.
        reason: "finished", "stopped" (with ``end_at_stop``), "interrupted"; of one of several
            trajectories "unreadable" if it holds no frame, or "failed".
        frames: number of frames in the trajectory when it was opened.
        audited: frames in the audit's file, including those before a restart.
        flagged: frames between the thresholds.
        stops: frames at which the guard would stop: above the threshold, not finite, or the one at
            which it refused the burn-in.
        first_stop: step of the first of them.
        largest: the largest U, eV/Å; None if there is none.
        largest_step: its step.
        last_step: the last audited step; -1 if there is none.
        stop_threshold, flag_threshold: in force at the end, eV/Å.
        remarks: number of remarks by kind (`md_hooks.Remark`).
        ending: why the trajectory could not be read to its end.
        message: the guard's reason if it ended the audit, or what interrupted it.
        problem: what the user must correct: nothing could be audited, no threshold was chosen, or
            the error of one of several trajectories.
        refused: why "auto" chose no threshold from the burn-in.
        stop_error, flag_error: thresholds on the predicted error, eV/Å.
        predicted_error: see `md_hooks.predicted_error.predicted_summary`; None without a
            calibration.
    """

    trajectory: str
    out: str
    reason: str
    frames: int
    audited: int = 0
    flagged: int = 0
    stops: int = 0
    first_stop: int | None = None
    largest: float | None = None
    largest_step: int | None = None
    last_step: int = -1
    stop_threshold: float | None = None
    flag_threshold: float | None = None
    remarks: Mapping[str, int] = field(default_factory=dict)
    ending: str = ""
    message: str = ""
    problem: str = ""
    refused: str = ""
    stop_error: float | None = None
    flag_error: float | None = None
    predicted_error: dict[str, float] | None = None

    @property
    def symmetric(self) -> int:
        """Number of frames whose forces vanish by symmetry, and U with them."""
        return self.remarks.get("symmetric", 0)

    @property
    def failed(self) -> bool:
        """Whether there is no audit, but an error in ``problem``."""
        return self.reason in _NOT_AUDITED

    @property
    def line(self) -> str:
        """A one-line summary."""
        if self.failed:
            return f"{self.trajectory}: {_NOT_AUDITED[self.reason]}"
        parts = [f"{self.audited} frames audited"]
        if self.largest is not None:
            parts.append(f"largest U {self.largest:.4g} eV/Å at step {self.largest_step}")
        if self.predicted_error:
            found = self.predicted_error
            parts.append(
                f"predicted error {found['median']:.2g} eV/Å in the median and {found['maximum']:.2g} at "
                f"most, extrapolated in {found['outside']:.0f}"
            )
        if above := _above(self.flag_threshold, self.flag_error):
            parts.append(f"{self.flagged} flagged ({above})")
        if self.refused:
            parts.append(
                f"in the burn-in {self.refused}: 'auto' chose no threshold (step "
                f"{self.first_stop} is marked)"
            )
        elif self.stops:
            above = _above(self.stop_threshold, self.stop_error, "not finite")
            parts.append(f"{self.stops} {above}, the first at step {self.first_stop}")
        parts += [
            f"{n} {_SEVERAL[kind]}"
            for kind, n in self.remarks.items()
            if kind in _SEVERAL and (kind != "not finite" or self.stop_threshold is not None)
        ]
        if self.symmetric:
            parts.append(
                f"U is 0 by symmetry in {self.symmetric}, for any model ('forcedelta screen' displaces "
                "the atoms)"
            )
        if self.ending:
            parts.append(self.ending)
        state = {"interrupted": "interrupted: ", "stopped": "ended at the stop threshold: "}
        return f"{self.trajectory}: {state.get(self.reason, '')}{', '.join(parts)}; in {self.out}"

    def as_dict(self) -> dict[str, Any]:
        """The result, JSON-able; U and thresholds in eV/Å."""
        return {**asdict(self), "remarks": dict(self.remarks)}


def _above(u: float | None, error: float | None, *others: str) -> str:
    """What frames above thresholds on U and on the predicted error are, eV/Å; "" without any."""
    parts = [] if u is None else [f"above {u:.4g} eV/Å"]
    if error is not None:
        parts.append(f"with a predicted error above {error:.4g} eV/Å")
    return " or ".join([*parts, *others])
