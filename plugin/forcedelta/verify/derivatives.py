"""Whether F_c is -dE/dr, and the stress dE/d(strain)/V: against differences of the energy.

With the energies at -2t, -t, 0, t and 2t along a direction d (a unit vector in the space of all 3N
coordinates, or a strain), the derivative is

    g = ( 8 [E(t) - E(-t)] - [E(2t) - E(-2t)] ) / 12t          error t^4 E^(5)/30

and the fourth difference

    D = E(-2t) - 4 E(-t) + 6 E(0) - 4 E(t) + E(2t)  =  t^4 E^(4) + noise * sqrt(70)

bounds the accuracy of g: independent errors of size s in the energies make D = s sqrt(70) and an
error of 0.950 s/t in g (Fornberg, Math. Comp. 51, 699 (1988), for the weights of both formulae).
Since t^3 E^(4)/8 exceeds t^4 E^(5)/30 at the steps in use, that bound covers truncation, too. A few
directions may by chance have small D in spite of the noise; since that does not depend on the step,
what shorter steps showed of it is the least that is assumed at longer ones. Energies that are not
resolved (`resolution`) have errors of half a step at least, and where none of them changes the
derivative is as uncertain as it is large.

For orthonormal directions, sqrt(mean_d (g_d + F_c.d)^2) estimates, and for all 3N coordinates is,

    sqrt( 1/(3N) sum_i |F_c,i + dE/dr_i|^2 )

the error of F_c in the measure of U itself.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.graph import Graph
from forcedelta.verify.probe import Probe, seen_pairs
from forcedelta.verify.resolution import energy_resolution

STEPS = {torch.float64: (2e-5, 1e-3, 1e-2, 5e-2), torch.float32: (2e-2, 5e-2)}
"""Å that each atom moves (root mean square), or strain in units of 1/Å of it; larger if noisy."""

NARROWER = (1.0, 0.1, 0.01)
"""Fractions of the step that are tried where neighbours change within it."""

FINE = 1e-4
"""A difference this good, relative to the gradient, needs no larger step, unless more is wanted."""

_POINTS = (-2, -1, 1, 2)
_NOISE = float(np.sqrt(70.0))
_SPREAD = float(np.sqrt(130.0) / 12.0)

Row = tuple[float, float, float, float]
"""Of one direction: error, uncertainty and value of the derivative, and spread of the energy."""


@dataclass(frozen=True)
class DerivativeError:
    """How far a derivative that a model gives is from the one of its energy.

    Attributes:
        error: root mean square of the difference over the directions; eV/Å, or eV/Å^3 of a stress.
        uncertainty: finite-difference uncertainty, same unit.
        size: root mean square of the finite differences, same unit.
        step: Å, or strain.
        directions: how many were used.
        complete: whether they span all coordinates.
        crossed: directions left out, as neighbours changed within the smallest step.
        resolution: step between neighbouring energies that the model can give, eV.
    """

    error: float
    uncertainty: float
    size: float
    step: float
    directions: int
    complete: bool
    crossed: int = 0
    resolution: float = 0.0

    @property
    def relative(self) -> float:
        """Error over size; infinite for an error without a derivative."""
        if self.size > 0:
            return self.error / self.size
        return float("inf") if self.error > 0 else 0.0

    def verdict(self, tolerance: float) -> Literal["right", "wrong", "hidden"]:
        """Right or wrong within a relative tolerance; hidden if the differences cannot tell."""
        allowed = tolerance * self.size
        if self.error > allowed and self.error > 3.0 * self.uncertainty:
            return "wrong"
        return "right" if self.error <= allowed and self.directions else "hidden"


def gradient_error(
    probe: Probe,
    atoms: Atoms,
    fixed: bool = False,
    directions: int = 24,
    seed: int = 0,
    fine: float = FINE,
) -> DerivativeError:
    """Error of the conservative forces, in the measure of U, eV/Å.

    Args:
        probe: the model.
        atoms: the structure.
        fixed: keep the pairs that the model sees at the structure; otherwise they are sought anew
            at each displacement.
        directions: random orthonormal directions; all coordinates, if there are no more of them.
        seed: of the directions.
        fine: larger steps are tried as long as the differences are worse than this, relatively.
    """
    base = probe.graph(atoms)
    forces = probe.evaluate_graph(base)[0].conservative_forces.ravel()
    if fixed:
        base = (*base[:3], *probe.selected(base), *base[5:])
    ways = _directions(forces.size, directions, seed)
    complete = len(ways) == forces.size
    # so that a step is how far atoms move, also where all of them do
    scale = 1.0 if complete else float(np.sqrt(len(atoms)))
    origin = base[0].cpu().double().numpy()
    seen = seen_pairs(probe, base)

    def moved(way: NDArray[np.float64], at: float) -> Graph:
        shift = at * way.reshape(-1, 3)
        if fixed:
            return (probe.tensor(origin + shift), *base[1:])
        other = atoms.copy()
        other.set_constraint()
        other.positions += shift
        return (probe.tensor(origin + shift), *probe.graph(other)[1:])

    def same_pairs(way: NDArray[np.float64], at: float) -> bool:
        return all(seen_pairs(probe, moved(way, x)) == seen for x in (-2 * at, -at, at, 2 * at))

    energy = probe.energy(base)
    results: list[DerivativeError] = []
    resolution = energy_resolution(probe, base, atoms)
    noise = 0.5 * resolution
    for step in STEPS[probe.dtype]:
        rows: list[Row] = []
        narrowest = step
        for way, along in zip(ways, ways @ forces, strict=True):
            for fraction in NARROWER if probe.selects and not fixed else (1.0,):
                at = fraction * step * scale
                if not (probe.selects and not fixed) or same_pairs(way, at):
                    change = {k: probe.energy(moved(way, k * at)) - energy for k in _POINTS}
                    slope, spread = _slope(change, at)
                    bound = _SPREAD * max(spread, noise) / at
                    if not any(change.values()):
                        bound = max(bound, abs(along))
                    rows.append((slope + along, bound, slope, spread))
                    narrowest = min(narrowest, fraction * step)
                    break
        crossed = len(ways) - len(rows)
        if rows and not any(row[2] or row[3] for row in rows) and step != STEPS[probe.dtype][-1]:
            continue  # no energy changed, so that nothing was measured
        results.append(_summary(rows, narrowest, complete, crossed, resolution))
        noise = max(noise, _rms_spread(rows))
        if not rows or results[-1].uncertainty <= fine * results[-1].size:
            break
    return min(results, key=lambda result: result.uncertainty)


def stress_error(probe: Probe, atoms: Atoms, fine: float = FINE) -> DerivativeError:
    """Error of the conservative stress, root mean square over its nine components, eV/Å^3.

    ``sigma_ab = 1/V dE/d(eps_ab)`` with positions and cell deformed by the symmetric strain eps.
    Models that see only some of the pairs keep those, as a strain moves all of them. ``fine`` as in
    `gradient_error`.
    """
    stress = probe.evaluate(atoms, stress=True).stress
    assert stress is not None
    volume = atoms.get_volume()
    base = probe.graph(atoms)
    seen = probe.selected(base)
    # from the first atom, as the graph is: a rigid shift would change an energy that is not invariant
    origin, cell = atoms.positions - atoms.positions[0], atoms.cell.array

    def strained(way: NDArray[np.float64], at: float) -> float:
        deformation = np.eye(3) + at * way
        if probe.selects:
            moved = probe.tensor(origin @ deformation), probe.tensor(cell @ deformation)
            return probe.energy((moved[0], base[1], moved[1][None], *seen, *base[5:]))
        other = atoms.copy()
        other.set_constraint()
        other.set_cell(atoms.cell.array @ deformation)
        other.positions = origin @ deformation
        return probe.energy(probe.graph(other))

    energy = strained(np.zeros((3, 3)), 0.0)
    results: list[DerivativeError] = []
    resolution = energy_resolution(probe, base, atoms)
    noise = 0.5 * resolution
    for step in STEPS[probe.dtype]:
        rows: list[Row] = []
        for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            way = np.zeros((3, 3))
            way[a, b] += 0.5
            way[b, a] += 0.5
            change = {k: strained(way, k * step) - energy for k in _POINTS}
            slope, spread = _slope(change, step)
            bound = _SPREAD * max(spread, noise) / step / volume
            if not any(change.values()):
                bound = max(bound, abs(stress[a, b]))
            row = (slope / volume - stress[a, b], bound, slope / volume, spread)
            rows += [row] * (1 if a == b else 2)
        results.append(_summary(rows, step, True, 0, resolution))
        noise = max(noise, _rms_spread(rows))
        if results[-1].uncertainty <= fine * results[-1].size:
            break
    return min(results, key=lambda result: result.uncertainty)


def _directions(size: int, count: int, seed: int) -> NDArray[np.float64]:
    """[M, 3N] orthonormal rows."""
    if size <= count:
        return np.eye(size)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, count)))
    return np.ascontiguousarray(q.T)


def _slope(e: dict[int, float], at: float) -> tuple[float, float]:
    """Derivative at 0, and the size of errors that would make the fourth difference, eV.

    Args:
        e: E(k at) - E(0) by k.
        at: the step.
    """
    slope = (8.0 * (e[1] - e[-1]) - (e[2] - e[-2])) / (12.0 * at)
    fourth = e[-2] - 4.0 * e[-1] - 4.0 * e[1] + e[2]
    return slope, abs(fourth) / _NOISE


def _rms_spread(rows: list[Row]) -> float:
    return float(np.sqrt(np.mean([row[3] ** 2 for row in rows]))) if rows else 0.0


def _summary(
    rows: list[Row], step: float, complete: bool, crossed: int, resolution: float
) -> DerivativeError:
    table = np.array(rows, dtype=float).reshape(-1, 4)[:, :3]
    error, uncertainty, size = np.sqrt((table**2).mean(0)) if rows else (np.nan, np.inf, np.nan)
    return DerivativeError(
        float(error),
        float(uncertainty),
        float(size),
        step,
        len(rows),
        complete,
        crossed,
        resolution,
    )
