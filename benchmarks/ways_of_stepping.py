"""Ways to step in ASE: whether each is guarded, recorded and resumable, and what it evaluates.

    python benchmarks/ways_of_stepping.py

guarded      a hook that says stop at step 10 ends it there, with that frame the last one on disk
recorded     every configuration that was evaluated as a step is in the file
resumable    left at step 10 and continued from the file in the same way, it ends where an uninterrupted one
             does, to 1e-9 Å; an optimiser whose Hessian begins anew takes another path to its minimum
passes       forward and backward passes per step, the first configuration counted as a step; without
             hooks they are the same

A small untrained network and acetaldehyde; one thread, seconds.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, optimize, units
from ase.build import molecule
from ase.md.contour_exploration import ContourExploration
from ase.md.switch_langevin import SwitchLangevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize.basin import BasinHopping
from ase.optimize.minimahopping import MinimaHopping
from ase.optimize.sciopt import SciPyFminCG

from forcedelta import ForceDelta, ForceDeltaCalculator
from forcedelta.integrators import Langevin, MTSBussi, MTSLangevin, MTSVelocityVerlet
from forcedelta.models.network import DirectForceNetwork
from md_hooks import (
    Action,
    Frame,
    Hook,
    HookError,
    Recorder,
    RunInfo,
    RunStoppedError,
    Trajectory,
    attach,
    load_checkpoint,
    restore,
    run,
)

STEPS, HALF, INNER = 20, 10, 4
FS = units.fs


class Passes(torch.nn.Module):
    """Counts the forward and backward passes of a network."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.cutoff = network.cutoff
        self.forwards = self.backwards = 0

    def forward(self, *graph: Any) -> Any:
        self.forwards += 1
        energy, forces = self.network(*graph)
        if energy.requires_grad:
            energy.register_hook(self._count)
        return energy, forces

    def _count(self, gradient: torch.Tensor) -> None:
        self.backwards += 1


class StopAt(Hook):
    """Stops at a step; at none with None."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def __call__(self, frame: Frame) -> Action | None:
        return Action.STOP if frame.step == self.step else None


def system(forces: str = "direct") -> tuple[Atoms, Passes]:
    """Acetaldehyde with momenta and a network with random weights, the same each time."""
    torch.manual_seed(0)
    network = DirectForceNetwork([1, 6, 8], 4.0, features=8, channels=4, layers=1, radial=4)
    network.energy_scale.fill_(10.0)
    model = Passes(network.double())
    atoms = molecule("CH3CHO")
    atoms.rattle(0.05, seed=0)
    inner = INNER if forces == "mts" else 1
    atoms.calc = ForceDeltaCalculator(
        ForceDelta(model), forces=forces, dtype="float64", inner=inner  # type: ignore[arg-type]
    )  # fmt: skip
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    return atoms, model


def langevin(atoms: Atoms, kelvin: float = 300) -> Any:
    rng = np.random.default_rng(1)
    return Langevin(atoms, 0.5 * FS, temperature_K=kelvin, friction=0.02 / FS, fixcm=False, rng=rng)


def verlet(atoms: Atoms) -> Any:
    return VelocityVerlet(atoms, 0.5 * FS)


def mts(atoms: Atoms, name: str) -> Any:
    rng = np.random.default_rng(1)
    if name == "nve":
        return MTSVelocityVerlet(atoms, 0.25 * FS)
    if name == "bussi":
        return MTSBussi(atoms, 0.25 * FS, 300, 20 * FS, rng=rng)
    return MTSLangevin(
        atoms, 0.25 * FS, temperature_K=300, friction=0.05 / FS, fixcm=False, rng=rng
    )


def contour(atoms: Atoms) -> Any:
    atoms.get_potential_energy()
    rng = np.random.default_rng(1)
    return ContourExploration(atoms, maxstep=0.05, parallel_drift=0.05, logfile=None, rng=rng)


def switch(atoms: Atoms) -> Any:
    second = ForceDeltaCalculator(atoms.calc.model, dtype="float64")
    return SwitchLangevin(
        atoms, atoms.calc, second, 0.5 * FS, temperature_K=300, friction=0.02 / FS, n_eq=STEPS // 2,
        n_switch=STEPS // 2 + 1, fixcm=False, rng=np.random.default_rng(1),
    )  # fmt: skip


# --- ways ----------------------------------------------------------------------------------------

Way = Callable[[Any, int, list[Any], RunInfo], None]


def by_run(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    run(dynamics, steps, hooks, info)


def by_run_of_an_optimiser(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    run(dynamics, steps, hooks, info, fmax=1e-12)


def by_its_own_run(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with attach(dynamics, hooks, info):
        dynamics.run(steps)


def by_irun(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with attach(dynamics, hooks, info):
        for _ in dynamics.irun(steps):
            pass


def by_single_steps(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with attach(dynamics, hooks, info) as handle:
        for _ in range(steps):
            if handle.verdict is None:
                dynamics.run(1)


def by_observers(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with attach(dynamics, hooks, info) as handle:
        dynamics.atoms.get_forces()
        dynamics.call_observers()
        for _ in range(steps):
            if handle.verdict is None:
                dynamics.step()
                dynamics.nsteps += 1
                dynamics.call_observers()


def by_legs(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    for leg in range(5):
        result = run(dynamics, steps // 5, hooks, info if leg == 0 else None)
        if result.reason == "stopped":
            break


def by_legs_with_new_dynamics(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    for leg in range(5):
        result = run(dynamics, steps // 5, hooks, info if leg == 0 else None)
        if result.reason == "stopped":
            break
        dynamics = verlet(dynamics.atoms)


def by_bare_steps(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with attach(dynamics, hooks, info):
        for _ in range(steps):
            dynamics.step()


def by_run_alone(dynamics: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with contextlib.suppress(RunStoppedError), attach(dynamics, hooks, info):
        dynamics.run()


def by_hops(atoms: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    np.random.seed(0)  # noqa: NPY002 - ASE's
    with contextlib.suppress(RunStoppedError):
        BasinHopping(
            atoms, optimizer=_guarded(hooks), fmax=1e-12, logfile=None, trajectory=None, dr=0.1,
            optimizer_logfile=None, local_minima_trajectory=None,
        ).run(steps // 5)  # fmt: skip


def by_minima(atoms: Any, steps: int, hooks: list[Any], info: RunInfo) -> None:
    with contextlib.suppress(RunStoppedError):
        hopping = MinimaHopping(
            atoms, optimizer=_guarded(hooks), T0=300.0, rng=np.random.RandomState(0), mdmin=1
        )
        hopping(totalsteps=4)


def _guarded(hooks: list[Any]) -> Any:
    class Guarded(optimize.FIRE):
        def run(self, fmax: float = 0.05, steps: int = 4) -> Any:
            with attach(self, hooks):
                return super().run(fmax, steps)

    return Guarded


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A way of stepping."""

    name: str
    make: Callable[[Atoms], Any]
    way: Way
    forces: str = "direct"
    resumes: bool = True


