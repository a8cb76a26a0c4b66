"""A hook that records the distance of two atoms, and stops a run in which they stay apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from md_hooks import Action, Frame, Hook, HookError, RunInfo, Verdict


class Distance(Hook):
    """Records the distance of two atoms at every step; stops when it stays too long.

    The distance is a series of the recorded file, ``distance_I_J`` in Å. Periodic images are not
    searched.

    Args:
        first: index of one atom, counted from 0.
        second: index of the other atom.
        longest: longest acceptable distance, Å.
        patience: steps in a row with a longer distance at which the run stops.

    Raises:
        HookError: indices of one atom, or a limit that is not positive.
    """

    def __init__(self, first: int, second: int, longest: float, patience: int = 5) -> None:
        if first == second or min(first, second) < 0:
            raise HookError(f"atoms {first} and {second}: pass two different indices, from 0")
        if not longest > 0 or patience < 1:
            raise HookError(f"longest is {longest} Å, patience {patience}: pass positive values")
        self.atoms = (first, second)
        self.longest = longest
        self.patience = patience
        self.name = f"distance_{first}_{second}"
        self.steps_apart = 0

    def open(self, info: RunInfo) -> None:
        """Refuse a system without these atoms, before the first step."""
        if info.numbers is not None and max(self.atoms) >= len(info.numbers):
            raise HookError(f"there is no atom {max(self.atoms)}: pass indices from 0")

    def annotate(self, frame: Frame) -> Mapping[str, float]:
        """The distance, Å: a recorder stores it, and all hooks find it in ``frame.extra``."""
        first, second = frame.positions[list(self.atoms)]
        return {self.name: float(np.linalg.norm(first - second))}

    def __call__(self, frame: Frame) -> Verdict | None:
        """Flag a frame with a longer distance, stop after ``patience`` of them; None: continue."""
        distance = frame.extra[self.name]
        self.steps_apart = self.steps_apart + 1 if distance > self.longest else 0
        if self.steps_apart == 0:
            return None
        stays = self.steps_apart >= self.patience
        return Verdict(
            Action.STOP if stays else Action.FLAG,
            f"step {frame.step}: atoms {self.atoms[0]} and {self.atoms[1]} are {distance:.2f} Å apart",
            quantity=self.name,
            value=distance,
            threshold=self.longest,
        )

    def policy(self) -> dict[str, Any]:
        """The limits, which a recorder stores with the run."""
        return {"hook": self.name, "longest": self.longest, "patience": self.patience}

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs to end as the uninterrupted run does."""
        return {"steps_apart": self.steps_apart}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self.steps_apart = int(state["steps_apart"])
