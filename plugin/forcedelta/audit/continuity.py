"""Continuity of a trajectory: gaps, steps that go back, and changes of the atoms."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from ase.formula import Formula
from numpy.typing import NDArray

from forcedelta.trajectories.base import StoredFrame
from md_hooks import Remark

_REMEMBERED = 20  # spacings of frames
_JUMP = 1.5  # times the largest of these is a gap


class Continuity:
    """Assigns steps to the frames of a trajectory and notes where it is interrupted.

    A frame keeps the step of its file, or gets its number in the file. Steps of a recorded file must
    increase: where those of the trajectory go back or repeat, as in joined files, an offset is added
    from there on.
    """

    def __init__(self) -> None:
        self._step: int | None = None
        self._offset = 0
        self._spacings: deque[int] = deque(maxlen=_REMEMBERED)
        self._gap: int | None = None
        self._numbers: list[int] | None = None

    def number(self, frame: StoredFrame) -> tuple[int, list[Remark]]:
        """Step of a frame, and remarks on its continuity."""
        own = frame.index if frame.step is None else frame.step
        remarks = self._compare_atoms(frame)
        step = own + self._offset
        if self._step is not None:
            spacing = step - self._step
            if spacing <= 0:
                usual = max(self._spacings, default=1)
                self._offset += self._step + usual - step
                remarks.append(
                    Remark(
                        frame.index, own, "step back",
                        f"step {own} follows step {self._step - (step - own)}: from here on "
                        f"{self._offset} is added to the steps of the file",
                    )
                )  # fmt: skip
                step = own + self._offset
            else:
                remarks += self._compare_spacing(frame.index, own, spacing)
        self._step = step
        return step, remarks

    def _compare_spacing(self, index: int, step: int, spacing: int) -> list[Remark]:
        usual = max(self._spacings, default=spacing)
        gap = spacing >= _JUMP * usual
        if gap and spacing != self._gap and self._spacings:
            self._gap = spacing
            text = f"{spacing} steps lie between this frame and the one before, not {usual}"
            return [Remark(index, step, "gap", text)]
        if gap:  # seen twice: this is the new spacing
            self._spacings.clear()
        self._gap = None
        self._spacings.append(spacing)
        return []

    def _compare_atoms(self, frame: StoredFrame) -> list[Remark]:
        numbers = frame.atoms.numbers
        before, self._numbers = self._numbers, numbers.tolist()
        if before is None or before == self._numbers:
            return []
        old, new = _formula(before), _formula(self._numbers)
        if old == new:
            text = f"the atoms of {new} are ordered differently from the frame before"
        else:
            text = f"{new}, and {old} in the frame before"
        return [Remark(frame.index, frame.step, "other atoms", text)]

    def state(self) -> dict[str, Any]:
        """JSON-able, for a restart."""
        return {
            "step": self._step, "offset": self._offset, "spacings": list(self._spacings),
            "gap": self._gap, "numbers": self._numbers,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        self._step, self._offset, self._gap = state["step"], state["offset"], state["gap"]
        self._spacings = deque(state["spacings"], maxlen=_REMEMBERED)
        self._numbers = state["numbers"]


def _formula(numbers: list[int] | NDArray[np.integer]) -> str:
    return f"{Formula.from_list(_symbols(numbers)):hill}"


def _symbols(numbers: list[int] | NDArray[np.integer]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[int(z)] for z in numbers]
