"""When U is exact: at every N-th evaluation, or where the sentinel requires it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import ForceDeltaError

if TYPE_CHECKING:
    from md_hooks import Trajectory

    from .evaluation import Evaluation
    from .sentinel import Sentinel

ADAPTIVE: Literal["adaptive"] = "adaptive"

Every = int | Literal["adaptive"]
"""Evaluations between two exact ones, or "adaptive": see `forcedelta.sentinel.Sentinel`."""

COUNTS = ("evaluations", "exact_evaluations", "firings", "false_firings")
"""What is counted; see `forcedelta.sentinel.Sentinel`."""

ESTIMATE = "estimated_force_delta"
"""Name of the estimate of U, eV/Å, in results and files."""


def check_every(every: object, forces: str) -> Every:
    """The setting ``every``, checked against the forces that drive the run.

    Args:
        every: a whole number, or "adaptive".
        forces: "direct", "conservative" or "mts" (see `forcedelta.integrators.check_inner`).

    Raises:
        ForceDeltaError: neither of the two; more than 1 or "adaptive" with conservative forces.
    """
    valid: Every
    if isinstance(every, str) and every == ADAPTIVE:
        valid = ADAPTIVE
    elif isinstance(every, int | np.integer) and not isinstance(every, bool) and every >= 1:
        valid = int(every)
    else:
        raise ForceDeltaError(
            f"every must be a whole number of 1 or more, or 'adaptive', not {every!r}"
        )
    if valid != 1 and forces == "conservative":
        raise ForceDeltaError(
            f"every must be 1 with conservative forces, which need the gradient at every step, not "
            f"{every!r}"
        )
    return valid


def sentinel_of(monitored: Any) -> Sentinel | None:
    """The sentinel of adaptive monitoring; None without it.

    Args:
        monitored: an `ase.Atoms` with a calculator, a calculator, or a monitor of OpenMM.
    """
    found: Sentinel | None = getattr(getattr(monitored, "calc", monitored), "sentinel", None)
    return found


def evaluate_adaptively(
    sentinel: Sentinel,
    evaluate: Callable[[bool], Evaluation],
    positions: NDArray[np.floating],
    cell: NDArray[np.floating],
    pbc: NDArray[np.bool_],
) -> Evaluation:
    """One evaluation, exact where the sentinel requires it.

    One that is exact in any case takes one forward and one backward pass. Another takes a forward
    pass, and if the estimate requires U, both passes of an exact one after it.

    Args:
        sentinel: of the run.
        evaluate: evaluates the configuration: exact (True), or with the forward pass alone.
        positions: [N, 3] Å.
        cell: [3, 3] Å, rows are the vectors; zeros without a cell.
        pbc: (3,) bool.
    """
    found = evaluate(sentinel.due)
    exact = sentinel.see(found.energy, found.direct_forces, positions, cell, pbc)
    if exact and not found.exact:
        found = evaluate(True)
    if exact:
        sentinel.confirm(found)
    return found


def counts_in_words(counts: Mapping[str, int]) -> str:
    """The counts of `Sentinel.counts` as a phrase."""
    fired = counts["firings"]
    times = "once" if fired == 1 else f"{fired} times"
    share = _share(counts["exact_evaluations"], counts["evaluations"])
    return f"{share}; fired {times}, {counts['false_firings']} false"


def recorded_monitoring(trajectory: Trajectory) -> str:
    """What adaptive monitoring did in a recorded run, as a phrase; "" for runs without it.

    Counts of firings are in the file once the run has ended.
    """
    counts = trajectory.outcome.get("monitoring")
    if isinstance(counts, dict) and all(isinstance(counts.get(name), int) for name in COUNTS):
        return counts_in_words(counts)
    if ESTIMATE not in trajectory.series:
        return ""
    known = np.isfinite(trajectory.series["force_delta"])
    return _share(int(known.sum()), len(known))


def _share(exact: int, evaluations: int) -> str:
    return f"U exact at {100 * exact / max(1, evaluations):.1f} % of the steps"
