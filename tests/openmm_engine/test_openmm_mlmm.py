"""A model for a part of a system: openmm-ml and its mixed systems."""

from importlib.metadata import entry_points

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")
pytest.importorskip("openmmml", reason="needs openmm-ml")

import openmm
import torch
from openmm import app, unit
from openmm.mtsintegrator import MTSIntegrator
from openmmml import MLPotential
from simulations import Frames

from forcedelta import ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork
from forcedelta.openmm import find_monitor, run
from forcedelta.openmm.mlpotential import ForceDeltaPotentialFactory
from md_hooks import Guard, Recorder, Trajectory


@pytest.fixture
def model(tmp_path):
    """A network for water with random weights, in a file."""
    torch.manual_seed(0)
    network = DirectForceNetwork([1, 8], 4.0, features=16, channels=4, layers=1)
    network.energy_scale.mul_(0.01)
    path = tmp_path / "water.safetensors"
    metadata = dict.fromkeys(
        ("name", "training_set", "source", "level_of_theory", "regime", "licence"), "tiny"
    )
    save_network(path, network, {**metadata, "periodic": False, "tests": {}})
    return str(path)


@pytest.fixture(scope="module")
def water():
    """Topology, positions and force field of a small box of TIP3P water."""
    forcefield = app.ForceField("tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(forcefield, boxSize=openmm.Vec3(1.5, 1.5, 1.5) * unit.nanometer)
    system = forcefield.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.7 * unit.nanometer
    )
    return modeller.topology, modeller.positions, system


def test_the_entry_point():
    (found,) = (p for p in entry_points(group="openmmml.potentials") if p.name == "forcedelta")
    assert found.load() is ForceDeltaPotentialFactory


def test_importing_openmmml_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, openmmml; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_model():
    with pytest.raises(ForceDeltaError, match="model='NAME'"):
        MLPotential("forcedelta")


@pytest.mark.parametrize("interpolate", [False, True])
def test_mixed_system(model, water, interpolate, tmp_path, frames):
    topology, positions, mm_system = water
    atoms = [3, 4, 5]
    potential = MLPotential("forcedelta", model=model, dtype="float64")
    system = potential.createMixedSystem(topology, mm_system, atoms, interpolate=interpolate)
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(
        topology, system, integrator, openmm.Platform.getPlatformByName("CPU")
    )
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(300, 1)
    monitor = find_monitor(system)
    assert monitor.atoms.tolist() == atoms
    before = monitor.evaluations
    path = tmp_path / "run.h5"
    result = run(simulation, 10, [frames, Guard(stop_above=100.0), Recorder(path)])
    assert result.reason == "finished"
    assert monitor.evaluations - before <= 11
    molecule = frames[-1]
    assert molecule.numbers.tolist() == [8, 1, 1]
    # what the other forces do to these atoms is not known here, so the velocities are OpenMM's
    assert Trajectory(path).metadata["settings"]["velocity_offset"] == -0.5
    alone = ForceDeltaCalculator(model, dtype="float64")
    from ase import Atoms

    check = Atoms("OHH", molecule.positions, calculator=alone)
    np.testing.assert_allclose(check.get_forces(), molecule.forces, atol=1e-9)
    assert alone.results["force_delta"] == pytest.approx(molecule.force_delta)
    np.testing.assert_allclose(
        Trajectory(path).series["force_delta"], [frame.force_delta for frame in frames]
    )


def test_mixed_system_with_multiple_time_steps(model, water, frames, monkeypatch):
    """The molecule's slow force in a group of its own, the force field in the fast group."""
    backwards = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: backwards.append(1) or grad(*a, **k)
    )
    topology, positions, mm_system = water
    atoms, inner = [3, 4, 5], 4
    totals = {}
    for forces in ("mts", "conservative"):
        options = {"inner": inner} if forces == "mts" else {}
        potential = MLPotential(
            "forcedelta", model=model, dtype="float64", forces=forces, **options
        )
        system = potential.createMixedSystem(topology, mm_system, atoms, interpolate=False)
        integrator = MTSIntegrator(0.002, [(1, 1), (0, inner)])
        if forces == "conservative":
            integrator = openmm.VerletIntegrator(0.0005)
        simulation = app.Simulation(
            topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
        )
        simulation.context.setPositions(positions)
        simulation.context.applyConstraints(1e-8)
        state = simulation.context.getState(energy=True, forces=True)
        totals[forces] = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
        if forces == "mts":
            simulation.context.setVelocitiesToTemperature(300, 1)
            monitor = find_monitor(system)
            before = monitor.evaluations
            backwards.clear()
            result = run(simulation, 5, [frames])
            assert result.reason == "finished"
            assert (monitor.evaluations - before, len(backwards)) == (5 * inner, 5)
    assert totals["mts"][0] == pytest.approx(totals["conservative"][0], rel=1e-9)
    np.testing.assert_allclose(totals["mts"][1], totals["conservative"][1], rtol=0, atol=1e-3)
    assert all(frame.force_delta is not None for frame in frames)
    assert "conserved_energy" not in frames[0].extra, "the energy of the force field is not known"


def test_interpolation_with_multiple_time_steps_is_refused(model, water):
    topology, _, mm_system = water
    potential = MLPotential("forcedelta", model=model, forces="mts", inner=4)
    with pytest.raises(ForceDeltaError, match="use interpolate=False"):
        potential.createMixedSystem(topology, mm_system, [3, 4, 5], interpolate=True)


def test_a_whole_system(model):
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for symbol in ("O", "H", "H"):
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    potential = MLPotential("forcedelta", model=model, forces="conservative")
    system = potential.createSystem(topology, dtype="float64")
    simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.0005))
    simulation.context.setPositions([[0, 0, 0], [0.096, 0, 0], [-0.02, 0.09, 0]])
    frames = Frames()
    run(simulation, 3, [frames])
    np.testing.assert_array_equal(frames[2].forces, frames[2].conservative_forces)
