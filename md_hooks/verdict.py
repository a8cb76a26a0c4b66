"""The answer of a hook to a frame."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Action(IntEnum):
    """What should happen after a frame; the larger value takes precedence."""

    CONTINUE = 0
    FLAG = 1
    STOP = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action and its reason.

    Attributes:
        action: what should happen.
        reason: one readable line: step, time, quantity and value, threshold, worst atom.
        quantity: name of the quantity that decided ("force_delta", "worst_atom", "energy", ...).
        value: its value, eV/Å for the Force Delta.
        threshold: the threshold it crossed, eV/Å for the Force Delta; None if none was involved.

    A verdict has no truth value: compare ``verdict.action`` (CONTINUE is 0, and a
    test such as ``if verdict`` would read like "something happened").
    """

    action: Action
    reason: str = ""
    quantity: str | None = None
    value: float | None = None
    threshold: float | None = None

    def __bool__(self) -> bool:
        raise TypeError("a Verdict is neither true nor false: compare verdict.action")


CONTINUE = Verdict(Action.CONTINUE)
