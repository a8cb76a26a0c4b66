"""Frames of a part of a System with the particles around it."""

from __future__ import annotations

import copy
from typing import Any

import ase.io
import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from openmm import app, unit
from simulations import Frames, loaded

from forcedelta import ForceDeltaError
from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork
from forcedelta.openmm import Monitor, add_force_delta, find_monitor, run
from md_hooks import FlagStore, Guard, Recorder, Trajectory
from md_hooks.environment import Environment

MODELLED = [3, 4, 5]
CHARGES = {"tip3p.xml": {8: -0.834, 1: 0.417}, "tip4pew.xml": {8: 0.0, 1: 0.52422, 0: -1.04844}}


@pytest.fixture(scope="module")
def model():
    """A network for water with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DirectForceNetwork([1, 8], 4.0, features=16, channels=4, layers=1)
        network.energy_scale.mul_(0.01)
    return loaded(network.requires_grad_(False).eval(), elements=frozenset({1, 8}), periodic=False)


@pytest.fixture
def saved(tmp_path):
    """Such a network in a file: a model in memory cannot be serialised with its force."""
    network = DirectForceNetwork([1, 8], 4.0, features=16, channels=4, layers=1)
    fields = ("name", "training_set", "source", "level_of_theory", "regime", "licence")
    metadata = {**dict.fromkeys(fields, "tiny"), "periodic": False, "tests": {}}
    save_network(tmp_path / "water.safetensors", network, metadata)
    return tmp_path / "water.safetensors"


def water(kind: str = "tip3p.xml", **settings: Any) -> tuple[app.Topology, Any, openmm.System]:
    """Topology, positions and System of a small box; the first molecules are the model's."""
    forcefield = app.ForceField(kind)
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    box = openmm.Vec3(1.5, 1.5, 1.5) * unit.nanometer
    modeller.addSolvent(forcefield, model=kind.removesuffix(".xml"), boxSize=box)
    options = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.7 * unit.nanometer, **settings}
    return (
        modeller.topology,
        modeller.positions,
        forcefield.createSystem(modeller.topology, **options),
    )


@pytest.fixture(scope="module")
def box():
    return water()


def simulation(
    given: tuple[app.Topology, Any, openmm.System],
    model: Any,
    atoms: list[int] = MODELLED,
    **options: Any,
) -> tuple[app.Simulation, Monitor]:
    topology, positions, system = given
    system = copy.deepcopy(system)
    platform = openmm.Platform.getPlatformByName(options.pop("platform", "CPU"))
    options = {"environment": True, **options}
    monitor = add_force_delta(system, model, topology, atoms, **options)
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
    integrator.setRandomNumberSeed(1)
    made = app.Simulation(topology, system, integrator, platform)
    made.context.setPositions(positions)
    made.context.setVelocitiesToTemperature(300, 1)
    return made, monitor


class Watched(Frames):
    """Frames, with what the context has when each of them is shown."""

    def __init__(self, context: openmm.Context) -> None:
        super().__init__()
        self.context = context
        self.positions: list[np.ndarray] = []

    def observe(self, frame: Any, verdict: Any) -> None:
        super().observe(frame, verdict)
        state = self.context.getState(positions=True)
        self.positions.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))


@pytest.mark.parametrize("kind", CHARGES)
def test_the_other_particles_of_each_frame(kind, model, tmp_path):
    """TIP4P has its charge on a virtual site without an element; that of the model's own is left out."""
    given = water(kind)
    numbers = np.array(
        [0 if atom.element is None else atom.element.atomic_number for atom in given[0].atoms()]
    )
    size = 4 if kind.startswith("tip4p") else 3
    made, _ = simulation(given, model, [size, size + 1, size + 2])
    frames = Watched(made.context)
    result = run(made, 20, [frames, Recorder(tmp_path / "r.h5", every=1)])
    assert 20 <= result.evaluations <= 21
    others = np.delete(np.arange(len(numbers)), range(size, 2 * size))
    trajectory = Trajectory(tmp_path / "r.h5")
    for frame, read, positions in zip(frames, trajectory.frames(), frames.positions, strict=True):
        found = frame.environment
        assert frame.system_particles == len(numbers)
        np.testing.assert_array_equal(found.numbers, numbers[others])
        np.testing.assert_allclose(found.positions, positions[others], rtol=1e-12)
        np.testing.assert_allclose(found.charges, [CHARGES[kind][z] for z in found.numbers])
        np.testing.assert_allclose(found.cell, np.eye(3) * 15.0)
        assert set(np.unique(found.molecules, return_counts=True)[1]) == {size}
        np.testing.assert_array_equal(read.environment.positions, found.positions)
    assert not np.array_equal(frames[0].environment.positions, frames[20].environment.positions)
    settings = trajectory.metadata["settings"]
    assert (settings["system_particles"], settings["environment"]) == (len(numbers), True)


def test_without_environment_a_frame_says_that_it_is_a_part(box, model, frames, tmp_path):
    made, _ = simulation(box, model, environment=False)
    run(made, 2, [frames, Recorder(tmp_path / "r.h5")])
    assert frames[0].environment is None
    assert Trajectory(tmp_path / "r.h5").frame(0).system_particles == made.system.getNumParticles()


