"""The same physics as with ASE, from the same model."""

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from openmm import app
from simulations import Frames, cluster, crystal, loaded, simulation, topology_of, triclinic

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.openmm import add_force_delta, run
from md_hooks import run as run_ase


def both(make, forces, steps, timestep=1.0):
    """Frames of the same NVE run in ASE and in OpenMM; the time step in fs."""
    atoms = make()
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(4))
    velocities = atoms.get_velocities() * units.fs
    model = loaded()
    atoms.calc = ForceDeltaCalculator(model, forces=forces, dtype="float64")
    # OpenMM's leapfrog integrator takes the velocities of half a step before
    half = (
        velocities - 0.5 * timestep * units.fs**2 * atoms.get_forces() / atoms.get_masses()[:, None]
    )

    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    topology = topology_of(atoms)
    add_force_delta(system, model, topology, forces=forces, dtype="float64")
    made = app.Simulation(
        topology, system, openmm.VerletIntegrator(timestep / 1000),
        openmm.Platform.getPlatformByName("Reference"),
    )  # fmt: skip
    if atoms.pbc.all():
        made.context.setPeriodicBoxVectors(*(atoms.cell.array / 10))
    made.context.setPositions(atoms.positions / 10)
    made.context.setVelocities(half * 100)
    ase_frames, openmm_frames = Frames(), Frames()
    run(made, steps, [openmm_frames])
    run_ase(VelocityVerlet(atoms, timestep * units.fs), steps, [ase_frames])
    return ase_frames, openmm_frames


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize("make", [cluster, crystal, triclinic])
def test_openmm_moves_atoms_as_ase_does(make, forces):
    ase_frames, openmm_frames = both(make, forces, 100)
    assert len(ase_frames) == len(openmm_frames) == 101
    for one, other in zip(ase_frames, openmm_frames, strict=True):
        assert one.step == other.step
        assert one.time == pytest.approx(other.time)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-9)
        assert one.energy == pytest.approx(other.energy, abs=1e-10)
        assert one.force_delta == pytest.approx(other.force_delta, abs=1e-10)
        assert one.worst_atom == other.worst_atom
    moved = np.abs(ase_frames[-1].positions - ase_frames[0].positions).max()
    assert moved > 0.1, "nothing moved"


@pytest.mark.parametrize("make", [crystal, triclinic])
def test_conservative_forces_conserve_the_energy_in_both(make):
    """Kinetic energies of OpenMM at half steps, averaged to the step."""
    ase_frames, openmm_frames = both(make, "conservative", 600, timestep=0.5)

    def kinetic(frame):
        speed = frame.velocities / units.fs
        return 0.5 * float((frame.masses[:, None] * speed**2).sum())

    total = np.array([frame.energy + kinetic(frame) for frame in ase_frames])
    half = np.array([kinetic(frame) for frame in openmm_frames])
    leapfrog = [f.energy for f in openmm_frames[:-1]] + 0.5 * (half[:-1] + half[1:])
    for energies in (total, leapfrog):
        fifth = len(energies) // 5
        drift = energies[-fifth:].mean() - energies[:fifth].mean()
        assert abs(drift) < 5e-5 * 8, "more than 0.05 meV per atom"
    exchanged = np.ptp([frame.energy for frame in ase_frames])
    assert np.ptp(total) < 0.02 * exchanged


def test_units_are_openmms_own():
    """Energy and temperature of a frame against what OpenMM reports."""
    made, _ = simulation(cluster(), "LangevinMiddle")
    frames = Frames()
    run(made, 5, [frames])
    state = made.context.getState(energy=True)
    potential = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    assert potential == pytest.approx(frames[-1].energy * 96.485332, rel=1e-7)
    kinetic = state.getKineticEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    gas = openmm.unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
        openmm.unit.kilojoule_per_mole / openmm.unit.kelvin
    )
    assert frames[-1].temperature == pytest.approx(2 * kinetic / (24 * gas), rel=1e-5)
