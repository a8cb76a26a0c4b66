"""Net force and torque: the part of U that has nothing to do with the inside of a structure."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.evaluation import ExactEvaluation


@dataclass(frozen=True)
class RigidParts:
    """Forces on a structure as a whole, which an invariant energy cannot have.

    Attributes:
        net_direct: |sum_i F_nc,i|, eV/Å.
        net_conservative: |sum_i F_c,i|, eV/Å.
        torque_direct: |sum_i (r_i - r_mean) x F_nc,i|, eV; None for periodic structures.
        torque_conservative: the same of F_c, eV.
        force_delta: U, eV/Å.
        without_mean: U of the differences F_nc - F_c less their mean, eV/Å.
    """

    net_direct: float
    net_conservative: float
    torque_direct: float | None
    torque_conservative: float | None
    force_delta: float
    without_mean: float


def rigid_parts(atoms: Atoms, evaluation: ExactEvaluation) -> RigidParts:
    """Net forces and torques of an evaluation of these atoms, and U without the mean force."""
    arms = atoms.positions - atoms.positions.mean(0)

    def torque(forces: NDArray[np.float64]) -> float | None:
        return None if atoms.pbc.any() else float(np.linalg.norm(np.cross(arms, forces).sum(0)))

    difference = evaluation.direct_forces - evaluation.conservative_forces
    centred = difference - difference.mean(0)
    return RigidParts(
        float(np.linalg.norm(evaluation.direct_forces.sum(0))),
        float(np.linalg.norm(evaluation.conservative_forces.sum(0))),
        torque(evaluation.direct_forces),
        torque(evaluation.conservative_forces),
        evaluation.force_delta,
        float(np.sqrt((centred**2).mean())),
    )
