"""Cost of exact U and the hooks, relative to a run of the same model with direct forces only.

The runs alternate within each round, which cancels drifts in the speed of the machine; the medians
over the rounds are printed. One thread. `python benchmarks/cost_md.py --memory` also makes 10^5
steps and prints how the memory of the process grows.

`python benchmarks/cost_md.py --tuned FRAMES` measures models tuned on these frames instead: processor time
of a step beside that of the untuned model, in ASE and OpenMM.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from forcedelta import ForceDelta, load_model, tune
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.ensembles import Ensemble, EnsembleSettings, Ramp, prepare
from md_hooks import (
    Action,
    FlagStore,
    Frame,
    Guard,
    HookChain,
    Progress,
    Recorder,
    RunInfo,
    RunResult,
    Verdict,
    attach,
)

NEVER = 10**9  # every=NEVER: direct forces only, after the first evaluation
STEPS, ROUNDS = 60, 15
TUNED_STEPS, TUNED_ROUNDS = 48, 15  # a multiple of 8 inner steps
MONITORING = {
    "never": {"every": NEVER},
    "every 4th step": {"every": 4},
    "every step": {"every": 1},
    "mts, inner 8": {"forces": "mts", "inner": 8},
}


def acetylacetone() -> Atoms:
    return ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")


def silicon() -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def dynamics_of(atoms: Atoms, model: str, every: int) -> Langevin:
    atoms.calc = ForceDeltaCalculator(model, every=every)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.RandomState(1))
    return Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        rng=np.random.RandomState(2),
    )


def all_hooks(folder: Path, name: str) -> list[object]:
    return [
        Guard(stop_above=1e6, flag_above=1e5),
        Recorder(folder / f"{name}.h5"),
        FlagStore(folder / f"{name}.xyz"),
        Progress(),
    ]


def timed(work: object) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def passes(model: str, atoms: Atoms) -> float:
    """Forward and backward of the bare model over its forward, medians of calls in turn."""
    calculator = ForceDeltaCalculator(model)
    atoms = atoms.copy()
    atoms.calc = calculator
    atoms.get_potential_energy()
    graph = calculator._graph(atoms)
    module = calculator.model.module
    force_delta = ForceDelta(module)

    def forward() -> None:
        with torch.no_grad():
            module(*graph)

    for _ in range(20):
        forward()
        force_delta(*graph)
    pairs = [(timed(lambda: force_delta(*graph)), timed(forward)) for _ in range(200)]
    exact, direct = (statistics.median(column) for column in zip(*pairs, strict=True))
    return exact / direct


def compare(model: str, atoms: Atoms, folder: Path) -> None:
    runs = {
        "direct forces only": dynamics_of(atoms.copy(), model, NEVER),
        "U every 4th step": dynamics_of(atoms.copy(), model, 4),
        "U every step": dynamics_of(atoms.copy(), model, 1),
        "U every step, all hooks": dynamics_of(atoms.copy(), model, 1),
    }
    handle = attach(runs["U every step, all hooks"], all_hooks(folder, model))
    observe, spent = handle.chain.dispatch, []

    def watched(frame: Frame) -> Verdict:
        start = time.perf_counter()
        verdict = observe(frame)
        spent.append(time.perf_counter() - start)
        return verdict

    handle.chain.dispatch = watched
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, dynamics in runs.items():
            elapsed = timed(lambda dynamics=dynamics: dynamics.run(STEPS))
            if round_ > 0:  # the first one warms up
                seconds[name].append(elapsed / STEPS)
    handle.close()
    base = seconds["direct forces only"]
    print(f"\n{model}, {len(atoms)} atoms")
    print(f"  forward + backward over forward of the bare model: {passes(model, atoms):.2f}")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"  {name:26s} {1e3 * statistics.median(values):7.2f} ms/step   ratio {ratio:.2f}")
    share = np.mean(spent[STEPS:]) / statistics.median(seconds["U every step"])
    print(
        f"  hooks alone: {1e6 * np.mean(spent[STEPS:]):.0f} us/step, {100 * share:.1f} % of a step"
    )


def recorder_cost(atoms: int, folder: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(atoms, 3)) for _ in range(5)]
    recorder = Recorder(folder / f"recorder_{atoms}.h5", every=1)
    recorder.open(RunInfo())
    frames = 200
    start = time.perf_counter()
    for step in range(frames):
        frame = Frame(
            step=step,
            time=0.5 * step,
            numbers=np.full(atoms, 6),
            masses=np.full(atoms, 12.0),
            positions=arrays[0],
            velocities=arrays[1],
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            energy=-1.0,
            forces=arrays[2],
            temperature=300.0,
            force_delta=0.1,
            force_deltas=np.abs(arrays[3][:, 0]),
            direct_forces=arrays[3],
            conservative_forces=arrays[4],
        )
        recorder.observe(frame, Verdict(Action.CONTINUE))
    recorder.close(RunResult("finished", frames - 1, 0.5 * (frames - 1)))
    elapsed = time.perf_counter() - start
    size = (folder / f"recorder_{atoms}.h5").stat().st_size
    print(
        f"recorder, {atoms} atoms: {1e3 * elapsed / frames:.2f} ms and {size / frames / 1e3:.1f} kB a frame"
    )


def steps_in_ase(model: str, settings: dict[str, object]) -> Callable[[], None]:
    """A block of steps of a Langevin run with a hook."""
    atoms, ensemble = acetylacetone(), langevin()
    prepare(atoms, ensemble)
    atoms.calc = ForceDeltaCalculator(load_model(model), **settings)
    dynamics = Ensemble(atoms, ensemble).dynamics
    attach(dynamics, [lambda frame: None])
    return lambda: dynamics.run(TUNED_STEPS)


def steps_in_openmm(model: str, settings: dict[str, object]) -> Callable[[], None]:
    """The same in OpenMM."""
    from forcedelta.openmm.engine import OpenMMEngine

    atoms, ensemble = acetylacetone(), langevin()
    prepare(atoms, ensemble)
    engine = OpenMMEngine(atoms, ensemble, load_model(model), **settings)
    return lambda: engine.run(TUNED_STEPS, HookChain([lambda frame: None]), RunInfo())


def langevin() -> EnsembleSettings:
    return EnsembleSettings("langevin", Ramp(300.0, 300.0, 0, 0), 0.5, 100.0, 0.0, 1000.0, 1)


def compare_tuned(frames: Path, folder: Path) -> None:
    """Processor time of tuned models over that of the untuned one: they take turns, medians over rounds."""
    models = {"untuned": "acac-direct"}
    for reach in ("head", "energy"):
        models[reach] = str(folder / f"{reach}.pt")
        tune("acac-direct", frames, reach, models[reach], epochs=1)
    print("| engine | U | untuned, ms | head | energy |\n|---|---|---|---|---|")
    for engine, make in (("ASE", steps_in_ase), ("OpenMM", steps_in_openmm)):
        for words, settings in MONITORING.items():
            runs = {name: make(model, settings) for name, model in models.items()}
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for round_ in range(TUNED_ROUNDS + 1):
                for name, steps in runs.items():
                    start = time.process_time()
                    steps()
                    if round_ > 0:  # the first one warms up
                        seconds[name].append((time.process_time() - start) / TUNED_STEPS)
            base = seconds["untuned"]
            row = [f"{1e3 * statistics.median(base):.2f}"]
            for name in ("head", "energy"):
                ratios = [a / b for a, b in zip(seconds[name], base, strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                row.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
            print(f"| {engine} | {words} | {' | '.join(row)} |", flush=True)


def memory(folder: Path) -> None:
    dynamics = dynamics_of(acetylacetone(), "acac", 1)
    handle = attach(dynamics, all_hooks(folder, "memory"))
    for _ in range(10):
        dynamics.run(10_000)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"after {dynamics.nsteps} steps: peak memory {peak / 1024:.0f} MiB", flush=True)
    handle.close()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--memory", action="store_true", help="10^5 steps; minutes")
parser.add_argument("--tuned", type=Path, help="frames to tune acac-direct on; minutes")
arguments = parser.parse_args()
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as name:
    if arguments.tuned is not None:
        compare_tuned(arguments.tuned, Path(name))
    else:
        compare("acac", acetylacetone(), Path(name))
        compare("mlearn", silicon(), Path(name))
        print()
        for count in (15, 1000):
            recorder_cost(count, Path(name))
        if arguments.memory:
            memory(Path(name))
