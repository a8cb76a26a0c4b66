"""
Guarded molecular dynamics in OpenMM
====================================

Langevin dynamics of a molecule in OpenMM, guarded by the Force Delta.
"""

from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import openmm
from openmm import app, unit

import forcedelta
from forcedelta import Guard, Recorder, Trajectory

molecule = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
topology = app.Topology()
residue = topology.addResidue("ACA", topology.addChain())
system = openmm.System()
for symbol, mass in zip(molecule.symbols, molecule.get_masses(), strict=True):
    topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    system.addParticle(mass)

# %%
# One call adds the model as a force of the system; everything else is OpenMM's own.

forcedelta.openmm.add_force_delta(system, "acac", topology)
integrator = openmm.LangevinMiddleIntegrator(
    300 * unit.kelvin, 10 / unit.picosecond, 0.5 * unit.femtosecond
)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(
    topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
)
simulation.context.setPositions(molecule.positions / 10)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
# requesting energies at every step costs no second evaluation
simulation.reporters.append(
    app.StateDataReporter("nvt.csv", 1, step=True, potentialEnergy=True, temperature=True)
)

# %%
# ``forcedelta.openmm.run`` takes the steps and hands each frame to the hooks.

guard = Guard(stop_above="auto", burn_in=500)
result = forcedelta.openmm.run(
    simulation, 1000, hooks=[guard, Recorder("nvt.h5", mode="overwrite")]
)
print(
    f"{result.reason} at step {result.step} ({result.time} fs), U = {result.force_delta:.3f} eV/Å, "
    f"{result.evaluations} evaluations {result.message}"
)

# %%
# Temperature and U of every step:

series = Trajectory("nvt.h5").series
figure, (hot, delta) = plt.subplots(2, sharex=True, figsize=(7, 4), layout="constrained")
hot.plot(series["time"], series["temperature"])
hot.set(ylabel="T (K)")
delta.plot(series["time"], series["force_delta"])
if guard.stop_threshold is not None:
    delta.axhline(guard.stop_threshold, color="tab:red")
delta.set(xlabel="time (fs)", ylabel="U (eV/Å)")
figure.savefig("nvt.png")
