"""Averages of acetylacetone with multiple time steps, direct and conservative forces.

    python benchmarks/temperatures.py                10 ps each: a few minutes on one core
    python benchmarks/temperatures.py --ps 100       error bars a third as wide

Langevin runs at 300 K and 0.5 fs, relaxation time 100 fs, from one equilibrated state. Printed are the
kinetic temperatures by element, and means and standard deviations of the O-O distance and of both
C-O bonds, with standard errors from averages over blocks of 1 ps. p is the probability that distances
of the same distribution differ by more than these do from those with conservative forces, in the
Kolmogorov-Smirnov distance, from permutations of the blocks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray

from forcedelta import ForceDeltaCalculator, load_model
from forcedelta.ensembles import Ensemble, EnsembleSettings, Ramp, prepare

TIMESTEP, TARGET, TAU = 0.5, 300.0, 100.0  # fs, K, fs
SAMPLED = 4  # steps; an outer step
BLOCK = 1000.0  # fs
PERMUTATIONS = 1000
MODES = (("mts, inner 4", "mts", 4), ("direct", "direct", 1), ("conservative", "conservative", 1))


def settings(seed: int) -> EnsembleSettings:
    ramp = Ramp(TARGET, TARGET, 0, 0)
    return EnsembleSettings("langevin", ramp, TIMESTEP, TAU, 0.0, 1000.0, seed)


def of_element(atoms: Atoms, symbol: str) -> float:
    """Kinetic temperature of the atoms of an element, K.

    The centre of mass is at rest, so that an atom of mass m has 3 (1 - m/M) degrees of freedom.
    """
    chosen = atoms.symbols == symbol
    masses, momenta = atoms.get_masses(), atoms.get_momenta()
    freedom = 3 * (1 - masses[chosen] / masses.sum()).sum()
    return float((momenta[chosen] ** 2 / masses[chosen, None]).sum() / freedom / units.kB)


def sample(
    model: object, start: Atoms, forces: str, inner: int, ps: float, seed: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """[F, 3] temperatures of H, C and O, and distances [F, ...] in Å by name."""
    atoms = start.copy()
    atoms.calc = ForceDeltaCalculator(model, forces, inner=inner)  # type: ignore[arg-type]
    dynamics = Ensemble(atoms, settings(seed)).dynamics
    oxygens = np.flatnonzero(atoms.symbols == "O")
    carbons = np.flatnonzero(atoms.symbols == "C")
    bonded = [carbons[atoms.get_distances(o, carbons).argmin()] for o in oxygens]
    temperatures, apart, bonds = [], [], []

    def observe() -> None:
        if dynamics.nsteps == 0:
            return
        temperatures.append([of_element(atoms, symbol) for symbol in "HCO"])
        apart.append([atoms.get_distance(*oxygens)])
        bonds.append([atoms.get_distance(o, c) for o, c in zip(oxygens, bonded, strict=True)])

    dynamics.attach(observe, SAMPLED)
    dynamics.run(round(1000 * ps / TIMESTEP))
    return np.array(temperatures), {"O-O": np.array(apart), "C-O": np.array(bonds)}


def blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, n, ...] values by blocks; what does not fill one is left out."""
    size = round(BLOCK / TIMESTEP / SAMPLED)
    count = len(values) // size
    return values[: count * size].reshape(count, size, *values.shape[1:])


def with_error(means: NDArray[np.float64]) -> tuple[float, float]:
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    a, b = np.sort(a.ravel()), np.sort(b.ravel())
    at = np.concatenate([a, b])
    first = np.searchsorted(a, at, side="right") / len(a)
    return float(np.abs(first - np.searchsorted(b, at, side="right") / len(b)).max())


def probability(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """p value of the distance of two samples in blocks [B, n, ...]."""
    rng = np.random.default_rng(0)
    both, found = np.concatenate([a, b]), distance(a, b)
    more = 0
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(both))
        more += distance(both[order[: len(a)]], both[order[len(a) :]]) >= found
    return (more + 1) / (PERMUTATIONS + 1)


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--model", choices=("acac", "acac-direct"), default="acac")
parser.add_argument("--ps", type=float, default=10.0, help="length of each run, ps; at least 2")
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
if arguments.ps < 2:
    parser.error("--ps must be 2 or more: errors come from blocks of 1 ps")
torch.set_num_threads(1)

loaded = load_model(arguments.model)
start = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")
prepare(start, settings(arguments.seed))
start.calc = ForceDeltaCalculator(loaded, "conservative")
Ensemble(start, settings(arguments.seed)).dynamics.run(round(BLOCK / TIMESTEP))
start.calc = None

found = {
    name: sample(loaded, start, forces, inner, arguments.ps, arguments.seed + 1)
    for name, forces, inner in MODES
}
print(f"{arguments.model}, Langevin at {TARGET:g} K, {arguments.ps:g} ps each\n")
print(f"{'forces':14s}" + "".join(f"{f'T of {symbol} (K)':>18s}" for symbol in "HCO"))
for name, (temperatures, _) in found.items():
    means = blocks(temperatures).mean(axis=1)
    cells = [with_error(means[:, column]) for column in range(3)]
    print(f"{name:14s}" + "".join(f"{f'{mean:.1f} ± {error:.1f}':>18s}" for mean, error in cells))
for kind in ("O-O", "C-O"):
    print(f"\n{'forces':14s}{f'{kind} (Å)':>20s}{'deviation (Å)':>20s}{'p':>8s}")
    reference = blocks(found["conservative"][1][kind])
    for name, (_, distances) in found.items():
        values = blocks(distances[kind])
        axes = tuple(range(1, values.ndim))
        mean, error = with_error(values.mean(axis=axes))
        spread, spread_error = with_error(values.std(axis=axes))
        p = "" if name == "conservative" else f"{probability(values, reference):.3f}"
        print(
            f"{name:14s}{f'{mean:.4f} ± {error:.4f}':>20s}{f'{spread:.4f} ± {spread_error:.4f}':>20s}{p:>8s}"
        )
