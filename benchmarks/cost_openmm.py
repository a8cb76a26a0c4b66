"""Cost of steps with U in OpenMM relative to ASE, for periodic silicon.

PythonForce always, TorchForce if openmmtorch is installed. The engines alternate within each round,
which cancels drifts in the speed of the machine; medians of processor time over the rounds, one
thread. `python benchmarks/cost_openmm.py MODEL` takes another model.
"""

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import openmm
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from openmm import app, unit

import forcedelta.openmm
from forcedelta import LoadedModel, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.openmm.export import export
from md_hooks import attach


def ase_steps(atoms: Atoms, model: LoadedModel) -> Callable[[int], None]:
    """A native ASE run with hooks."""
    atoms = atoms.copy()
    atoms.calc = ForceDeltaCalculator(model)
    thermalize_momenta(atoms, 300)
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs)
    attach(dynamics, [lambda frame: None])
    return lambda steps: dynamics.run(steps)


def openmm_steps(atoms: Atoms, model: LoadedModel | Path, path: str) -> Callable[[int], None]:
    """The same in OpenMM."""
    topology = app.Topology()
    residue = topology.addResidue("SI", topology.addChain())
    system = openmm.System()
    for mass in atoms.get_masses():
        topology.addAtom("Si", app.Element.getBySymbol("Si"), residue)
        system.addParticle(mass)
    topology.setPeriodicBoxVectors(atoms.cell.array / 10 * unit.nanometer)
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    forcedelta.openmm.add_force_delta(system, model, topology, path=path)
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(atoms.positions / 10)
    simulation.context.setVelocitiesToTemperature(300)

    def make(steps: int) -> None:
        forcedelta.openmm.run(simulation, steps, [lambda frame: None])

    return make


def compare(model: LoadedModel, exported: Path | None, cells: int, steps: int, rounds: int) -> None:
    """Print a row."""
    atoms = bulk("Si", cubic=True).repeat(cells)
    atoms.rattle(0.03, seed=1)
    runs = {
        "ASE": ase_steps(atoms, model),
        "OpenMM PythonForce": openmm_steps(atoms, model, "python"),
    }
    if exported is not None:
        runs["OpenMM TorchForce"] = openmm_steps(atoms, exported, "torchscript")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, make in runs.items():
            start = time.process_time()
            make(steps)
            if turn >= 2:  # TorchScript optimises what it sees first
                times[name].append((time.process_time() - start) / steps)
    base = times["ASE"]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        median = 1000 * statistics.median(values)
        print(
            f"{len(atoms)} atoms  {name:<20} {median:8.2f} ms/step  {ratio:.3f} of ASE", flush=True
        )


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(sys.argv[1] if len(sys.argv) > 1 else "mlearn")
    with tempfile.TemporaryDirectory() as folder:
        exported: Path | None = Path(folder) / "model.pt"
        try:
            import openmmtorch  # noqa: F401
        except ImportError:
            print("openmmtorch cannot be imported: no TorchForce")
            exported = None
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
                export(model, exported)
        compare(model, exported, cells=2, steps=20, rounds=9)
        compare(model, exported, cells=4, steps=4, rounds=7)


if __name__ == "__main__":
    main()
