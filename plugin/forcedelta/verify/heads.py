"""Direct against conservative forces: by how much, on which elements and along which axes they differ.

U is the size of a difference and cannot tell a model that is uncertain from a direct head with a
wrong sign on one element, in other units, or with swapped axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from forcedelta.evaluation import ExactEvaluation

Forces = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How direct forces follow conservative ones.

    Attributes:
        cosine: of the angle between all of both.
        ratio: slope of the least-squares line through zero, direct over conservative.
        explained: share of their squared difference that this slope accounts for.
        size: root mean square of the conservative forces over that of all atoms; 1 for all.
        direct: root mean square of the direct forces over that of the conservative ones.
    """

    cosine: float
    ratio: float
    explained: float
    size: float
    direct: float


@dataclass(frozen=True)
class Heads:
    """Both forces on several displaced copies of a structure.

    Attributes:
        all: of all atoms.
        elements: of each element, by symbol.
        others: of all atoms but those of that element, by symbol; empty for a single element.
        turned: of all atoms, after the direct forces are turned or mirrored as a whole to fit best.
        turn: how far that is from doing nothing: Frobenius norm of the orthogonal matrix less 1.
        rest: their squared difference after that, over that before.
        moving: root mean square of what displacements change in direct forces, over their size.
    """

    all: Comparison
    elements: dict[str, Comparison]
    others: dict[str, Comparison]
    turned: Comparison
    turn: float
    rest: float
    moving: float


def compare_heads(atoms: Atoms, evaluations: Sequence[ExactEvaluation]) -> Heads:
    """Compares forces of evaluations of displaced copies of the same atoms."""
    direct = np.stack([evaluation.direct_forces for evaluation in evaluations])
    conservative = np.stack([evaluation.conservative_forces for evaluation in evaluations])
    whole = _rms(conservative)

    def compared(chosen: NDArray[np.bool_]) -> Comparison:
        return compare(direct[:, chosen], conservative[:, chosen], whole)

    kinds = {chemical_symbols[z]: atoms.numbers == z for z in np.unique(atoms.numbers)}
    turn, _ = orthogonal_procrustes(direct.reshape(-1, 3), conservative.reshape(-1, 3))
    before, after = (float(((f - conservative) ** 2).sum()) for f in (direct, direct @ turn))
    size = _rms(direct)
    moving = direct - direct.mean(axis=0)
    return Heads(
        compared(np.ones(len(atoms), bool)),
        {symbol: compared(chosen) for symbol, chosen in kinds.items()},
        {symbol: compared(~chosen) for symbol, chosen in kinds.items() if len(kinds) > 1},
        compare(direct @ turn, conservative, whole),
        float(np.linalg.norm(turn - np.eye(3))),
        after / before if before > 0 else 1.0,
        _rms(moving) / size if size > 0 else 0.0,
    )


def compare(direct: Forces, conservative: Forces, whole: float) -> Comparison:
    """Compares some of the forces; ``whole`` is the root mean square of all conservative ones."""
    product = float((direct * conservative).sum())
    sizes = _rms(direct), _rms(conservative)
    if sizes[1] == 0:
        return Comparison(0.0, 0.0, 0.0, 0.0, np.inf if sizes[0] > 0 else 0.0)
    squares = float((conservative**2).sum())
    ratio = product / squares
    difference = float(((direct - conservative) ** 2).sum())
    norm = float(np.linalg.norm(direct)) * np.sqrt(squares)
    return Comparison(
        float(product / norm) if norm > 0 else 0.0,
        ratio,
        (ratio - 1.0) ** 2 * squares / difference if difference > 0 else 0.0,
        sizes[1] / whole,
        sizes[0] / sizes[1],
    )


def _rms(forces: Forces) -> float:
    return float(np.sqrt(np.mean(forces**2)))
