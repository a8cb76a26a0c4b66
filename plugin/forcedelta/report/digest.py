"""What a report says about a recorded file, read in one pass over its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcedelta.report.structure_view import MOST_VIEWED, StructureView, view_of, within
from md_hooks import Action, Frame, Remark, Trajectory
from md_hooks.predicted_error import OUTSIDE, PREDICTED, predicted_words

_PREDICTION = (*PREDICTED, OUTSIDE)

MOST_ROWS = 100
"""Rows of the table of flagged frames; those with the largest U are shown."""
MOST_REMARKS = 50
LARGEST = 10
"""Rows of the table where no frame is marked."""
LAST_FINITE = 3
"""So many frames before the first one that is not finite are in the table."""
_MOST_STRETCHES = 5


@dataclass
class ElementShare:
    """How an element fares.

    Attributes:
        symbol: of the element.
        atoms: how many a frame has, at most.
        mean_square: mean of u_i^2 in the stored frames, (eV/Å)^2.
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

    def take_worst(self, largest: NDArray[np.floating]) -> None:
        """Count all steps at which the worst atom is of this element, with its u_i in eV/Å."""
        self.worst = len(largest)
        self.largest = max(self.largest, float(largest.max(initial=0.0)))


@dataclass(frozen=True)
class Row:
    """A frame in the table; U in eV/Å, time in fs, temperature in K.

    Attributes:
        place: of the frame in the series.
        atom: the worst one, with its element where that is known.
        action: "flagged", "stop", or empty.
        predicted: the predicted error in words, empty without one.
        atom_predicted: that of the worst atom, as far as the frame is stored.
    """

    place: int
    step: int
    time: float
    source_frame: int | None
    force_delta: float
    largest: float
    atom: str
    temperature: float
    action: str
    predicted: str = ""
    atom_predicted: str = ""


