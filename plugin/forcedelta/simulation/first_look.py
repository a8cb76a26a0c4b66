"""What a guarded run reports about its guard: a look at step 0, and the thresholds of a burn-in."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from md_hooks import Frame, Guard, Hook, Verdict
from md_hooks.burn_in import NEGLIGIBLE, disagreement

_log = logging.getLogger("forcedelta")

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
    """Faults that `forcedelta check` would find in the first evaluation, a phrase each.

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
    """A hook that logs the thresholds of a guard once its burn-in has given them.

    Args:
        guard: the guard of the run.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._waiting = guard.burning_in

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Log the thresholds at the end of the burn-in."""
        guard = self._guard
        if not self._waiting or guard.burning_in:
            return
        self._waiting = False
        if guard.autocorrelation_times is None:  # of the part before a restart
            return
        named = (("stop", guard.stop_threshold), ("flag", guard.flag_threshold))
        thresholds = ", ".join(f"{name} above {at:.4g}" for name, at in named if at is not None)
        _log.info(
            "burn-in of %d steps, %.0f autocorrelation times of U: %s eV/Å",
            guard.burn_in, guard.autocorrelation_times, thresholds,
        )  # fmt: skip
