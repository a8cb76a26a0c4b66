"""How often a calibrated threshold breaks its guarantee, on runs whose true risk is known.

The logarithms of U and of the error of a frame are normally distributed and correlated with each
other. Each is an offset of the run (with a share `icc` of the variance) plus a process with the
autocorrelation exp(-t / tau). A threshold breaks the guarantee if P(error > tolerance | U <= t),
which is an integral, exceeds the risk; a refusal to give one does not. The guarantee allows a share
of 1 - confidence = 0.10 of all draws.

    python benchmarks/guarantee_coverage.py [--repeats 400] [--risk 0.15] [--guide 0.8]

prints one line per set of parameters: the share of broken guarantees if all labels are treated as
independent, the same with correlation taken into account, and the share of draws with a threshold.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid
from scipy.stats import norm

from forcedelta.calibration.calibrate import threshold
from forcedelta.calibration.guarantee import find_threshold
from forcedelta.calibration.labels import Labels
from forcedelta.errors import ForceDeltaError

Array = NDArray[np.float64]

TOLERANCE, CONFIDENCE = 0.1, 0.9


@dataclass(frozen=True)
class Runs:
    """Parameters of simulated runs.

    Attributes:
        runs: number of runs.
        frames: labels per run.
        tau: correlation time in frames.
        icc: share of the variance between runs.
        selected: labels are at random times, 1 to 20 frames apart, instead of at every frame.
        timeless: the labels have no times.
    """

    runs: int
    frames: int
    tau: float
    icc: float = 0.0
    selected: bool = False
    timeless: bool = False


@dataclass(frozen=True)
class World:
    """Distribution of U and of the error.

    Attributes:
        guide: correlation of log U with log error.
        bad: share of frames with an error above the tolerance.
    """

    guide: float
    bad: float

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """log U, and P(error > tolerance | log U <= that)."""
        x = np.linspace(-8, 8, 4001)
        chance = norm.sf((norm.isf(self.bad) - self.guide * x) / np.sqrt(1 - self.guide**2))
        return x, cumulative_trapezoid(norm.pdf(x) * chance, x, initial=0) / norm.cdf(x)

    def risk(self, limit: float) -> float:
        """P(error > tolerance | U <= limit)."""
        return float(np.interp(np.log(limit), *self._table))

    def labels(self, kind: Runs, rng: np.random.Generator) -> Labels:
        """Labels of new runs."""
        times = _times(kind, rng)
        first, second = (_processes(kind, times, rng) for _ in range(2))
        log_u = first.ravel()
        log_error = (self.guide * first + np.sqrt(1 - self.guide**2) * second).ravel()
        count = log_u.size
        return Labels(
            force_delta=np.exp(log_u),
            epsilon=TOLERANCE * np.exp(0.5 * (log_error - norm.isf(self.bad))),
            force_rms=np.ones(count),
            energy=np.full(count, np.nan),
            source=[f"run {run}" for run in range(kind.runs) for _ in range(kind.frames)],
            time=np.full(count, np.nan) if kind.timeless else times.ravel(),
            model={"name": "simulated", "weights_hash": "0"},
            reference=None,
        )


def _times(kind: Runs, rng: np.random.Generator) -> Array:
    """Times in frames [runs, frames]."""
    shape = (kind.runs, kind.frames)
    steps = rng.integers(1, 21, shape) if kind.selected else np.ones(shape)
    return np.cumsum(steps, axis=1).astype(float)


def _processes(kind: Runs, times: Array, rng: np.random.Generator) -> Array:
    """Normal numbers [runs, frames] of variance 1, correlated in time and within runs."""
    memory = np.exp(-np.diff(times, axis=1) / kind.tau)
    value = rng.normal(size=kind.runs)
    rows = [value]
    for step in memory.T:
        value = step * value + np.sqrt(1 - step**2) * rng.normal(size=kind.runs)
        rows.append(value)
    offset = rng.normal(size=(kind.runs, 1))
    return np.asarray(np.sqrt(kind.icc) * offset + np.sqrt(1 - kind.icc) * np.array(rows).T)


def broken(
    kind: Runs, world: World, risk: float, repeats: int, seed: int = 0
) -> tuple[float, float, float]:
    """Shares of draws: guarantee broken with all labels independent, broken, and thresholds found."""
    rng = np.random.default_rng(seed)
    naive = wrong = found = 0
    for _ in range(repeats):
        labels = world.labels(kind, rng)
        u, error = labels.force_delta, labels.epsilon
        try:
            first = find_threshold(u, error, TOLERANCE, risk, CONFIDENCE)
            naive += not first.highest and world.risk(first.value) > risk
        except ForceDeltaError:
            pass
        try:
            second, _ = threshold(labels, TOLERANCE, risk, CONFIDENCE)
        except ForceDeltaError:
            continue
        found += 1
        wrong += world.risk(second.value) > risk
    return naive / repeats, wrong / repeats, found / repeats


def kinds() -> list[Runs]:
    """5 to 30 runs, correlation times of 1 to 100 frames, with and without offsets."""
    shapes = ((5, 100), (10, 40), (30, 16), (30, 100))
    table = [
        Runs(runs, frames, tau, icc)
        for (runs, frames), icc, tau in product(shapes, (0.0, 0.3), (1, 10, 100))
    ]
    table += [Runs(10, 60, tau, selected=True) for tau in (10, 100)]
    return [*table, Runs(10, 60, 10, timeless=True), Runs(1, 2000, 10), Runs(1, 500, 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--risk", type=float, default=0.15)
    parser.add_argument("--guide", type=float, default=0.8, help="correlation of log U, log error")
    parser.add_argument(
        "--bad", type=float, default=0.2, help="share of errors above the tolerance"
    )
    given = parser.parse_args()
    world = World(given.guide, given.bad)
    print("runs  frames  tau   icc   times     independent  now     thresholds")
    for kind in kinds():
        naive, wrong, found = broken(kind, world, given.risk, given.repeats)
        times = "unknown" if kind.timeless else "selected" if kind.selected else "all"
        print(
            f"{kind.runs:<6}{kind.frames:<8}{kind.tau:<6g}{kind.icc:<6g}{times:<10}"
            f"{naive:<13.3f}{wrong:<8.3f}{found:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
