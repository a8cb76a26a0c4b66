"""Whether the gradient of U is right: against differences of U."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from forcedelta.force_delta_gradient import GradientEvaluator, Method
from forcedelta.verify.probe import Probe, displaced

STEP = 1e-4
"""Å, or strain times 1 Å; for models in float64."""


def slope_error(
    probe: Probe, atoms: Atoms, method: Method, strain: bool = False, directions: int = 3
) -> float:
    """Largest error of dU along random directions, relative to the size of the gradient.

    The structure is displaced, as U and its gradient may vanish by symmetry. The first direction is
    that of the gradient itself; with ``strain``, all directions are symmetric strains.

    Args:
        probe: the model, in float64.
        atoms: the structure.
        method: see `forcedelta.force_delta_gradient.GradientEvaluator`.
        strain: the derivative by strain instead of that by positions.
        directions: random ones, besides the gradient's own.
    """
    start = displaced(atoms, seed=11)
    evaluator = GradientEvaluator(probe.model, probe.dtype, probe.device, method)
    [found] = evaluator.gradient_batch([start], strain)
    gradient = found.gradient
    if strain:
        assert found.strain is not None
        gradient = found.strain
    size = float(np.linalg.norm(gradient))
    random = np.random.default_rng(11)
    ways = [gradient / size]
    for _ in range(directions):
        way = random.normal(size=gradient.shape)
        way = 0.5 * (way + way.T) if strain else way
        ways.append(way / np.linalg.norm(way))
    errors = []
    for way in ways:
        sides = [_force_delta(evaluator, start, sign * STEP * way, strain) for sign in (1.0, -1.0)]
        slope = (sides[0] - sides[1]) / (2.0 * STEP)
        errors.append(abs(slope - float((gradient * way).sum())) / size)
    return max(errors)


def _force_delta(
    evaluator: GradientEvaluator, atoms: Atoms, way: np.ndarray, strain: bool
) -> float:
    moved = atoms.copy()
    if strain:
        moved.set_cell(atoms.cell.array @ (np.eye(3) + way))
        moved.positions = atoms.positions @ (np.eye(3) + way)
    else:
        moved.positions += way
    return evaluator.batch([moved])[0].force_delta