def test_the_run_is_the_same_with_and_without(box, model):
    ends = []
    for environment in (True, False):
        made, monitor = simulation(box, model, environment=environment, platform="Reference")
        frames = Frames()
        before = monitor.evaluations
        run(made, 10, [frames])
        ends.append((frames[-1].positions, frames[-1].force_delta, monitor.evaluations - before))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def test_charges_with_parameter_offsets(box, model, frames):
    topology, positions, system = copy.deepcopy(box)
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force.addGlobalParameter("scale", 0.25)
    force.addParticleParameterOffset("scale", 0, 0.4, 0.0, 0.0)
    made, _ = simulation((topology, positions, system), model)
    run(made, 1, [frames])
    assert frames[0].environment.charges[0] == pytest.approx(-0.834 + 0.25 * 0.4)


def test_a_system_without_periodicity(model, frames):
    given = water(nonbondedMethod=app.NoCutoff)
    made, _ = simulation(given, model, periodic=False)
    run(made, 1, [frames])
    assert not frames[0].environment.cell.any()


def test_a_system_read_back_from_xml_keeps_its_environment(box, saved, frames):
    topology, positions, system = copy.deepcopy(box)
    monitor = add_force_delta(system, saved, topology, MODELLED, environment=True)
    text = openmm.XmlSerializer.serialize(system)
    token = monitor.token
    del monitor, system
    read = openmm.XmlSerializer.deserialize(text)
    assert find_monitor(read).token == token
    made = app.Simulation(topology, read, openmm.VerletIntegrator(0.0005))
    made.context.setPositions(positions)
    run(made, 1, [frames])
    assert len(frames[0].environment) == read.getNumParticles() - 3


class TestRefusals:
    """One line each, before the first step."""

    def test_a_model_of_all_particles(self, box, model):
        with pytest.raises(ForceDeltaError, match="the model sees all particles"):
            simulation(box, model, list(range(box[2].getNumParticles())))

    @pytest.mark.parametrize("count", [0, 2])
    def test_no_charges(self, count, box, model):
        topology, positions, system = copy.deepcopy(box)
        index = next(
            i for i, f in enumerate(system.getForces()) if isinstance(f, openmm.NonbondedForce)
        )
        if count:
            system.addForce(copy.deepcopy(system.getForce(index)))
        else:
            system.removeForce(index)
        made, _ = simulation((topology, positions, system), model)
        with pytest.raises(ForceDeltaError, match=f"NonbondedForce, and it has {count} of them"):
            run(made, 1, [])

    def test_charges_of_zero(self, box, model):
        topology, positions, system = copy.deepcopy(box)
        (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
        for particle in range(system.getNumParticles()):
            force.setParticleParameters(particle, 0.0, 0.3, 0.1)
        made, _ = simulation((topology, positions, system), model)
        with pytest.raises(ForceDeltaError, match="all of them are 0"):
            run(made, 1, [])

    def test_a_bond_that_is_cut(self, box, model):
        made, _ = simulation(box, model, [3, 4])
        with pytest.raises(ForceDeltaError, match="particle 5 belongs to a molecule of which"):
            run(made, 1, [])


@pytest.mark.parametrize("interpolate", [False, True])
def test_mixed_systems_of_openmm_ml(interpolate, box, saved, tmp_path):
    """From the run to flagged frames, which hold what a reference needs."""
    openmmml = pytest.importorskip("openmmml", reason="needs openmm-ml")
    topology, positions, system = box
    potential = openmmml.MLPotential("forcedelta", model=saved, environment=True)
    mixed = potential.createMixedSystem(topology, system, MODELLED, interpolate=interpolate)
    made = app.Simulation(topology, mixed, openmm.VerletIntegrator(0.0005))
    made.context.setPositions(positions)
    frames = Frames()
    run(made, 2, [Guard(flag_above=0.0), frames, FlagStore(tmp_path / "flagged.xyz")])
    flagged = ase.io.read(tmp_path / "flagged.xyz", ":")
    assert len(flagged) == 3
    for atoms, frame in zip(flagged, frames, strict=True):
        found, expected = Environment.of(atoms), frame.environment
        assert len(found) == mixed.getNumParticles() - 3
        np.testing.assert_array_equal(found.positions, expected.positions)
        np.testing.assert_array_equal(found.charges, expected.charges)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_the_path_of_torchscript(box, model, frames, tmp_path):
    pytest.importorskip("openmmtorch", reason="needs openmmtorch and torch 2.9")
    from forcedelta.openmm.export import export

    export(model, tmp_path / "water.pt", dtype="float32")
    options = {"platform": "Reference"}
    made, _ = simulation(box, tmp_path / "water.pt", path="torchscript", **options)
    run(made, 3, [frames])
    expected = Frames()
    run(simulation(box, model, **options)[0], 3, [expected])
    for one, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(one.environment.charges, other.environment.charges)
        np.testing.assert_allclose(
            one.environment.positions, other.environment.positions, rtol=0, atol=1e-5
        )
