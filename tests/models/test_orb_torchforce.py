"""Exported Orb models in the real TorchForce.

Runs where openmmtorch, its torch and orb-models are installed, in an environment of its own:
pip install '.[torchforce,orb]'
"""

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import app
from orb_networks import acetaldehyde, checkpoint, graph, rock_salt, small

from forcedelta import ForceDelta
from forcedelta.cli import status
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel, load_model
from forcedelta.openmm import add_force_delta, run
from forcedelta.openmm.export import export

pytest.importorskip(
    "openmmtorch",
    reason="needs pip install '.[torchforce,orb]'",
)
torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]
INTEGRATORS = {
    "Verlet": lambda: openmm.VerletIntegrator(0.0005),
    "LangevinMiddle": lambda: openmm.LangevinMiddleIntegrator(300, 5, 0.0005),
}


def simulation(atoms: Atoms, path: Path, integrator: str) -> app.Simulation:
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
    add_force_delta(system, path, topology, path="torchscript")
    engine = INTEGRATORS[integrator]()
    if integrator == "LangevinMiddle":
        engine.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    made = app.Simulation(topology, system, engine, platform)
    made.context.setPositions(atoms.positions / 10)
    made.context.setVelocitiesToTemperature(300, 2)
    return made


def compare(frames: list[Any], atoms: Atoms, model: LoadedModel, dtype: Any, close: float) -> None:
    """Every frame against the eager model at the frame's positions."""
    graphs = Graphs(model, dtype, torch.device("cpu"))
    for frame in frames:
        atoms.positions = frame.positions
        expected = ForceDelta(model.module)(*graphs.batch([atoms]))
        assert frame.force_delta == pytest.approx(float(expected["force_delta"]), abs=close)
        assert frame.energy == pytest.approx(float(expected["energy"]), abs=10 * close)
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            np.testing.assert_allclose(
                getattr(frame, name), expected[name].numpy(), rtol=0, atol=close
            )


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("make", [acetaldehyde, rock_salt])
@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_dynamics(kind: str, make: Any, integrator: str, tmp_path: Path) -> None:
    model = small(kind)
    export(model, tmp_path / "orb.pt", dtype="float64")
    frames: list[Any] = []
    result = run(simulation(make(), tmp_path / "orb.pt", integrator), 20, [frames.append])
    assert len(frames) == 21
    assert 20 <= result.evaluations <= 22
    assert len({frame.force_delta for frame in frames}) == 21
    # constants of the network have float32 digits there
    compare(frames, make(), model, torch.float64, 1e-6)


def test_charge_and_spin(tmp_path: Path) -> None:
    model = small("omol")
    export(model, tmp_path / "ion.pt", dtype="float64", charge=-1, spin=2)
    frames: list[Any] = []
    run(simulation(acetaldehyde(), tmp_path / "ion.pt", "Verlet"), 5, [frames.append])
    compare(frames, acetaldehyde(), model, torch.float64, 1e-6)


def test_a_linear_molecule(tmp_path: Path) -> None:
    """The removal of the torque has no solution along the axis."""
    atoms = Atoms("N2", [[0, 0, 0], [0.7, 0.6, 0.5]])
    model = small("v3")
    export(model, tmp_path / "orb.pt", dtype="float64")
    frames: list[Any] = []
    run(simulation(atoms, tmp_path / "orb.pt", "Verlet"), 5, [frames.append])
    compare(frames, atoms, model, torch.float64, 1e-6)
    assert graph(atoms, model)[3].shape[1] == 2


@pytest.mark.parametrize("architecture", ["orb-d3-xs-v2", "orb-v3-direct-20"])
@pytest.mark.parametrize("make", [acetaldehyde, rock_salt])
def test_real_size_by_the_command(
    make: Any, architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = checkpoint(tmp_path, architecture), tmp_path / "orb.pt"
    command = ["export", str(path), "--architecture", architecture, "--out", str(out)]
    assert status(command) == 0
    assert architecture in capsys.readouterr().out
    frames: list[Any] = []
    run(simulation(make(), out, "LangevinMiddle"), 5, [frames.append])
    model = load_model(path, architecture=architecture)
    compare(frames, make(), model, torch.float32, 1e-4)
