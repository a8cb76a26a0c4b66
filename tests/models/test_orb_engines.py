"""Orb models as TorchScript, in ASE and in OpenMM's PythonForce."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from openmm import app
from orb_networks import KINDS, STRUCTURES, acetaldehyde, graph, regressor, rock_salt, small

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models.orb.module import OrbModel
from forcedelta.models.orb.network import OrbNetwork
from forcedelta.openmm import add_force_delta, run
from forcedelta.openmm.export import export
from md_hooks import attach

pytestmark = [
    pytest.mark.usefixtures("silent"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]
KEYS = ("energy", "direct_forces", "conservative_forces", "force_deltas", "force_delta", "stress")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_scripted_is_the_model(kind: str, dtype: torch.dtype) -> None:
    """One script for structures of all sizes, with and without a cell, linear, or of one atom."""
    model = small(kind, dtype=dtype)
    assert model.script is not None
    scripted = torch.jit.script(ForceDelta(model.script()))
    eager = ForceDelta(model.module)
    linear = molecule("CO2")
    linear.rotate(40, (1, 2, 3))
    structures = [make() for make in STRUCTURES.values()]
    structures += [linear, molecule("H2"), Atoms("Ne"), bulk("Al", cubic=True) * (2, 2, 2)]
    # in float64, too, constants have float32 digits where torch's default dtype is float32
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-6}[dtype]
    for atoms in [*structures, *structures]:  # optimised from the second call on
        arguments = graph(atoms, model, dtype)
        one, other = (f(*arguments, stress=True) for f in (scripted, eager))
        for key in KEYS:
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=tolerance, equal_nan=True)


def test_scripted_second_derivatives() -> None:
    model = small("v3")
    assert model.script is not None
    positions, *rest = graph(acetaldehyde(), model)
    gradients = []
    for force_delta in (
        torch.jit.script(ForceDelta(model.script())),
        ForceDelta(model.module),
    ):
        live = positions.clone().requires_grad_(True)
        u = force_delta(live, *rest, create_graph=True)["force_delta"].sum()
        gradients.append(torch.autograd.grad(u, live)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-7)


def test_scripted_takes_one_structure() -> None:
    model = small("v3")
    assert model.script is not None
    scripted = torch.jit.script(model.script())
    with pytest.raises(torch.jit.Error, match="one structure at a time"):
        scripted(*graph([rock_salt(), rock_salt()], model))


def test_export_fixes_charge_and_spin(tmp_path: Any) -> None:
    with pytest.raises(ForceDeltaError, match="--charge and --spin"):
        export(small("omol"), tmp_path / "ion.pt", dtype="float64")
    atoms = acetaldehyde()
    export(small("omol"), tmp_path / "ion.pt", dtype="float64", charge=-1, spin=2)
    module = torch.jit.load(str(tmp_path / "ion.pt"))
    module.bind(torch.arange(len(atoms)), torch.tensor(atoms.numbers), False)
    energy, _ = module(torch.tensor(atoms.positions / 10))
    atoms.calc = ForceDeltaCalculator(small("omol"), dtype="float64")
    expected = atoms.get_potential_energy() * units.mol / units.kJ
    assert float(energy) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_dynamics_in_ase(kind: str, structure: str) -> None:
    """A step is an evaluation, and frames carry what the model expects of its errors."""
    atoms = STRUCTURES[structure]()
    atoms.calc = ForceDeltaCalculator(small(kind, dtype=torch.float32))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    frames: list[Any] = []
    handle = attach(dynamics, [frames.append])
    dynamics.run(5)
    handle.close()
    assert atoms.calc.evaluations == 6
    assert all(frame.force_delta > 0 for frame in frames)
    assert ("expected_error" in frames[0].extra) == (kind != "v2")


def simulation(atoms: Atoms, model: Any, **options: Any) -> app.Simulation:
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in atoms.numbers:
        topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(atoms.cell.array / 10 * openmm.unit.nanometer)
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
    add_force_delta(system, model, topology, dtype="float64", **options)
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    made = app.Simulation(topology, system, integrator, platform)
    made.context.setPositions(atoms.positions / 10)
    return made


@pytest.mark.parametrize("kind", ["v3", "omol"])
@pytest.mark.parametrize("make", [acetaldehyde, rock_salt])
def test_dynamics_in_openmm(make: Any, kind: str) -> None:
    """Each frame of a PythonForce is what the calculator says of its positions."""
    atoms = make()
    state = {name: int(atoms.info[name]) for name in ("charge", "spin") if kind == "omol"}
    frames: list[Any] = []
    run(simulation(atoms, small(kind), **state), 5, [frames.append])
    assert len(frames) == 6
    atoms.calc = ForceDeltaCalculator(small(kind), dtype="float64")
    for frame in frames:
        atoms.positions = frame.positions
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-9)
        assert frame.force_delta == pytest.approx(atoms.calc.results["force_delta"], abs=1e-9)
        assert frame.extra["expected_error"] == pytest.approx(
            atoms.calc.results["expected_errors"].mean(), abs=1e-9
        )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # its own look
def test_compiled_is_the_model_once_differentiable() -> None:
    """`torch.compile` as the loader of orb-models asks for it, up to the compiler of kernels.

    That one takes minutes; `benchmarks/orb_benchmark.py --compile` waits for it.
    """
    atoms = acetaldehyde()
    plain = small("v3", dtype=torch.float32)
    network = regressor("v3", dtype=torch.float32)
    network.compile(backend="aot_eager", dynamic=True)
    compiled = ForceDelta(OrbModel(OrbNetwork(network), compiled=True).eval())
    for make in (acetaldehyde, rock_salt):
        arguments = graph(make(), plain, torch.float32)
        one, other = compiled(*arguments), ForceDelta(plain.module)(*arguments)
        for key in ("energy", "direct_forces", "conservative_forces", "expected_errors"):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=2e-5)
    with pytest.raises(ForceDeltaError, match="second derivatives"):
        compiled(*graph(atoms, plain, torch.float32), create_graph=True)
