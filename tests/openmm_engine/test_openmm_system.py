"""What may go into a System, and a System that is written to a file."""

import copy
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from openmm import app
from simulations import cluster, crystal, loaded, simulation, topology_of

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork
from forcedelta.openmm import add_force_delta, find_monitor, run


def system_of(count: int) -> openmm.System:
    system = openmm.System()
    for _ in range(count):
        system.addParticle(28.0)
    return system


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topology_or_numbers": [14] * 7}, "7 atoms but the System has 8 particles: pass the one"),
        ({"topology_or_numbers": [14] * 7 + [79]}, "does not support Au .*; choose a model"),
        ({"topology_or_numbers": [14] * 7 + [0]}, "particle 7 has no element"),
        ({"atoms": []}, "atoms is empty: pass"),
        ({"atoms": [0, 8]}, "particle 8, but the System has particles 0 to 7"),
        ({"atoms": [0, -1]}, "particle -1"),
        ({"atoms": [3, 3]}, "twice"),
        ({"forces": "both"}, "pass 'direct', 'conservative' or 'mts'"),
        ({"every": 0}, "every must be a whole number"),
        ({"every": 2, "forces": "conservative"}, "every must be 1 with conservative"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"device": "cuda:99"}, "cannot be used here"),
        ({"path": "rust"}, "path is 'rust'"),
        ({"model": loaded(periodic=True)}, "periodic in three directions"),
        ({"model": loaded(periodic=False), "periodic": True}, "made for molecules"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    arguments = {"model": loaded(), "topology_or_numbers": [14] * 8, **change}
    system = system_of(8)
    with pytest.raises(ForceDeltaError, match=message):
        add_force_delta(system, **arguments)
    assert system.getNumForces() == 0


def test_a_periodic_model_needs_a_box():
    topology = topology_of(cluster())
    with pytest.raises(ForceDeltaError, match=r"topology\.setPeriodicBoxVectors"):
        add_force_delta(system_of(8), loaded(periodic=True), topology, periodic=True)
    with pytest.raises(ForceDeltaError, match="periodic in three directions"):
        add_force_delta(system_of(8), loaded(periodic=True), topology)


def test_virtual_sites():
    system = system_of(3)
    system.setParticleMass(2, 0)
    system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(ForceDeltaError, match=r"particle 2 is a virtual site.*leave it out"):
        add_force_delta(system, loaded(), [14, 14, 14])
    add_force_delta(system, loaded(), [14, 14, 0], atoms=[0, 1])


def test_the_box_of_the_topology_counts():
    assert simulation(crystal())[1].periodic
    assert not simulation(cluster())[1].periodic


def test_a_molecules_model_in_a_part_of_a_periodic_system(frames):
    """Split by the box, the molecule is still one."""
    atoms = cluster()
    model = loaded(periodic=False)
    energies = []
    for shift in (0.0, 30.0):
        moved = atoms.copy()
        moved.positions[:4, 0] += shift
        system = system_of(9)
        system.setDefaultPeriodicBoxVectors((3, 0, 0), (0, 3, 0), (0, 0, 3))
        nonbonded = openmm.NonbondedForce()
        nonbonded.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        for _ in range(9):
            nonbonded.addParticle(0, 0.1, 0)
        system.addForce(nonbonded)
        monitor = add_force_delta(system, model, [14] * 9, atoms=range(8), dtype="float64")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001))
        context.setPositions(np.vstack([moved.positions, [[15, 15, 15]]]) / 10)
        energies.append(monitor.measure(context).energy)
    assert monitor.periodic
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def test_a_run_finds_its_force_or_says_what_to_do(frames):
    system = system_of(8)
    bare = app.Simulation(topology_of(cluster()), system, openmm.VerletIntegrator(0.001))
    with pytest.raises(ForceDeltaError, match=r"call forcedelta\.openmm\.add_force_delta"):
        run(bare, 1, [frames])
    add_force_delta(system, loaded(), [14] * 8)
    add_force_delta(system, loaded(), [14] * 8)
    with pytest.raises(ForceDeltaError, match="2 ForceDelta forces"):
        find_monitor(system)


@pytest.fixture
def model_file(tmp_path):
    torch.manual_seed(0)
    network = DirectForceNetwork([14], 4.0, features=16, channels=4, layers=1)
    path = tmp_path / "tiny.safetensors"
    metadata = dict.fromkeys(
        ("name", "training_set", "source", "level_of_theory", "regime", "licence"), "tiny"
    )
    save_network(path, network, {**metadata, "periodic": False, "tests": {}})
    return path


READ = """
import sys
import openmm
with open(sys.argv[1]) as file:
    system = openmm.XmlSerializer.deserialize(file.read())
context = openmm.Context(system, openmm.VerletIntegrator(0.001))
context.setPositions([[0.2 * i, 0.05 * i * i, 0.0] for i in range(8)])
try:
    state = context.getState(energy=True)
except openmm.OpenMMException as error:
    sys.exit(str(error))
print(repr(state.getPotentialEnergy()._value))
from forcedelta.openmm import find_monitor
print(find_monitor(system).measure(context).force_delta)
"""


def read_elsewhere(path):
    return subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_system_is_read_by_another_process(model_file, tmp_path):
    system = system_of(8)
    monitor = add_force_delta(system, str(model_file), [14] * 8)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    context.setPositions([[0.2 * i, 0.05 * i * i, 0.0] for i in range(8)])
    here = monitor.measure(context)
    there = read_elsewhere(tmp_path / "system.xml")
    assert there.returncode == 0, there.stderr
    energy, u = there.stdout.split()
    assert float(energy) == pytest.approx(here.openmm_energy)
    assert float(u) == pytest.approx(here.force_delta)
    model_file.unlink()
    missing = read_elsewhere(tmp_path / "system.xml")
    assert missing.returncode == 1
    assert "the model of this System cannot be loaded" in missing.stderr
    assert "tiny.safetensors" in missing.stderr


def test_a_copy_in_the_same_process_has_the_same_monitor(model_file):
    system = system_of(8)
    monitor = add_force_delta(system, str(model_file), [14] * 8)
    assert find_monitor(copy.deepcopy(system)) is monitor


def test_a_model_in_memory_cannot_be_serialised(model_file):
    torch.manual_seed(0)
    network = DirectForceNetwork([14], 4.0, features=16, channels=4, layers=1)
    system = system_of(8)
    add_force_delta(system, ForceDelta(network), [14] * 8)
    with pytest.raises(openmm.OpenMMException, match="could not be pickled"):
        openmm.XmlSerializer.serialize(system)
