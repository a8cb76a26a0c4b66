"""Evaluations that ought to agree: how far apart they are.

Every function gives a `Change`: the largest differences between evaluations of a structure and of
the same structure seen otherwise. Energies in eV of the whole structure, forces in eV/Å.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from forcedelta.evaluation import ExactEvaluation
from forcedelta.verify.probe import Probe

APART = 10.0
"""Å beyond the cutoff between copies that are not to see each other."""
FAR = 100.0
"""Å, where a model's cutoff is as good as infinite."""


@dataclass(frozen=True)
class Change:
    """Largest differences between evaluations.

    Attributes:
        energy: eV.
        direct: eV/Å, of a component of a direct force.
        conservative: eV/Å, of a component of a conservative force.
        force_delta: eV/Å, of U.
    """

    energy: float = 0.0
    direct: float = 0.0
    conservative: float = 0.0
    force_delta: float = 0.0

    @property
    def forces(self) -> float:
        """The larger of both forces, eV/Å."""
        return max(self.direct, self.conservative)


def change(first: ExactEvaluation, second: ExactEvaluation) -> Change:
    """Differences between two evaluations with the same order of atoms and the same axes."""
    return Change(
        abs(second.energy - first.energy),
        float(np.abs(second.direct_forces - first.direct_forces).max()),
        float(np.abs(second.conservative_forces - first.conservative_forces).max()),
        abs(second.force_delta - first.force_delta),
    )


def largest(changes: Iterable[Change]) -> Change:
    """The largest of each; NaN if there is one."""

    def larger(a: Change, b: Change) -> Change:
        pairs = zip(vars(a).values(), vars(b).values(), strict=True)
        return Change(*(float(np.maximum(x, y)) for x, y in pairs))

    return reduce(larger, changes, Change())


def translation(probe: Probe, atoms: Atoms, times: int = 3, seed: int = 0) -> Change:
    """The whole structure elsewhere, by up to 10 Å in each direction."""
    graph = probe.graph(atoms)
    first = probe.evaluate_graph(graph)[0]
    rng = np.random.default_rng(seed)
    origin = graph[0].cpu().double().numpy()
    # not through the positions of the atoms, of which a graph takes the first as its origin
    moved = ((probe.tensor(origin + rng.uniform(-10, 10, 3)), *graph[1:]) for _ in range(times))
    return largest(change(first, probe.evaluate_graph(other)[0]) for other in moved)


def permutation(probe: Probe, atoms: Atoms, times: int = 3, seed: int = 0) -> Change:
    """The atoms in another order, results put back in order."""
    first = probe.evaluate(atoms)
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(times):
        order = rng.permutation(len(atoms))
        back = np.argsort(order)
        other = probe.evaluate(atoms[order])
        changes.append(
            change(
                first,
                replace(
                    other,
                    direct_forces=other.direct_forces[back],
                    conservative_forces=other.conservative_forces[back],
                ),
            )
        )
    return largest(changes)


def rotation(probe: Probe, atoms: Atoms, times: int = 6, seed: int = 0) -> Change:
    """Positions and cell turned together, forces turned back.

    A model that is not equivariant by construction (Orb) has an error here that is part of its U.
    """
    first = probe.evaluate(atoms)
    changes = []
    for turn in random_rotations(times, seed):
        other = probe.evaluate(rotated(atoms, turn))
        changes.append(
            change(
                first,
                replace(
                    other,
                    direct_forces=other.direct_forces @ turn,
                    conservative_forces=other.conservative_forces @ turn,
                ),
            )
        )
    return largest(changes)


def wrapping(probe: Probe, atoms: Atoms, seed: int = 0) -> Change:
    """Each atom replaced by one of its periodic images, in directions that are periodic."""
    cells = np.random.default_rng(seed).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    other = atoms.copy()
    other.set_constraint()
    other.positions += cells @ atoms.cell.array
    return change(probe.evaluate(atoms), probe.evaluate(other))


def batching(probe: Probe, structures: list[Atoms]) -> Change:
    """Several structures in one call against one call for each."""
    together = probe.evaluate_graph(probe.graph(structures))
    alone = [probe.evaluate(atoms) for atoms in structures]
    return largest(change(a, b) for a, b in zip(alone, together, strict=True))


