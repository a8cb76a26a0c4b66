"""
Guarded molecular dynamics in OpenMM
====================================

Langevin dynamics of a molecule in OpenMM, guarded by the Force Delta.
"""

from pathlib import Path

import ase.io
import openmm
from openmm import app, unit

import forcedelta
from forcedelta import Guard, Recorder

molecule = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
topology = app.Topology()
residue = topology.addResidue("ACA", topology.addChain())
system = openmm.System()
for symbol, mass in zip(molecule.symbols, molecule.get_masses(), strict=True):
    topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    system.addParticle(mass)

forcedelta.openmm.add_force_delta(system, "acac", topology)
integrator = openmm.LangevinMiddleIntegrator(
    300 * unit.kelvin, 10 / unit.picosecond, 0.5 * unit.femtosecond
)
simulation = app.Simulation(
    topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
)
simulation.context.setPositions(molecule.positions / 10)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin)
# requesting energies at every step costs no second evaluation
simulation.reporters.append(
    app.StateDataReporter("nvt.csv", 1, step=True, potentialEnergy=True, temperature=True)
)
result = forcedelta.openmm.run(
    simulation,
    1000,
    hooks=[Guard(stop_above="auto", burn_in=500), Recorder("nvt.h5", mode="overwrite")],
)
print(
    f"{result.reason} at step {result.step} ({result.time} fs), U = {result.force_delta:.3f} eV/Å, "
    f"{result.evaluations} evaluations {result.message}"
)
