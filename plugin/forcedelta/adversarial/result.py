"""The outcome of an attack."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from .path import Path


@dataclass(frozen=True)
class PathResult:
    """One path.

    Attributes:
        path: its number.
        structure: index of the structure that it starts from.
        start: index of the start.
        moves: accepted steps; -1 if already the displaced start was refused.
        first: U at the start, eV/Å; None without one.
        highest: the largest U, eV/Å.
        rise: energy of the last structure above that of the structure as given, eV.
        reason: why the path ended; "" if the attack was interrupted before.
    """

    path: int
    structure: int
    start: int
    moves: int
    first: float | None
    highest: float | None
    rise: float | None
    reason: str

    @staticmethod
    def of(path: Path) -> PathResult:
        """The result of a path as it stands."""
        begun = path.moves >= 0
        first, highest, rise = (
            float(x) if begun else None for x in (path.first, path.highest, path.rise)
        )
        return PathResult(
            path.number, path.structure, path.start, path.moves, first, highest, rise, path.reason
        )  # fmt: skip


@dataclass(frozen=True)
class AttackResult:
    """The outcome of an attack.

    Attributes:
        out: the file of the attack.
        reason: "finished" or "interrupted".
        structures: their names.
        paths: in their order; in an interrupted attack those that have begun.
        frames: number of frames in the file.
        method: how grad U was computed.
        picks: file of the chosen structures; None without.
        picked: their number.
        message: what interrupted the attack.
    """

    out: str
    reason: str
    structures: tuple[str, ...]
    paths: tuple[PathResult, ...]
    frames: int
    method: str
    picks: str | None = None
    picked: int = 0
    message: str = ""

    @property
    def problem(self) -> str:
        """What the user must correct if no path could begin; "" otherwise."""
        if self.frames or self.reason == "interrupted":
            return ""
        why = self.paths[0].reason
        return f"no path could begin ({why}): pass a smaller --displacement or a higher ceiling"

    @property
    def line(self) -> str:
        """A one-line summary."""
        found = [path for path in self.paths if path.highest is not None and path.first is not None]
        state = "interrupted: " if self.reason == "interrupted" else ""
        ends = Counter(path.reason.split(" of ")[0] for path in self.paths if path.reason)
        parts = [f"{state}{len(self.paths)} paths with {self.frames} structures"]
        if found:
            first = sum(path.first or 0.0 for path in found) / len(found)
            highest = max(path.highest or 0.0 for path in found)
            parts.append(f"U {first:.3g} eV/Å at the starts in the mean, {highest:.3g} at most")
        parts += [f"{number} ended: {why}" for why, number in ends.most_common(4)]
        parts.append(f"in {self.out}")
        if self.picks is not None:
            parts.append(f"{self.picked} picks in {self.picks}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The result, JSON-able; eV and eV/Å."""
        return {
            **asdict(self),
            "problem": self.problem,
            "paths": [asdict(path) for path in self.paths],
        }
