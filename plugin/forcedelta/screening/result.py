"""The result of a screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forcedelta.screening.rows import NOT_EVALUATED, Row

_MOST_NAMES = 3


@dataclass(frozen=True)
class ScreenResult:
    """The outcome of a screen.

    Attributes:
        rows: one for each structure, sorted by U, the largest first, those without U last.
        out: the table, CSV; not written if interrupted.
        record: the file from which a restart continues.
        reason: "finished" or "interrupted".
        model: name, hash of the weights, library, level of theory and versions; empty if no structure
            could be read.
        rattle: standard deviation of the displacements, Å; 0: U is that of the structures as given.
        rattles: number of displaced copies.
        seed: of the displacements.
        stop_threshold, flag_threshold: eV/Å; None without.
        left_out: files in folders that are in no format that ASE reads.
    """

    rows: tuple[Row, ...]
    out: str
    record: str
    reason: Literal["finished", "interrupted"]
    model: Mapping[str, Any] = field(default_factory=dict)
    rattle: float = 0.0
    rattles: int = 0
    seed: int = 0
    stop_threshold: float | None = None
    flag_threshold: float | None = None
    left_out: tuple[str, ...] = ()

    @property
    def evaluated(self) -> int:
        """Number of structures with U."""
        return sum(row.force_delta is not None for row in self.rows)

    @property
    def symmetric(self) -> int:
        """Number of structures whose forces vanish by symmetry."""
        return sum(bool(row.symmetric) for row in self.rows)

    @property
    def rattled(self) -> bool:
        """Whether U is that of displaced copies."""
        return self.rattle > 0

    def above(self, threshold: float | None) -> int:
        """Number of structures judged whose U is above a threshold; 0 without one."""
        judged = [row.force_delta for row in self.rows if row.verdict != NOT_EVALUATED]
        return sum(u is not None and threshold is not None and u > threshold for u in judged)

    @property
    def stops(self) -> int:
        """Number of structures above the stop threshold."""
        return self.above(self.stop_threshold)

    @property
    def problem(self) -> str:
        """What the user must correct if no structure could be evaluated."""
        if self.reason == "interrupted" or self.evaluated or not self.rows:
            return ""
        first = self.rows[0]
        return f"none of the {_n(len(self.rows), 'structure')} could be evaluated ({first.file}: {first.reason})"

    @property
    def line(self) -> str:
        """A summary in one line."""
        files = _n(len({row.file for row in self.rows}), "file")
        missing = len(self.rows) - self.evaluated
        parts = [f"{self.evaluated} evaluated" + (f", {missing} not" if missing else "")]
        if self.evaluated:
            top = self.rows[0]
            parts.append(f"largest U {top.force_delta:.4g} eV/Å ({top.file}, frame {top.frame})")
        if self.symmetric:
            parts.append(
                f"forces vanish by symmetry in {self.symmetric}, and U as given with them"
                + ("" if self.rattled else ": displace their atoms with --rattle")
            )
        for threshold in (self.stop_threshold, self.flag_threshold):
            if threshold is not None:
                parts.append(f"{self.above(threshold)} above {threshold:.4g} eV/Å")
        if self.left_out:
            names = ", ".join(self.left_out[:_MOST_NAMES])
            more = ", ..." if len(self.left_out) > _MOST_NAMES else ""
            parts.append(
                f"{_n(len(self.left_out), 'file')} in no format of ASE left out ({names}{more})"
            )
        if self.reason == "interrupted":
            parts.append(f"interrupted: pass --restart to continue {self.record}")
        else:
            parts.append(f"in {self.out}")
        return f"{_n(len(self.rows), 'structure')} in {files}: {'; '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """The result, JSON-able; energies in eV, forces, U and thresholds in eV/Å, lengths in Å."""
        names = ("out", "record", "reason", "evaluated", "symmetric", "stops", "rattle", "rattles",
                 "seed", "stop_threshold", "flag_threshold", "problem")  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "model": dict(self.model),
            "left_out": list(self.left_out),
            "rows": [row.as_dict() for row in self.rows],
        }


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
