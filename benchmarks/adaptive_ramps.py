"""Heating ramps with U at every step and with adaptive monitoring, from the same seeds; and calm costs.

    python benchmarks/adaptive_ramps.py --model acac --seeds 20

Each ramp heats from 300 K until U passes the stop threshold, which is `TIMES` the 99 % quantile of U in a calm
run of the model. One line per seed: the step of both stops, the delay, the share of exact
evaluations, firings. Then the cost of calm runs at 300 K, relative to direct forces alone; the kinds
alternate within a round, and the medians over the rounds are printed. CPU time, one thread.
"""

import argparse
import statistics
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from forcedelta import ForceDeltaCalculator, LoadedModel, load_model
from md_hooks import Frame, Guard, RunResult, run

NEVER = 10**9  # every=NEVER: direct forces only, after the first evaluation
BLOCK, ROUNDS = 50, 40
TIMES = 5.0
STEPS = 4000
END = {"acac": 2500.0, "acac-direct": 2500.0, "mlearn": 6000.0}
TIMESTEP = {"acac": 0.5, "acac-direct": 0.5, "mlearn": 1.0}


def structure(model: str) -> Atoms:
    if model == "mlearn":
        atoms = bulk("Si", cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=1)
        return atoms
    return ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")


def dynamics_of(name: str, model: LoadedModel, every: object, seed: int) -> Langevin:
    atoms = structure(name)
    atoms.calc = ForceDeltaCalculator(model, every=every)
    atoms.set_constraint(FixCom())
    rng = np.random.default_rng(seed)
    thermalize_momenta(atoms, 300, rng=rng)
    return Langevin(
        atoms, TIMESTEP[name] * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=rng,
    )  # fmt: skip


def ramp(name: str, model: LoadedModel, every: object, seed: int, threshold: float) -> RunResult:
    dynamics = dynamics_of(name, model, every, seed)

    def heat(frame: Frame) -> None:
        share = min(1.0, (frame.step + 1) / STEPS)
        dynamics.set_temperature(temperature_K=300 + share * (END[name] - 300))

    with np.errstate(over="ignore", invalid="ignore"):
        result = run(dynamics, STEPS, [heat, Guard(stop_above=threshold)])
    if result.reason == "interrupted":
        raise SystemExit(f"seed {seed}: {result.message}")
    return result


def calm_quantile(name: str, model: LoadedModel) -> float:
    """99 % quantile of U in the first steps at 300 K, before the direct forces have heated much."""
    values: list[float] = []
    dynamics = dynamics_of(name, model, 1, 0)
    run(dynamics, 300, [lambda frame: values.append(frame.force_delta)])
    return float(np.quantile(values, 0.99))


def ramps(name: str, model: LoadedModel, seeds: list[int], threshold: float) -> None:
    delays, shares, missed = [], [], 0
    for seed in seeds:
        exact = ramp(name, model, 1, seed, threshold)
        adaptive = ramp(name, model, "adaptive", seed, threshold)
        counts = adaptive.monitoring
        assert counts is not None
        share = counts["exact_evaluations"] / counts["evaluations"]
        shares.append(share)
        if exact.reason != "stopped":
            outcome = "no stop"
        elif adaptive.reason != "stopped" or adaptive.step > exact.step + 1000:
            outcome = "MISSED"
            missed += 1
        else:
            delays.append(adaptive.step - exact.step)
            outcome = f"delay {delays[-1]}"
        print(
            f"seed {seed:3d}: stop at {exact.step:5d} exact, {adaptive.step:5d} adaptive, {outcome}; "
            f"{100 * share:4.1f} % exact, fired {counts['firings']}, {counts['false_firings']} false",
            flush=True,
        )
    late = sum(delay > 10 for delay in delays)
    print(
        f"{name}, stop above {threshold:.3g} eV/Å, {len(seeds)} ramps: {len(delays) + missed} stops, {missed} missed, "
        f"delays {min(delays, default=0)} to {max(delays, default=0)} steps ({late} above 10), "
        f"exact {100 * min(shares):.0f} to {100 * max(shares):.0f} %, median {100 * statistics.median(shares):.0f} %"
    )


def costs(name: str, model: LoadedModel, threshold: float, rounds: int) -> None:
    """Time of a step at 300 K of adaptive and exact runs over that of direct forces alone."""
    kinds = {"direct only": NEVER, "adaptive": "adaptive", "every step": 1}
    going = {kind: dynamics_of(name, model, every, 1) for kind, every in kinds.items()}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    guard = {kind: Guard(stop_above=None if kind == "direct only" else threshold) for kind in kinds}
    for dynamics in going.values():  # the start of adaptive monitoring is exact
        run(dynamics, 60, [])
    counts = going["adaptive"].atoms.calc.monitoring
    for _ in range(rounds):
        for kind, dynamics in going.items():
            start = time.process_time()
            result = run(dynamics, BLOCK, [guard[kind]])
            times[kind].append((time.process_time() - start) / BLOCK)
            if result.reason != "finished":
                raise SystemExit(f"{kind}: {result.message}")
    now = going["adaptive"].atoms.calc.monitoring
    made = {key: now[key] - counts[key] for key in now}
    base = statistics.median(times["direct only"])
    for kind, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["direct only"], strict=True))
        print(f"{name}, calm, {kind}: {1e3 * statistics.median(values):.3f} ms/step, {ratio:.3f}x")
    share = made["exact_evaluations"] / made["evaluations"]
    print(
        f"{name}, calm, adaptive: {100 * share:.1f} % exact, fired {made['firings']} in {made['evaluations']} steps "
        f"(direct only: {1e3 * base:.3f} ms/step)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(END), default="acac")
    parser.add_argument("--seeds", type=int, default=20, help="number of ramps; 0: costs only")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the costs; 0: ramps only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model, torch.float32)
    threshold = TIMES * calm_quantile(arguments.model, model)
    if arguments.rounds:
        costs(arguments.model, model, threshold, arguments.rounds)
    if arguments.seeds:
        first = arguments.first_seed
        ramps(arguments.model, model, list(range(first, first + arguments.seeds)), threshold)


if __name__ == "__main__":
    main()
