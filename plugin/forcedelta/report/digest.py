"""What a report says about a recorded file, read in one pass over its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from md_hooks import Action, Frame, Remark, Trajectory
from md_hooks.predicted_error import predicted_words

MOST_ROWS = 100
"""Rows of the table of flagged frames; those with the largest U are shown."""
MOST_REMARKS = 50


@dataclass
class ElementShare:
    """How an element fares in the stored frames.

    Attributes:
        symbol: of the element.
        atoms: how many a frame has, at most.
        mean_square: mean of u_i^2, (eV/Å)^2.
        largest: largest u_i, eV/Å.
        worst: in so many frames the worst atom is one of these.
    """

    symbol: str
    atoms: int = 0
    mean_square: float = 0.0
    largest: float = 0.0
    worst: int = 0
    _count: int = field(default=0, repr=False)

    def add(self, deltas: NDArray[np.floating], is_worst: bool) -> None:
        """Take in the u_i of the atoms of this element in one frame."""
        total = self.mean_square * self._count + float((deltas.astype(float) ** 2).sum())
        self._count += len(deltas)
        self.mean_square = total / self._count
        self.atoms = max(self.atoms, len(deltas))
        self.largest = max(self.largest, float(deltas.max()))
        self.worst += is_worst


@dataclass(frozen=True)
class Row:
    """A frame in the table of marked frames; U in eV/Å, time in fs, temperature in K.

    ``predicted`` is the predicted error in words, "" without one.
    """

    step: int
    time: float
    source_frame: int | None
    force_delta: float
    largest: float
    atom: str
    temperature: float
    action: str
    predicted: str = ""


class Digest:
    """A recorded file, in the terms of a report.

    Attributes:
        trajectory: the file.
        series: its scalars.
        elements: of the stored frames at which no guard says stop, the largest mean first.
        counted: the number of these frames.
        worst: the stored frame with the largest U that is finite and below the stop threshold.
        stopped: the first stored frame at which the guard said stop and U is finite.
        rows: marked frames for the table, by step.
        remarks: of the file.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory
        self.series = trajectory.series
        self.remarks: list[Remark] = trajectory.remarks()
        self.worst: Frame | None = None
        self.stopped: Frame | None = None
        self.rows: list[Row] = []
        self.counted = 0
        shares: dict[int, ElementShare] = {}
        kept = self._rows_to_show()
        for frame in trajectory.frames():
            self._take(frame, shares, kept)
        self.elements = sorted(shares.values(), key=lambda share: -share.mean_square)

    def _rows_to_show(self) -> set[int]:
        """Steps of the marked frames with the largest U; what is not finite counts as largest."""
        marked = np.flatnonzero(self.series["action"] > 0)
        order = np.argsort(-np.nan_to_num(self.series["force_delta"][marked], nan=np.inf))
        return set(self.series["step"][marked[order[:MOST_ROWS]]].tolist())

    def _take(self, frame: Frame, shares: dict[int, ElementShare], kept: set[int]) -> None:
        place = int(np.searchsorted(self.series["step"], frame.step))
        action = int(self.series["action"][place])
        if frame.step in kept:
            self.rows.append(self._row(frame, place, action))
        u, deltas = frame.force_delta, frame.force_deltas
        if u is None or deltas is None or not np.isfinite(deltas).all():
            return
        if action == Action.STOP:  # unphysical: it would drown everything else
            self.stopped = self.stopped or frame
            return
        self.counted += 1
        if self.worst is None or u > (self.worst.force_delta or 0.0):
            self.worst = frame
        worst = frame.numbers[deltas.argmax()]
        for number in np.unique(frame.numbers):
            share = shares.setdefault(int(number), ElementShare(chemical_symbols[int(number)]))
            share.add(deltas[frame.numbers == number], bool(number == worst))

    def _row(self, frame: Frame, place: int, action: int) -> Row:
        series = self.series
        atom = int(series["worst_atom"][place])
        source = series.get("source_frame")
        return Row(
            step=frame.step,
            time=frame.time,
            source_frame=None if source is None else int(source[place]),
            force_delta=float(series["force_delta"][place]),
            largest=float(series["force_delta_max"][place]),
            atom="" if atom < 0 else f"{chemical_symbols[int(frame.numbers[atom])]}{atom}",
            temperature=float(series["temperature"][place]),
            predicted=predicted_words(frame.extra),
            action="flagged" if action == Action.FLAG else "stop",
        )

    # --- for the page ----------------------------------------------------------------------------

    @property
    def is_audit(self) -> bool:
        """Whether the file is that of an audit, not of a run."""
        return "trajectory" in self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """What the run or audit was asked for."""
        return dict(self.trajectory.metadata.get("settings", {}))

    @property
    def name(self) -> str:
        """The trajectory that was audited, or the file of the run."""
        return str(self.settings.get("trajectory", self.trajectory.path))

    def marked(self, action: Action) -> int:
        """Number of frames with this verdict."""
        return int((self.series["action"] == action).sum())

    @property
    def intact(self) -> NDArray[np.bool_]:
        """Of each frame whether no guard says stop there."""
        return np.asarray(self.series["action"] != Action.STOP)

    @property
    def timed(self) -> bool:
        """Whether the frames have times that grow."""
        time = self.series["time"]
        return len(time) > 1 and bool((np.diff(time) > 0).all())

    @property
    def remark_counts(self) -> dict[str, int]:
        """Number of remarks by kind."""
        counts: dict[str, int] = {}
        for remark in self.remarks:
            counts[remark.kind] = counts.get(remark.kind, 0) + 1
        return counts

    def quantiles(self) -> dict[str, float]:
        """Median, 95th percentile and maximum of the U that are finite, eV/Å."""
        u = self.series["force_delta"]
        u = u[np.isfinite(u)]
        if not len(u):
            return {}
        return {
            "median": float(np.median(u)),
            "95th percentile": float(np.quantile(u, 0.95)),
            "maximum": float(u.max()),
        }


def intervals(marked: NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """First and last row of each unbroken stretch of marked rows."""
    edges = np.diff(np.concatenate([[False], marked, [False]]).astype(int))
    return zip(
        np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True
    )
