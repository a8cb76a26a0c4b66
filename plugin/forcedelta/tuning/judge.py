"""Frames before and after tuning: U, and where there are labels, errors and their ranking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ..evaluation import Evaluator, ExactEvaluation
from ..ranking import auroc, spearman, worst_tenth
from ..rigid_force import rigid_force

Array = NDArray[np.float64]

SAME = 1e-6  # eV/Å; forces that agree this well are the model's own, not labels
BLOCK = 16  # structures evaluated side by side


@dataclass(frozen=True)
class Judgement:
    """A model on M frames; eV/Å.

    Attributes:
        force_delta: mean of U.
        labelled: number of frames with reference forces; without any, what follows is None.
        direct_error: RMS error of F_nc, over the components of all labelled frames.
        conservative_error: that of F_c.
        ranking: of ten or more labelled frames by U and by the controls: Spearman's r_s with the error of F_nc
            (eq. 2), and AUROC for the worst tenth.
    """

    force_delta: float
    labelled: int = 0
    direct_error: float | None = None
    conservative_error: float | None = None
    ranking: dict[str, dict[str, float]] | None = None


def evaluate(evaluator: Evaluator, frames: Sequence[Atoms]) -> list[ExactEvaluation]:
    """Exact evaluations of frames, in blocks."""
    return [
        found
        for first in range(0, len(frames), BLOCK)
        for found in evaluator.evaluate(evaluator.graph_of(frames[first : first + BLOCK]))
    ]


def mean_force_delta(evaluator: Evaluator, frames: Sequence[Atoms]) -> float:
    """Mean of U over frames, eV/Å."""
    return float(np.mean([found.force_delta for found in evaluate(evaluator, frames)]))


def judge(evaluator: Evaluator, frames: Sequence[Atoms]) -> Judgement:
    """A model on frames, some of which may have reference forces in the results of their calculator."""
    found = evaluate(evaluator, frames)
    mean = float(np.mean([one.force_delta for one in found]))
    rows = [
        (atoms, one, forces)
        for atoms, one in zip(frames, found, strict=True)
        if (forces := _reference(atoms, one)) is not None
    ]
    if not rows:
        return Judgement(mean)
    direct = [one.direct_forces - forces for _, one, forces in rows]
    conservative = [one.conservative_forces - forces for _, one, forces in rows]
    error = np.array([_rms(difference) for difference in direct])
    controls = {
        "force_delta": np.array([one.force_delta for _, one, _ in rows]),
        "energy_per_atom": _energies([(atoms, one.energy) for atoms, one, _ in rows]),
        "force_rms": np.array([_rms(one.direct_forces) for _, one, _ in rows]),
        "rigid_force": np.array(
            [rigid_force(atoms.positions, one.direct_forces, atoms.pbc) for atoms, one, _ in rows]
        ),
    }
    ranking = None
    if len(rows) >= 10:
        ranking = {
            name: {
                "spearman": float(spearman(values, error)),
                "auroc_worst_tenth": float(auroc(values, worst_tenth(error))),
            }
            for name, values in controls.items()
        }
    return Judgement(
        mean, len(rows), _rms(np.concatenate(direct)), _rms(np.concatenate(conservative)), ranking
    )


def _reference(atoms: Atoms, found: ExactEvaluation) -> Array | None:
    """Reference forces [N, 3] eV/Å, without constraints; None without labels."""
    results: dict[str, Any] = {} if atoms.calc is None else atoms.calc.results
    forces = results.get("forces")
    if forces is None or np.shape(forces) != (len(atoms), 3) or not np.isfinite(forces).all():
        return None
    forces = np.asarray(forces, dtype=float)
    ours = (found.direct_forces, found.conservative_forces)
    return None if any(_rms(forces - one) < SAME for one in ours) else forces


def _energies(rows: Sequence[tuple[Atoms, float]]) -> Array:
    """Energies per atom [M] above the lowest of the same composition, eV."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for index, (atoms, _) in enumerate(rows):
        kinds[atoms.get_chemical_formula()].append(index)
    energies = np.array([energy / len(atoms) for atoms, energy in rows])
    for indices in kinds.values():
        energies[indices] -= energies[indices].min()
    return energies


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
