"""Diagnostics of a guarded run: plausibility of step 0, and the thresholds of the burn-in."""

from __future__ import annotations

import logging

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.symmetric import forces_vanish
from md_hooks import Frame, Guard, Hook, Verdict
from md_hooks.burn_in import NEGLIGIBLE, disagreement

_log = logging.getLogger(__name__)

DOUBTFUL = 0.25
"""Relative difference of the two force predictions. On structures like those of their training set
models have 0.01 to 0.16."""

NET = 0.2
"""Mean direct force over their RMS; at most 0.01 on structures like those of the training set."""

RESOLVED = 2 * NEGLIGIBLE
"""eV/Å; in a relaxed structure all forces are small, and errors dominate them."""


def first_look(
    u: float, direct: NDArray[np.float64], conservative: NDArray[np.float64]
) -> list[str]:
    """Faults in the first evaluation that `forcedelta check` would find, one phrase per fault.

    Args:
        u: Force Delta in eV/Å.
        direct: direct forces [N, 3] in eV/Å.
        conservative: conservative forces [N, 3] in eV/Å.
    """
    found = []
    sizes = [float(np.sqrt(np.mean(forces**2))) for forces in (direct, conservative)]
    share = disagreement(u, direct, conservative)
    if share > DOUBTFUL and u > RESOLVED:
        found.append(
            f"U is {u:.3g} eV/Å at step 0, at an RMS of {sizes[0]:.3g} eV/Å of the direct and "
            f"{sizes[1]:.3g} eV/Å of the conservative forces: the two predictions differ by "
            f"{100 * share:.0f} % of their magnitude"
        )
    net = direct.sum(axis=0)
    mean = float(np.linalg.norm(net)) / len(direct)
    if mean > NET * sizes[0] and mean > NEGLIGIBLE:
        found.append(
            f"the net direct force at step 0 is {np.linalg.norm(net):.3g} eV/Å and should be 0"
        )
    return found


def symmetric_start(
    atoms: Atoms, direct: NDArray[np.float64], conservative: NDArray[np.float64]
) -> str:
    """What a first U of 0 means where the forces vanish by symmetry; empty for other structures.

    Args:
        atoms: structure of step 0, Å.
        direct: direct forces [N, 3] in eV/Å.
        conservative: conservative forces [N, 3] in eV/Å.
    """
    if not forces_vanish(atoms, direct, conservative):
        return ""
    return (
        "at step 0 the forces vanish by symmetry, and U with them for any model: U tells of the model "
        "as soon as the atoms have moved"
    )


class ThresholdLine(Hook):
    """Hook that logs the thresholds of a guard at the end of its burn-in.

    Args:
        guard: the guard of the run.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._waiting = guard.burning_in

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Log the thresholds after the last step of the burn-in."""
        guard = self._guard
        if not self._waiting or guard.burning_in:
            return
        self._waiting = False
        if guard.autocorrelation_times is None:  # determined before a restart
            return
        named = (("stop", guard.stop_threshold), ("flag", guard.flag_threshold))
        thresholds = ", ".join(f"{name} above {at:.4g}" for name, at in named if at is not None)
        _log.info(
            "burn-in of %d steps, %.0f autocorrelation times of U: %s eV/Å",
            guard.burn_in, guard.autocorrelation_times, thresholds,
        )  # fmt: skip
