"""
A model for a molecule in water (ML/MM)
=======================================

ML/MM: acetylacetone with its own model in a box of TIP3P water, 1000 guarded steps.

Needs ``pip install '.[openmm-ml]'``. The molecule's energy and forces come from the model, those
of the water and of its interaction with the molecule from OpenMM's Amber files. For the interaction the
molecule has Amber's Lennard-Jones types and typical charges of its functional groups.
"""

import copy
from io import StringIO
from pathlib import Path

import ase.io
import openmm
from openmm import app, unit
from openmmml import MLPotential

import forcedelta
from forcedelta import Guard, Recorder

MOLECULE = """
<ForceField><Residues><Residue name="ACA">
  <Atom name="C0" type="protein-CT" charge="-0.18"/>  <Atom name="C1" type="protein-C" charge="0.15"/>
  <Atom name="O2" type="protein-OH" charge="-0.585"/> <Atom name="C3" type="protein-CA" charge="-0.115"/>
  <Atom name="C4" type="protein-C" charge="0.47"/>    <Atom name="C5" type="protein-CT" charge="-0.18"/>
  <Atom name="O6" type="protein-O" charge="-0.47"/>   <Atom name="H7" type="protein-HC" charge="0.06"/>
  <Atom name="H8" type="protein-HC" charge="0.06"/>   <Atom name="H9" type="protein-HC" charge="0.06"/>
  <Atom name="H10" type="protein-HO" charge="0.435"/> <Atom name="H11" type="protein-HA" charge="0.115"/>
  <Atom name="H12" type="protein-HC" charge="0.06"/>  <Atom name="H13" type="protein-HC" charge="0.06"/>
  <Atom name="H14" type="protein-HC" charge="0.06"/>
  {bonds}
</Residue></Residues></ForceField>
"""
BONDS = [
    (0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (4, 6), (0, 7), (0, 8), (0, 9), (2, 10), (3, 11),
    (5, 12), (5, 13), (5, 14),
]  # fmt: skip

molecule = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
topology = app.Topology()
residue = topology.addResidue("ACA", topology.addChain())
atoms = [
    topology.addAtom(f"{symbol}{index}", app.Element.getBySymbol(symbol), residue)
    for index, symbol in enumerate(molecule.symbols)
]
for first, second in BONDS:
    topology.addBond(atoms[first], atoms[second])
lines = "".join(
    f'<Bond atomName1="{atoms[a].name}" atomName2="{atoms[b].name}"/>' for a, b in BONDS
)
forcefield = app.ForceField(
    "amber14-all.xml", "amber14/tip3p.xml", StringIO(MOLECULE.format(bonds=lines))
)
modeller = app.Modeller(topology, molecule.positions / 10 * unit.nanometer)
modeller.addSolvent(forcefield, model="tip3p", boxSize=openmm.Vec3(2, 2, 2) * unit.nanometer)
mm_system = forcefield.createSystem(
    modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer
)
ml_atoms = list(range(len(molecule)))


def make_simulation(system: openmm.System) -> app.Simulation:
    """Langevin dynamics at 300 K; the time step resolves the vibrations of the molecule's hydrogens."""
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    return app.Simulation(modeller.topology, system, integrator, platform, {"Threads": "1"})


# relax the water around the fixed molecule
frozen = copy.deepcopy(mm_system)
for index in ml_atoms:
    frozen.setParticleMass(index, 0)
relaxation = make_simulation(frozen)
relaxation.context.setPositions(modeller.positions)
relaxation.minimizeEnergy(maxIterations=100)
relaxed = relaxation.context.getState(positions=True).getPositions()

# the frames also hold the water, as point charges for reference calculations (forcedelta recalc)
potential = MLPotential("forcedelta", model="acac", environment=True)
system = potential.createMixedSystem(modeller.topology, mm_system, ml_atoms)
simulation = make_simulation(system)
simulation.context.setPositions(relaxed)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
result = forcedelta.openmm.run(
    simulation,
    1000,
    hooks=[
        Guard(stop_above=0.3, flag_above=0.1),
        Recorder("mlmm.h5", mode="overwrite"),
    ],
)
waters = (modeller.topology.getNumAtoms() - len(molecule)) // 3
print(
    f"{result.reason} at step {result.step} ({result.time} fs) in {waters} waters, "
    f"U of the molecule = {result.force_delta:.3f} eV/Å, {result.evaluations} evaluations "
    f"{result.message}"
)
