"""
Constant pressure in OpenMM
===========================

Silicon at 300 K and 1 bar in OpenMM with a Monte Carlo barostat, guarded by the Force Delta.
"""

import matplotlib.pyplot as plt
import openmm
from ase.build import bulk
from openmm import app, unit

import forcedelta
from forcedelta import Guard, Recorder, Trajectory

crystal = bulk("Si", cubic=True).repeat((2, 2, 2))
topology = app.Topology()
residue = topology.addResidue("SI", topology.addChain())
system = openmm.System()
for mass in crystal.get_masses():
    topology.addAtom("Si", app.Element.getBySymbol("Si"), residue)
    system.addParticle(mass)
topology.setPeriodicBoxVectors(crystal.cell.array / 10 * unit.nanometer)
system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())

# %%
# One call adds the model as a force of the system; barostat and integrator are OpenMM's own.

forcedelta.openmm.add_force_delta(system, "mlearn", topology)
barostat = openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin)
barostat.setRandomNumberSeed(1)
system.addForce(barostat)
integrator = openmm.LangevinMiddleIntegrator(
    300 * unit.kelvin, 10 / unit.picosecond, 1 * unit.femtosecond
)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(
    topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
)
simulation.context.setPositions(crystal.positions / 10)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
result = forcedelta.openmm.run(
    simulation,
    500,
    hooks=[Guard(stop_above="auto", burn_in=200, factor=3.0), Recorder("npt.h5", mode="overwrite")],
)
trajectory = Trajectory("npt.h5")
last = trajectory.frame(-1)
print(
    f"{result.reason} at step {result.step} ({result.time} fs), U = {result.force_delta:.3f} eV/Å, "
    f"cell {last.cell[0, 0]:.3f} Å, {result.evaluations} evaluations {result.message}"
)

# %%
# Cell and U along the run:

frames = list(trajectory.frames())
series = trajectory.series
figure, (cell, delta) = plt.subplots(2, sharex=True, figsize=(7, 4), layout="constrained")
cell.plot([frame.time for frame in frames], [frame.cell[0, 0] for frame in frames], ".-")
cell.set(ylabel="cell (Å)")
delta.plot(series["time"], series["force_delta"])
delta.set(xlabel="time (fs)", ylabel="U (eV/Å)")
figure.savefig("npt.png")
