"""What the ways to monitor a run cost and give, side by side in one run.

    python benchmarks/modes.py                              acac, NVE of 2 ps, 2 ramps: minutes on one core
    python benchmarks/modes.py --model mlearn --ps 5 --seeds 20

cost     processor time of a step without hooks over that with direct forces alone: the modes take
         turns, medians over rounds
drift    of the total energy in NVE runs from one state, equilibrated at 300 K with conservative forces
ramps    steps of 0.5 fs (Si: 1 fs) until U stops a Langevin run that is heated from 300 K to --ramp-to
         within 2000 steps. The threshold is the automatic one of 500 steps at 300 K with U at every step and
         the same seed. "-" was not stopped.

One thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from forcedelta import ForceDeltaCalculator, ForceDeltaError, guarded_run, load_model
from forcedelta.ensembles import Ensemble, EnsembleSettings, Ramp, prepare
from forcedelta.models import LoadedModel
from forcedelta.simulation.guarded import GuardedRunResult
from md_hooks import Drift, Frame, attach
from md_hooks.drift import CONSERVED_ENERGY, drift

EQUILIBRATION = 500.0  # fs
ROUNDS, ROUND = 12, 24  # steps of a round: a multiple of all numbers of inner steps
BURN_IN, RAMP = 500, 2000  # steps


@dataclass(frozen=True)
class Mode:
    """A way to run and monitor."""

    name: str
    forces: str = "direct"
    every: int | str = 1
    inner: int = 1

    def calculator(self, model: LoadedModel) -> ForceDeltaCalculator:
        return ForceDeltaCalculator(
            model,
            self.forces,
            every=self.every,
            inner=self.inner,  # type: ignore[arg-type]
        )


DIRECT = Mode("direct only", every=10**9)
EVERY_STEP = Mode("U at every step")
MODES = [
    DIRECT,
    EVERY_STEP,
    Mode("U at every 4th step", every=4),
    Mode("adaptive", every="adaptive"),
    Mode("mts, inner 4", "mts", inner=4),
    Mode("mts, inner 8", "mts", inner=8),
    Mode("conservative", "conservative"),
]


def structure(model: str) -> tuple[Atoms, float]:
    """A structure for a model, and a time step in fs."""
    if model != "mlearn":
        return ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"), 0.5
    atoms = bulk("Si", cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    return atoms, 1.0


def ensemble(name: str, timestep: float) -> EnsembleSettings:
    return EnsembleSettings(name, Ramp(300.0, 300.0, 0, 0), timestep, 50.0, 0.0, 1000.0, 1)


def available(model: LoadedModel) -> list[Mode]:
    found = []
    for mode in MODES:
        try:
            mode.calculator(model)
        except ForceDeltaError as error:
            print(f"{mode.name} is left out: {error}")
        else:
            found.append(mode)
    return found


def equilibrated(model: LoadedModel, atoms: Atoms, timestep: float) -> Atoms:
    atoms = atoms.copy()
    prepare(atoms, ensemble("langevin", timestep))
    atoms.calc = ForceDeltaCalculator(model, "conservative")
    Ensemble(atoms, ensemble("langevin", timestep)).dynamics.run(round(EQUILIBRATION / timestep))
    atoms.calc = None
    return atoms


def costs(model: LoadedModel, modes: list[Mode], start: Atoms, timestep: float) -> dict[str, Any]:
    """Median of ms per step, and of the ratio to direct forces in the same round, by mode."""
    runs = {}
    for mode in modes:
        atoms = start.copy()
        atoms.calc = mode.calculator(model)
        runs[mode.name] = Ensemble(atoms, ensemble("langevin", timestep)).dynamics
    rows = []
    for _ in range(ROUNDS + 1):
        row = {}
        for name, dynamics in runs.items():
            begun = time.process_time()
            dynamics.run(ROUND)
            row[name] = (time.process_time() - begun) / ROUND
        rows.append(row)
    rows = rows[1:]  # the first one warms up
    return {
        name: (
            1e3 * statistics.median(row[name] for row in rows),
            statistics.median(row[name] / row[DIRECT.name] for row in rows),
        )
        for name in runs
    }


def nve_drift(
    model: LoadedModel, mode: Mode, start: Atoms, timestep: float, ps: float
) -> Drift | None:
    atoms = start.copy()
    atoms.calc = mode.calculator(model)
    dynamics = Ensemble(atoms, ensemble("nve", timestep)).dynamics
    times: list[float] = []
    energies: list[float] = []

    def collect(frame: Frame) -> None:
        times.append(frame.time)
        energies.append(frame.extra[CONSERVED_ENERGY])

    with np.errstate(all="ignore"), attach(dynamics, [collect]):
        dynamics.run(round(1000 * ps / timestep))
    return drift(times, energies, len(atoms)) if np.isfinite(atoms.positions).all() else None


def guarded(
    mode: Mode, model: str, atoms: Atoms, timestep: float, steps: int, **options: Any
) -> GuardedRunResult:
    with tempfile.TemporaryDirectory() as folder:
        return guarded_run(
            atoms, model, steps, out=Path(folder) / "run.h5", burn_in=BURN_IN, timestep=timestep,
            forces=mode.forces, every=mode.every, inner=mode.inner,  # type: ignore[arg-type]
            record_every=1000, **options,
        )  # fmt: skip


def stopped(result: GuardedRunResult) -> str:
    """The step at which a ramp was stopped."""
    if result.reason == "stopped":
        return str(result.run.step)
    return "-" if result.reason == "finished" else f"fails ({result.run.message})"


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--model", choices=("acac", "acac-direct", "mlearn"), default="acac")
parser.add_argument("--ps", type=float, default=2.0, help="length of the NVE runs, ps")
parser.add_argument("--seeds", type=int, default=2, help="number of ramps")
parser.add_argument("--ramp-to", type=float, default=3000.0, help="end of the ramps, K")
arguments = parser.parse_args()
torch.set_num_threads(1)

loaded = load_model(arguments.model)
atoms, timestep = structure(arguments.model)
modes = available(loaded)
start = equilibrated(loaded, atoms, timestep)
print(
    f"{arguments.model}, {start.symbols}, {timestep:g} fs, NVE of {arguments.ps:g} ps", flush=True
)
cost = costs(loaded, modes, start, timestep)

stops: dict[str, list[str]] = {mode.name: [] for mode in modes}
for seed in range(1, arguments.seeds + 1):
    calm = guarded(
        EVERY_STEP, arguments.model, atoms, timestep, BURN_IN + 1, stop_above="auto", seed=seed
    )
    threshold = calm.policy["stop_threshold"]
    if threshold is None:
        print(f"seed {seed}: no threshold ({calm.run.message})")
        continue
    for mode in modes:
        if mode is not DIRECT:
            ramp = guarded(
                mode, arguments.model, atoms, timestep, RAMP,
                stop_above=threshold, ramp_to=arguments.ramp_to, seed=seed,
            )  # fmt: skip
            stops[mode.name].append(stopped(ramp))
stops[DIRECT.name] = ["no U"]

print(f"{'mode':20s} {'ms/step':>8s} {'cost':>6s}  {'drift':>30s}  ramp stopped at step")
for mode in modes:
    ms, ratio = cost[mode.name]
    found = nve_drift(loaded, mode, start, timestep, arguments.ps)
    words = "explodes" if found is None else str(found)
    print(
        f"{mode.name:20s} {ms:8.2f} {ratio:6.2f}  {words:>30s}  {' '.join(stops[mode.name])}",
        flush=True,
    )
