"""Jumps of energy and forces, above all where a neighbour comes or goes.

A model that looks at the k nearest neighbours, or whose message from a neighbour does not fade
towards the cutoff, has an energy that jumps. Its gradient does not see that: F_c is right on both
sides, and a run at constant energy drifts all the same.

Structures move along straight lines ``r + t d`` with a d of unit root mean square length per atom,
so that t is how far atoms move, Å: a random d, or for molecules that are smaller than the cutoff one
that moves all atoms away from their centre.
"""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.evaluation import ExactEvaluation
from forcedelta.verify.agreement import Change, change
from forcedelta.verify.probe import Probe, atom_pairs

WIDTH = {torch.float64: 1e-8, torch.float32: 1e-5}
"""Å between the two sides of a change; what a smooth energy does over that is no jump."""


@dataclass(frozen=True)
class Jump:
    """What changes between two structures that are `width` apart.

    Attributes:
        energy: eV, what the forces do not account for of the change of the energy.
        change: all of it, energy eV, forces and U eV/Å.
        at: Å along the line.
        width: Å.
        pairs: how many pairs came and went; 0 if the model does not say which it sees.
        swap: whether an atom lost one neighbour and got another at once.
    """

    energy: float
    change: Change
    at: float
    width: float
    pairs: int
    swap: bool


def neighbour_change(
    probe: Probe, atoms: Atoms, reach: float = 0.3, seed: int = 0, apart: bool = False
) -> Jump | None:
    """The first change along a line of the pairs that the model sees.

    Found by bisection on the pairs alone; the model is asked only on both sides of the change.

    Args:
        probe: the model.
        atoms: where the line begins.
        reach: Å, its length.
        seed: of its direction.
        apart: take the direction away from the centre.

    Returns:
        None if no pair changes within ``reach`` Å.
    """
    line = _Line(atoms, None if apart else seed)
    before = atom_pairs(probe, atoms)
    low, high = 0.0, WIDTH[probe.dtype]
    while (after := atom_pairs(probe, line.at(high))) == before:
        if high >= reach:
            return None
        low, high = high, min(2.0 * high, reach)
    while high - low > WIDTH[probe.dtype]:
        middle = 0.5 * (low + high)
        pairs = atom_pairs(probe, line.at(middle))
        if pairs == before:
            low = middle
        else:
            high, after = middle, pairs
    come, gone = after - before, before - after
    swap = bool({pair[0] for pair in come} & {pair[0] for pair in gone})
    sides = probe.evaluate(line.at(low)), probe.evaluate(line.at(high))
    return Jump(
        line.excess(*sides, high - low), change(*sides), high, high - low, len(come | gone), swap
    )


def hidden_jump(
    probe: Probe, atoms: Atoms, reach: float = 0.1, intervals: int = 16, seed: int = 0
) -> Jump:
    """The largest jump of the energy along a random line, whatever causes it.

    In each interval, ``E(b) - E(a) + (F_c(a) + F_c(b)).(b - a)/2`` falls with the cube of its
    length where the energy is smooth, and not at all where it jumps. The interval with the
    largest is halved until it is as narrow as the rounding of the energy allows.
    """
    line = _Line(atoms, seed)
    ends = list(np.linspace(0.0, reach, intervals + 1))
    known = [probe.evaluate(line.at(t)) for t in ends]

    worst = max(
        range(intervals), key=lambda k: line.excess(known[k], known[k + 1], reach / intervals)
    )
    low, high = ends[worst], ends[worst + 1]
    left, right = known[worst], known[worst + 1]
    while high - low > 1e2 * WIDTH[probe.dtype]:
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        between = probe.evaluate(line.at(middle))
        if line.excess(left, between, half) > line.excess(between, right, half):
            high, right = middle, between
        else:
            low, left = middle, between
    return Jump(
        line.excess(left, right, high - low), change(left, right), high, high - low, 0, False
    )


class _Line:
    """Structures along a random direction, or away from the centre."""

    def __init__(self, atoms: Atoms, seed: int | None) -> None:
        self._atoms = atoms
        if seed is None:
            way = atoms.positions - atoms.positions.mean(0)
        else:
            way = np.random.default_rng(seed).normal(size=(len(atoms), 3))
        self._way: NDArray[np.float64] = way * np.sqrt(len(atoms) / (way**2).sum())

    def at(self, distance: float) -> Atoms:
        other = self._atoms.copy()
        other.set_constraint()
        other.positions += distance * self._way
        return other

    def excess(self, a: ExactEvaluation, b: ExactEvaluation, width: float) -> float:
        """What the change of the energy has beyond the work of the forces, eV."""
        mean = 0.5 * (a.conservative_forces + b.conservative_forces)
        return abs(b.energy - a.energy + float(width * (mean * self._way).sum()))
