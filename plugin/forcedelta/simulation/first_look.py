"""What ``forcedelta run`` says about its guard: a look at step 0, and the threshold once it is there."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from md_hooks import Frame, Guard, Hook, Verdict
from md_hooks.burn_in import NEGLIGIBLE, disagreement
from md_hooks.progress import say

DOUBTFUL = 0.25
"""Share of the forces in which two predictions differ. Models have 0.01 to 0.16 on structures that
they were trained for."""

NET = 0.2
"""Mean direct force over their RMS; 0.01 at most on structures that a model was trained for."""

RESOLVED = 2 * NEGLIGIBLE
"""eV/Å; in a relaxed structure all forces are small, and what is left are errors."""


def first_look(
    u: float, direct: NDArray[np.float64], conservative: NDArray[np.float64]
) -> list[str]:
    """What `forcedelta check` would find fault with in the first evaluation, in words.

    Args:
        u: eV/Å.
        direct: [N, 3] eV/Å.
        conservative: [N, 3] eV/Å.
    """
    found = []
    sizes = [float(np.sqrt(np.mean(forces**2))) for forces in (direct, conservative)]
    share = disagreement(u, direct, conservative)
    if share > DOUBTFUL and u > RESOLVED:
        found.append(
            f"U is {u:.3g} eV/Å at step 0, where the direct forces have an RMS of {sizes[0]:.3g} and the "
            f"conservative ones of {sizes[1]:.3g} eV/Å: the two predictions differ by "
            f"{100 * share:.0f} % of their size"
        )
    net = direct.sum(axis=0)
    mean = float(np.linalg.norm(net)) / len(direct)
    if mean > NET * sizes[0] and mean > NEGLIGIBLE:
        found.append(
            f"the direct forces add up to {np.linalg.norm(net):.3g} eV/Å at step 0, which should be 0"
        )
    return found


class ThresholdLine(Hook):
    """A hook that prints the thresholds of a guard once its burn-in has given them.

    Args:
        guard: the guard of the run.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._waiting = guard.burning_in

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Look whether the burn-in is over."""
        guard = self._guard
        if not self._waiting or guard.burning_in:
            return
        self._waiting = False
        if guard.autocorrelation_times is None:  # of the part before a restart
            return
        named = (("stop", guard.stop_threshold), ("flag", guard.flag_threshold))
        thresholds = ", ".join(f"{name} above {at:.4g}" for name, at in named if at is not None)
        line = (
            f"burn-in of {guard.burn_in} steps, {guard.autocorrelation_times:.0f} autocorrelation "
            f"times of U: {thresholds} eV/Å"
        )
        with tqdm.external_write_mode(file=sys.stderr):  # above the progress bar
            say(line)
