"""Ways of stepping in OpenMM under a ForceDeltaReporter: guarded, recorded, resumable, and at which cost.

    python benchmarks/openmm_stepping.py

Acetylacetone with the embedded model; a hook stops each run at step 40 of the 200 that are requested.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase.io
import numpy as np
import openmm
import torch
from openmm import app, unit

from forcedelta.openmm import ForceDeltaReporter, Monitor, add_force_delta, run
from md_hooks import Action, Frame, Recorder, RunStoppedError, Trajectory

STEPS, STOP = 200, 40
MOLECULE = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")


def simulation() -> tuple[app.Simulation, Monitor, app.Metadynamics]:
    topology = app.Topology()
    residue = topology.addResidue("ACA", topology.addChain())
    system = openmm.System()
    for symbol, mass in zip(MOLECULE.symbols, MOLECULE.get_masses(), strict=True):
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
        system.addParticle(mass)
    monitor = add_force_delta(system, "acac", topology)
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(1, 3, 4, 6)
    variable = app.BiasVariable(torsion, -np.pi, np.pi, 0.2, periodic=True)
    metadynamics = app.Metadynamics(system, [variable], 300 * unit.kelvin, 10.0, 4.0, 20)
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    made = app.Simulation(topology, system, integrator, platform)
    made.context.setPositions(MOLECULE.positions / 10)
    made.context.setVelocitiesToTemperature(300, 1)
    return made, monitor, metadynamics


def in_pieces(made: Any, metadynamics: Any) -> None:
    for _ in range(STEPS):
        made.step(1)


def tempering(made: Any, metadynamics: Any) -> None:
    sampler = app.SimulatedTempering(
        made,
        [t * unit.kelvin for t in (300, 330, 360)],
        tempChangeInterval=5,
        reportFile=io.StringIO(),
    )
    sampler.step(STEPS)


def bare(made: Any, metadynamics: Any) -> None:
    for _ in range(STEPS):
        made.integrator.step(1)


WAYS: dict[str, Callable[[Any, Any], None] | None] = {
    "openmm.run": None,
    "simulation.step": lambda made, metadynamics: made.step(STEPS),
    "simulation.step in a loop": in_pieces,
    "runForClockTime": lambda made, metadynamics: made.runForClockTime(1 * unit.hour),
    "Metadynamics.step": lambda made, metadynamics: metadynamics.step(made, STEPS),
    "SimulatedTempering.step": tempering,
    "integrator.step": bare,
}


def stop(frame: Frame) -> Action | None:
    return Action.STOP if frame.step == STOP else None


def measure(way: Callable[[Any, Any], None] | None, path: Path, backwards: list[int]) -> str:
    made, monitor, metadynamics = simulation()
    hooks = [stop, Recorder(path, every=10)]
    before = monitor.evaluations
    backwards.clear()
    if way is None:
        run(made, STEPS, hooks)
    else:
        reporter = ForceDeltaReporter(monitor, hooks)
        made.reporters.append(reporter)
        with contextlib.suppress(RunStoppedError):
            way(made, metadynamics)
        reporter.close()
    forwards, steps = monitor.evaluations - before, made.currentStep
    guarded = "yes" if steps == STOP else "no"
    cost = f"{forwards / steps:.2f} forward, {len(backwards) / steps:.2f} backward"
    if not path.exists():
        return f"{guarded} | no | no | {cost}"
    here = made.context.getState(positions=True, velocities=True)
    frames = len(Trajectory(path).series["step"])
    again, *_ = simulation()
    run(again, 0, [Recorder(path, mode="append")], restart=path)
    there = again.context.getState(positions=True, velocities=True)
    same = all(
        np.array_equal(getattr(here, name)(asNumpy=True), getattr(there, name)(asNumpy=True))
        for name in ("getPositions", "getVelocities")
    )
    return f"{guarded} | {frames} frames | {'exactly' if same else 'no'} | {cost}"


def main() -> None:
    backwards: list[int] = []
    grad = torch.autograd.grad

    def counted(*arguments: Any, **named: Any) -> Any:
        backwards.append(1)
        return grad(*arguments, **named)

    torch.autograd.grad = counted  # type: ignore[assignment]
    print("| way | guarded | recorded | resumable | passes per step |")
    print("|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for index, (name, way) in enumerate(WAYS.items()):
            print(
                f"| {name} | {measure(way, Path(folder) / f'{index}.h5', backwards)} |", flush=True
            )


if __name__ == "__main__":
    main()