class Digest:
    """A recorded file, in the terms of a report.

    Attributes:
        trajectory: the file.
        series: its scalars.
        elements: of the frames at which no guard says stop, the largest mean first.
        counted: the number of stored frames among these.
        all_steps: the number of steps behind ``largest`` and ``worst`` of the elements: all with U, as
            far as the atoms are the same throughout; otherwise those of the stored frames.
        worst: the stored frame with the largest U that is finite and below the stop threshold.
        stopped: the first stored frame at which the guard said stop and U is finite.
        last_finite: the last stored frame before the first one that is not finite.
        rows: frames for the table, by step: the marked ones or those with the largest U, and the last
            ones before U is not finite. What is not finite is in no row.
        views: what a browser shows in three dimensions of these and of the three frames above, as far as
            they are stored.
        remarks: of the file.
    """

    def __init__(self, trajectory: Trajectory, most_viewed: int = MOST_VIEWED) -> None:
        self.trajectory = trajectory
        self.series = trajectory.series
        self.remarks: list[Remark] = trajectory.remarks()
        self.worst: Frame | None = None
        self.stopped: Frame | None = None
        self.last_finite: Frame | None = None
        self.views: list[StructureView] = []
        self.counted = self.all_steps = 0
        self._numbers: NDArray[np.integer] | None = None
        self._uniform = True
        self._atom_predicted: dict[int, str] = {}
        shares: dict[int, ElementShare] = {}
        symbols: dict[int, str] = {}
        places = self._places_to_show()
        for frame in trajectory.frames():
            self._take(frame, shares, symbols, set(places))
        self.rows = [self._row(place, symbols) for place in sorted(places)]
        self._count_all_steps(shares)
        self.elements = sorted(shares.values(), key=lambda share: -share.mean_square)
        self._choose_views(places, most_viewed)

    def _places_to_show(self) -> list[int]:
        """Places of the frames of the table in the series, the most important ones first."""
        u, finite = self.series["force_delta"], np.isfinite(self.series["force_delta"])
        marked = np.flatnonzero((self.series["action"] > 0) & finite)
        shown, most = (marked, MOST_ROWS) if len(marked) else (np.flatnonzero(finite), LARGEST)
        places = shown[np.argsort(-u[shown], kind="stable")[:most]].tolist()
        if self.broken.any():
            before = np.flatnonzero(finite[: int(self.broken.argmax())])
            places += before[-LAST_FINITE:].tolist()
        return list(dict.fromkeys(places))

    def _choose_views(self, places: list[int], most: int) -> None:
        """Keep what a page has room for: the frames of the pictures, then those of the table in their order."""
        pictured = [
            frame
            for frame in (self.worst, self.stopped, self.last_finite)
            if frame is not None and np.isfinite(frame.positions).all()
        ]
        views = {view.step: view for view in self.views}
        order = [frame.step for frame in pictured] + self.series["step"][places].tolist()
        views |= {frame.step: view_of(frame) for frame in pictured if frame.step not in views}
        self.views = within((views[step] for step in dict.fromkeys(order) if step in views), most)

    def _take(
        self,
        frame: Frame,
        shares: dict[int, ElementShare],
        symbols: dict[int, str],
        shown: set[int],
    ) -> None:
        if self._numbers is None:
            self._numbers = frame.numbers
        self._uniform = self._uniform and np.array_equal(frame.numbers, self._numbers)
        place = int(np.searchsorted(self.series["step"], frame.step))
        action = int(self.series["action"][place])
        u, deltas = frame.force_delta, frame.force_deltas
        if u is None or deltas is None or not np.isfinite(deltas).all():
            return
        if place in shown:
            worst_atom = int(deltas.argmax())
            symbols[place] = chemical_symbols[int(frame.numbers[worst_atom])]
            self._atom_predicted[place] = frame.predicted_error_of(worst_atom)
            self.views.append(view_of(frame))
        if self.broken.any() and place < int(self.broken.argmax()):
            self.last_finite = frame
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

    def _count_all_steps(self, shares: dict[int, ElementShare]) -> None:
        """Replace counts of stored frames by those of all steps, where the atoms are known."""
        self.all_steps = self.counted
        if not self._same_atoms or self._numbers is None:
            return
        worst, largest = self.series["worst_atom"], self.series["force_delta_max"]
        known = self.intact & (worst >= 0) & np.isfinite(largest)
        self.all_steps = int(known.sum())
        of_element = self._numbers[np.where(known, worst, 0)]
        for number, share in shares.items():
            share.take_worst(largest[known & (of_element == number)])

    @property
    def _same_atoms(self) -> bool:
        atoms = self.series.get("atoms")
        return self._uniform and (atoms is None or len(np.unique(atoms)) == 1)

    def _row(self, place: int, symbols: dict[int, str]) -> Row:
        series = self.series
        atom = int(series["worst_atom"][place])
        source = series.get("source_frame")
        symbol = symbols.get(place, "")
        if not symbol and atom >= 0 and self._same_atoms and self._numbers is not None:
            symbol = chemical_symbols[int(self._numbers[atom])]
        return Row(
            place=place,
            step=int(series["step"][place]),
            time=float(series["time"][place]),
            source_frame=None if source is None else int(source[place]),
            force_delta=float(series["force_delta"][place]),
            largest=float(series["force_delta_max"][place]),
            atom="" if atom < 0 else f"{symbol}{atom}",
            temperature=float(series["temperature"][place]),
            predicted=predicted_words(
                {name: float(series[name][place]) for name in _PREDICTION if name in series}
            ),
            atom_predicted=self._atom_predicted.get(place, ""),
            action={Action.FLAG: "flagged", Action.STOP: "stop"}.get(
                Action(int(series["action"][place])), ""
            ),
        )

    @cached_property
    def broken(self) -> NDArray[np.bool_]:
        """Of each frame whether its energy, forces or U are not finite; what was not due is not meant."""
        stopped = self.series["action"] == Action.STOP
        without_u = ~np.isfinite(self.series["force_delta"])
        without_energy = ~np.isfinite(self.series["potential_energy"])
        if self.trajectory.metadata.get("model", {}).get("separate_energy"):
            without_energy &= ~(without_u & np.isfinite(self.series["temperature"]))
        return np.asarray((stopped & without_u) | without_energy)

    @property
    def not_finite(self) -> str:
        """One line on the steps that are not finite; empty if all are."""
        found = list(intervals(self.broken))
        steps = self.series["step"]
        parts = [
            f"{steps[first]}" if first == last else f"{steps[first]} to {steps[last]}"
            for first, last in found[:_MOST_STRETCHES]
        ]
        if len(found) > _MOST_STRETCHES:
            parts.append(f"{len(found) - _MOST_STRETCHES} further stretches")
        if not parts:
            return ""
        number = int(self.broken.sum())
        return (
            f"step {parts[0]} is not finite"
            if number == 1
            else f"steps {', '.join(parts)} are not finite ({number} frames)"
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
    def marked_finite(self) -> int:
        """Number of marked frames with a finite U."""
        return int(((self.series["action"] > 0) & np.isfinite(self.series["force_delta"])).sum())

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
