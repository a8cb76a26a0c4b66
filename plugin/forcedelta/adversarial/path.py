"""One path of an attack: eq. 3 with steps that are taken back where they leave the limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from ..force_delta_gradient import ForceDeltaGradient
from .coordinates import Coordinates, FloatArray
from .plausibility import Plausibility
from .settings import AttackSettings

HALVINGS = 6
"""A step is halved up to this often before the path ends."""

_SHARE = 0.9
"""A step may use this share of the energy that is left below the ceiling."""

_ADAM = (0.9, 0.999, 1e-12)
"""Decay of the two averages, and the smallest size of a gradient; Kingma and Ba, ICLR 2015."""


class Path:
    """The structures that an attack visits from one start.

    Each step of eq. 3, ``r + alpha grad U - beta grad E``, or the step of Adam along that gradient,
    is tried. Where it would cross the energy ceiling, by grad E and the curvature seen so far, its
    component along grad E is reduced, so that the path slides along the ceiling. A trial that
    crosses it nevertheless is repeated once with the curvature now known; then, and where atoms
    come too close or fragments apart, the step is halved.

    Args:
        number: of the path in the attack.
        structure: index of the structure.
        start: index of the start from that structure.
        atoms: the displaced structure.
        energy: of the structure as given, eV.
        space: what is moved.
        limits: geometric limits.
        settings: of the attack.

    Attributes:
        moves: accepted steps; -1 before the start is accepted.
        reason: why the path ended; "" while it goes on.
        first, highest: U at the start, and the largest, eV/Å.
        rise: energy of the last structure above that of the structure as given, eV.
    """

    def __init__(
        self,
        number: int,
        structure: int,
        start: int,
        atoms: Atoms,
        energy: float,
        space: Coordinates,
        limits: Plausibility,
        settings: AttackSettings,
    ) -> None:
        self.number, self.structure, self.start = number, structure, start
        self.atoms = atoms
        self.moves = -1
        self.reason = limits.why_not(atoms)
        if self.reason:
            self.reason += " at the displaced start"
        self.first = self.highest = self.rise = float("nan")
        self.energy = energy
        self._space, self._limits, self._settings = space, limits, settings
        self._ceiling = energy + settings.rise(atoms)
        self._first_moment = self._second_moment = np.zeros(space.size)
        self._uphill = self._energy_slope = self._step = np.zeros(space.size)
        self._halvings, self._slid = 0, False
        self._here, self._curvature = energy, 0.0

    @property
    def strain(self) -> bool:
        """Whether the derivatives by strain are needed."""
        return self._space.strain

    def trial(self) -> Atoms | None:
        """The next structure to evaluate; None if the path has ended."""
        if self.reason:
            return None
        if self.moves < 0:
            return self.atoms
        if not np.any(self._step):
            self.reason = "U has no slope here"
            return None
        while True:
            atoms = self._space.moved(self.atoms, self._step)
            why = self._limits.why_not(atoms)
            if not why:
                return atoms
            if not self._halve(why):
                return None

    def judge(self, trial: Atoms, found: ForceDeltaGradient | str) -> bool:
        """Take the evaluated trial, or shorten the step; True if it was taken."""
        why = found if isinstance(found, str) else self._objection(found)
        if isinstance(found, ForceDeltaGradient) and self.moves >= 0:
            self._see_curvature(found.evaluation.energy)
        if isinstance(found, str) or why:
            if self.moves < 0:
                self.reason = f"{why} at the displaced start"
            elif not isinstance(found, str) and self._above(found) and not self._slid:
                self._slid = True
                self._stay_below()
            else:
                self._halve(why)
            return False
        self.atoms = trial
        self.moves += 1
        evaluation = found.evaluation
        if self.moves == 0:
            self.first = self.highest = evaluation.force_delta
        self.highest = max(self.highest, evaluation.force_delta)
        self._here = evaluation.energy
        self.rise = evaluation.energy - self.energy
        self._uphill, self._energy_slope = self._space.slopes(found, trial)
        self._step = self._next_step()
        self._stay_below()
        self._halvings, self._slid = 0, False
        if self.moves == self._settings.steps:
            self.reason = "all steps made"
        return True

    def _objection(self, found: ForceDeltaGradient) -> str:
        evaluation = found.evaluation
        numbers = (evaluation.energy, evaluation.force_delta, found.gradient.sum())
        if not np.isfinite(numbers).all():
            return "energy, U or its gradient is not finite"
        if self._above(found):
            rise = self._ceiling - self.energy
            return f"energy ceiling of {rise:.3g} eV above the structure as given"
        return ""

    def _above(self, found: ForceDeltaGradient) -> bool:
        return found.evaluation.energy > self._ceiling

    def _next_step(self) -> FloatArray:
        """The step from here, Å: eq. 3 or Adam, no longer than the cap for any atom."""
        s = self._settings
        step: FloatArray = s.alpha * self._uphill - s.beta * self._energy_slope
        if s.optimizer == "adam":
            one, two, least = _ADAM
            n = self.moves + 1
            self._first_moment = one * self._first_moment + (1 - one) * step
            self._second_moment = two * self._second_moment + (1 - two) * step * step
            size = np.sqrt(self._second_moment / (1 - two**n))
            step = s.rate * (self._first_moment / (1 - one**n)) / (size + least)
        largest = self._space.largest(self.atoms, step)
        return step * min(1.0, s.cap / largest) if largest > 0 else step

    def _see_curvature(self, energy: float) -> None:
        """Curvature of the energy along the step that was tried, per square of its length, eV/Å^2."""
        square = float(self._step @ self._step)
        if np.isfinite(energy) and square > 0:
            bend = energy - self._here - float(self._step @ self._energy_slope)
            self._curvature = max(0.0, bend / square)

    def _stay_below(self) -> None:
        """Reduce the component of the step along grad E where it would cross the ceiling."""
        slope = self._energy_slope
        square = float(slope @ slope)
        along = float(self._step @ slope)
        bend = self._curvature * float(self._step @ self._step)
        room = _SHARE * (self._ceiling - self._here)
        if along + bend <= room or square == 0:
            return
        step = self._step - (along + bend - room) / square * slope
        largest = self._space.largest(self.atoms, step)
        self._step = step * min(1.0, self._settings.cap / largest) if largest > 0 else step

    def _halve(self, why: str) -> bool:
        """A shorter step; the path ends if it has been halved too often."""
        if self._halvings == HALVINGS:
            self.reason = why
            return False
        self._halvings += 1
        self._step = 0.5 * self._step
        return True

    def state(self) -> dict[str, Any]:
        """What a restart needs, of numbers and arrays."""
        return {
            **{name: getattr(self, name) for name in _SCALARS},
            **{name: getattr(self, name).copy() for name in _ARRAYS},
            "positions": self.atoms.positions.copy(),
            "cell": self.atoms.cell.array.copy(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state`."""
        for name in (*_SCALARS, *_ARRAYS):
            setattr(self, name, state[name])
        self.atoms = self.atoms.copy()
        self.atoms.positions = state["positions"]
        self.atoms.set_cell(state["cell"])


_SCALARS = (
    "moves", "reason", "first", "highest", "rise", "_halvings", "_slid", "_here", "_curvature",
)  # fmt: skip
_ARRAYS = ("_first_moment", "_second_moment", "_uphill", "_energy_slope", "_step")