MTS = [
    Row(f"MTS {name}, run", functools.partial(mts, name=name), by_run, "mts")
    for name in ("nve", "langevin", "bussi")
]
OPTIMISERS = [
    Row(f"{kind.__name__}, run(fmax=...)", functools.partial(kind, logfile=None), by_run_of_an_optimiser,
        "conservative", resumes=kind is not SciPyFminCG)
    for kind in (optimize.FIRE, optimize.BFGS, optimize.BFGSLineSearch, SciPyFminCG)
]  # fmt: skip
ROWS = [
    Row("md_hooks.run", langevin, by_run),
    Row("attach, dynamics.run", langevin, by_its_own_run),
    Row("attach, loop over irun", langevin, by_irun),
    Row("attach, loop over run(1)", langevin, by_single_steps),
    Row("attach, loop of step and call_observers", langevin, by_observers),
    Row("legs: run 5 times, one dynamics", langevin, by_legs),
    Row("legs: run 5 times, a new dynamics each", verlet, by_legs_with_new_dynamics),
    *MTS,
    Row("contour exploration, run", contour, by_run),
    *OPTIMISERS,
    Row("SwitchLangevin, attach", switch, by_run_alone, resumes=False),
    Row("basin hopping, attach in its optimiser", lambda atoms: atoms, by_hops, resumes=False),
    Row("minima hopping, attach in its optimiser", lambda atoms: atoms, by_minima, resumes=False),
    Row("attach, loop of bare step()", langevin, by_bare_steps, resumes=False),
]


def measure(row: Row) -> str:
    """A line of the table."""
    atoms, model = system(row.forces)
    try:
        row.way(row.make(atoms), STEPS, [Recorder("whole.h5", mode="overwrite")], RunInfo())
    except HookError as error:
        return f"| {row.name} | refused: {error} ||||"
    whole = Trajectory("whole.h5")
    steps = whole.series["step"]
    evaluations = f"{model.forwards / len(steps):.2f} + {model.backwards / len(steps):.2f}"
    recorded = list(steps) == list(range(steps[0], steps[-1] + 1))
    return (
        f"| {row.name} | {_said(_is_guarded(row))} | {_said(recorded)}, {len(steps)} | "
        f"{_said(_is_resumed(row, whole)) if row.resumes else 'no'} | {evaluations} |"
    )


def _is_guarded(row: Row) -> bool:
    atoms, _ = system(row.forces)
    hooks = [StopAt(HALF), Recorder("stopped.h5", mode="overwrite")]
    row.way(row.make(atoms), STEPS, hooks, RunInfo())
    stopped = Trajectory("stopped.h5")
    return stopped.outcome["reason"] == "stopped" and stopped.frame(-1).step == HALF


def _is_resumed(row: Row, whole: Trajectory) -> bool:
    atoms, _ = system(row.forces)
    row.way(row.make(atoms), HALF, [Recorder("half.h5", mode="overwrite")], RunInfo())
    checkpoint = load_checkpoint("half.h5")
    atoms, _ = system(row.forces)
    dynamics = row.make(atoms)
    restore(dynamics, checkpoint)
    atoms.calc.count_from(checkpoint.step)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    row.way(dynamics, STEPS - HALF, [Recorder("half.h5", mode="append")], info)
    parts, frame = Trajectory("half.h5"), whole.frame(-1)
    away = np.abs(parts.frame(-1).positions - frame.positions).max()
    return parts.frame(-1).step == frame.step and bool(away < 1e-9)


def _said(holds: bool) -> str:
    return "yes" if holds else "no"


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| way | guarded | recorded, frames | resumable | forward + backward passes per step |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            place = Path(folder) / str(ROWS.index(row))
            place.mkdir()
            os.chdir(place)  # minima hopping writes where it is
            print(measure(row), flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
