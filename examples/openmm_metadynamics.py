"""
Guarded metadynamics in OpenMM
==============================

Metadynamics of a torsion of acetylacetone in OpenMM, guarded by the Force Delta.

The bias turns the acetyl group out of the plane of the ring that the hydrogen bond closes, and thus away
from the structures that the model was trained on. The guard takes its threshold from 100 fs without bias,
and ends the metadynamics where U exceeds it.
"""

from pathlib import Path

import ase.io
import numpy as np
import openmm
from openmm import app, unit

import forcedelta
from forcedelta import Guard, Recorder, RunStoppedError

TORSION = (1, 3, 4, 6)  # C-C-C=O about the single bond of the enol

molecule = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
topology = app.Topology()
residue = topology.addResidue("ACA", topology.addChain())
system = openmm.System()
for symbol, mass in zip(molecule.symbols, molecule.get_masses(), strict=True):
    topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    system.addParticle(mass)

monitor = forcedelta.openmm.add_force_delta(system, "acac", topology)
torsion = openmm.CustomTorsionForce("theta")
torsion.addTorsion(*TORSION)
variable = app.BiasVariable(torsion, -np.pi, np.pi, 0.2, periodic=True)
temperature = 300 * unit.kelvin
metadynamics = app.Metadynamics(
    system, [variable], temperature, 10.0, 10 * unit.kilojoules_per_mole, frequency=10
)
integrator = openmm.LangevinMiddleIntegrator(
    temperature, 10 / unit.picosecond, 0.5 * unit.femtosecond
)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(
    topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
)
simulation.context.setPositions(molecule.positions / 10)
simulation.minimizeEnergy(maxIterations=20)
simulation.context.setVelocitiesToTemperature(temperature, 1)

hooks = [
    Guard(stop_above="auto", burn_in=200),
    Recorder("metadynamics.h5", every=1, mode="overwrite"),
]
reporter = forcedelta.openmm.ForceDeltaReporter(monitor, hooks)
simulation.reporters.append(reporter)
try:
    with reporter:
        simulation.step(200)
        metadynamics.step(simulation, 800)
except RunStoppedError:
    pass  # the simulation is in the state of the frame that stopped it

frames = ase.io.read("metadynamics.h5", ":")
turned = np.array([abs((frame.get_dihedral(*TORSION) + 180) % 360 - 180) for frame in frames])
u = np.array([frame.info["force_delta"] for frame in frames])
for low, high in ((0, 30), (30, 60), (60, 180)):
    inside = (turned >= low) & (turned < high)
    if inside.any():
        print(
            f"turned by {low} to {high} degrees: {inside.sum()} frames, median U = {np.median(u[inside]):.3f}, "
            f"largest {u[inside].max():.3f} eV/Å"
        )
filled = -metadynamics.getFreeEnergy().value_in_unit(unit.kilojoules_per_mole).min()
result = reporter.result
print(
    f"{result.reason} at step {result.step} ({result.time} fs), turned by {turned[-1]:.0f} degrees, the "
    f"basin filled to {filled:.0f} kJ/mol, {result.evaluations} evaluations {result.message}"
)
