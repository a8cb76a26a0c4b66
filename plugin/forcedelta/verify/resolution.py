"""How finely a model resolves its energy.

A model that sums in float32 gives energies that are multiples of one unit in the last place of float32:
0.001 eV at -9391 eV, whatever the precision of its positions. Displacements that change the energy
by less show nothing, and a finite difference over them is zero, not a proof that the gradient is
wrong.
"""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.graph import Graph
from forcedelta.verify.probe import Probe

DISPLACEMENT = 1e-2
"""Å, of each coordinate: enough for energies to differ."""
POINTS = 8
_TOLERANCE = 4.0
"""Units in the last place of float64: how exactly a difference is a multiple of the resolution."""


def energy_resolution(probe: Probe, graph: Graph, atoms: Atoms) -> float:
    """The step between neighbouring energies that the model can give near a structure, eV."""
    rng = np.random.default_rng(0)
    origin = graph[0].cpu().double().numpy()
    energies = [probe.energy(graph)]
    for _ in range(POINTS):
        moved = probe.tensor(origin + rng.normal(scale=DISPLACEMENT, size=(len(atoms), 3)))
        energies.append(probe.energy((moved, *graph[1:])))
    return step_between(np.array(energies))


def step_between(energies: NDArray[np.float64]) -> float:
    """The largest power of two of which all differences of energies are multiples, eV.

    It is one unit in the last place of float64 where they are no multiples of anything larger.
    """
    if not np.isfinite(energies).all():
        return float("nan")
    finest = float(np.spacing(np.abs(energies).max()))
    differences = np.unique(energies - energies[0])
    step = finest
    # a few bits above, as there is always some small number of which rounded ones are multiples
    candidate = finest * 2.0 ** np.ceil(np.log2(8 * _TOLERANCE))
    while len(differences) > 2 and candidate <= np.abs(differences).max():
        multiples = np.round(differences / candidate)
        if np.abs(differences - candidate * multiples).max() > _TOLERANCE * finest:
            break
        step = candidate
        candidate *= 2.0
    return step