def repetition(probe: Probe, atoms: Atoms, times: int = 4) -> Change:
    """The same evaluation again."""
    graph = probe.graph(atoms)
    first = probe.evaluate_graph(graph)[0]
    return largest(change(first, probe.evaluate_graph(graph)[0]) for _ in range(times))


def history(probe: Probe, atoms: Atoms) -> Change:
    """The same evaluation again after one of another structure, of another size."""
    first = probe.evaluate(atoms)
    other = doubled(atoms, probe.model.cutoff)
    probe.evaluate(other)
    return change(first, probe.evaluate(atoms))


@dataclass(frozen=True)
class Copies:
    """Two copies of a structure that do not see each other, against one.

    Attributes:
        change: of the energy from twice its value, eV; of forces and U, eV/Å.
        direct_ratio: slope of the direct forces of both over those of one.
    """

    change: Change
    direct_ratio: float


def copies(probe: Probe, atoms: Atoms) -> Copies:
    """Two molecules out of reach of each other, or a doubled cell, against the structure.

    The energy has to double, and forces on the atoms and U stay what they are.
    """
    once, twice = probe.evaluate(atoms), probe.evaluate(doubled(atoms, probe.model.cutoff))
    direct, conservative = (
        np.tile(f, (2, 1)) for f in (once.direct_forces, once.conservative_forces)
    )
    squares = float((direct**2).sum())
    return Copies(
        Change(
            abs(twice.energy - 2.0 * once.energy),
            float(np.abs(twice.direct_forces - direct).max()),
            float(np.abs(twice.conservative_forces - conservative).max()),
            abs(twice.force_delta - once.force_delta),
        ),
        float((twice.direct_forces * direct).sum()) / squares if squares > 0 else 1.0,
    )


def doubled(atoms: Atoms, cutoff: float) -> Atoms:
    """A cell repeated in its first periodic direction, or two molecules out of reach.

    The second copy's atoms follow those of the first.
    """
    copy = atoms.copy()
    copy.set_constraint()
    if atoms.pbc.any():
        repeats = [1, 1, 1]
        repeats[int(np.argmax(atoms.pbc))] = 2
        return copy.repeat(repeats)
    other = copy.copy()
    other.positions[:, 0] += np.ptp(atoms.positions[:, 0]) + min(cutoff, FAR) + APART
    both = copy + other
    both.info.update(atoms.info)
    return both


def escaped(atoms: Atoms, cutoff: float) -> Atoms:
    """The last atom of a molecule out of reach of the others."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.positions[-1] += [np.ptp(atoms.positions[:, 0]) + min(cutoff, FAR) + APART, 0.0, 0.0]
    return copy


def frame_noise(probe: Probe, atoms: Atoms, seeds: int = 6) -> Change | None:
    """Other random local frames, where the model has a `frame_seed`; None where it has none.

    EquiformerV2 turns each edge into a frame of which one angle is drawn at random. In an exact
    network the angle would not matter.
    """
    module = probe.model.module
    before = getattr(module, "frame_seed", None)
    if before is None:
        return None
    first = probe.evaluate(atoms)
    changes = []
    try:
        for seed in range(1, seeds + 1):
            module.frame_seed = int(before) + seed  # type: ignore[assignment]
            changes.append(change(first, probe.evaluate(atoms)))
    finally:
        module.frame_seed = before
    return largest(changes)


def precision(single: Probe, double: Probe, atoms: Atoms) -> Change:
    """The same model in two precisions."""
    return change(double.evaluate(atoms), single.evaluate(atoms))


def library(probe: Probe, calculator: Calculator, atoms: Atoms) -> Change:
    """Energy and direct forces against those of the calculator that the library comes with."""
    ours = probe.evaluate(atoms)
    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = calculator
    energy, forces = float(copy.get_potential_energy()), np.asarray(copy.get_forces())
    return change(ours, replace(ours, energy=energy, direct_forces=forces))


def random_rotations(times: int, seed: int) -> NDArray[np.float64]:
    """Proper rotations [times, 3, 3], evenly distributed."""
    return Rotation.random(times, rng=seed).as_matrix()


def rotated(atoms: Atoms, turn: NDArray[np.float64]) -> Atoms:
    """A copy with ``r -> turn r`` for positions and cell vectors."""
    other = atoms.copy()
    other.set_constraint()
    other.set_cell(atoms.cell.array @ turn.T)
    other.positions = atoms.positions @ turn.T
    return other
