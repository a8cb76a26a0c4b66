"""Exported models in the real TorchForce. Runs where openmmtorch and its torch are installed."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from openmm import app
from simulations import (
    INTEGRATORS,
    Frames,
    MorsePairs,
    cluster,
    crystal,
    loaded,
    simulation,
    state_of,
    topology_of,
    triclinic,
)

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.models.network import DirectForceNetwork
from forcedelta.openmm import ForceDeltaReporter, run
from forcedelta.openmm.export import export
from md_hooks import Action, Guard, Recorder, Trajectory

pytest.importorskip("openmmtorch", reason="needs openmmtorch and torch 2.9")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.pt"
    export(loaded(MorsePairs()), path, dtype="float64")
    return path


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = DirectForceNetwork([14], 4.0, features=16, channels=4, layers=2)
    return ForceDelta(made.requires_grad_(False).eval())


def scripted(structure, integrator, path, **options):
    return simulation(structure, integrator, model=path, path="torchscript", **options)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("make", [cluster, crystal, triclinic])
def test_the_two_paths_agree(make, platform, network, tmp_path):
    """To float32 round-off, over a trajectory, for the network in float32."""
    export(network, tmp_path / "network.pt")
    frames, expected = Frames(), Frames()
    made, _ = simulation(make(), model=network, dtype="float32", platform=platform)
    run(made, 50, [expected])
    del made
    made, _ = scripted(make(), "LangevinMiddle", tmp_path / "network.pt", platform=platform)
    run(made, 50, [frames])
    assert len(frames) == len(expected) == 51
    for one, other in zip(frames, expected, strict=True):
        assert (one.step, one.time) == (other.step, other.time)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-5)
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5
            )
        assert one.force_delta == pytest.approx(other.force_delta, rel=1e-4)
        assert one.energy == pytest.approx(other.energy, abs=1e-5)
        assert one.temperature == pytest.approx(other.temperature, rel=1e-5)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_reporter_shows_the_frames_of_a_run(integrator, pairs, tmp_path):
    """Also after its guard has stopped it, and a run continues its file."""
    made, monitor = scripted(crystal(), integrator, pairs)
    shown = Frames()
    stop = Guard(stop_above=0.0, patience=(9, 9))
    hooks = [shown, stop, Recorder(tmp_path / "reported.h5")]
    with ForceDeltaReporter(monitor, hooks, on_stop="flag") as reporter:
        made.reporters.append(reporter)
        made.step(8)
    assert reporter.stopped
    del made
    expected = Frames()
    other, _ = scripted(crystal(), integrator, pairs)
    run(other, 12, [expected])
    del other
    again, _ = scripted(crystal(), integrator, pairs)
    continued = Frames()
    run(again, 4, [continued], restart=tmp_path / "reported.h5")
    assert len(shown) == 9
    for one, other in zip([*shown, *continued], expected, strict=True):
        assert (one.step, one.time) == (other.step, other.time)
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.velocities, other.velocities)
        np.testing.assert_array_equal(one.force_deltas, other.force_deltas)


@pytest.mark.parametrize("barostat", [False, True], ids=["fixed box", "barostat"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_one_evaluation_per_step(integrator, barostat, pairs, frames):
    made, _ = scripted(crystal(), integrator, pairs, barostat=barostat)
    made.reporters.append(
        app.StateDataReporter(
            io.StringIO(), 1, potentialEnergy=True, kineticEnergy=True, temperature=True
        )
    )
    result = run(made, 40, [frames])
    trials = 40 // 5 if barostat else 0
    assert 40 + trials <= result.evaluations <= 41 + trials
    assert all(frame.force_delta is not None for frame in frames)


def test_every(pairs, frames):
    made, _ = scripted(cluster(), "Verlet", pairs, every=4)
    result = run(made, 10, [frames])
    assert [f.step for f in frames if f.force_delta is not None] == [0, 4, 8]
    # the first configuration was evaluated without U when the velocities were set
    assert result.evaluations <= 12


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_watching_changes_nothing(integrator, pairs, frames):
    watched, _ = scripted(crystal(), integrator, pairs, barostat=True)
    run(watched, 25, [frames])
    alone, _ = scripted(crystal(), integrator, pairs, barostat=True)
    alone.step(25)
    for one, other in zip(state_of(watched), state_of(alone), strict=True):
        np.testing.assert_array_equal(one, other)


def test_stop_and_restart(pairs, tmp_path):
    made, _ = scripted(crystal(), "LangevinMiddle", pairs)
    expected = Frames()
    run(made, 20, [expected])
    end = state_of(made)
    del made
    path = tmp_path / "run.h5"
    made, _ = scripted(crystal(), "LangevinMiddle", pairs)
    result = run(
        made, 20,
        [lambda frame: Action.STOP if frame.step == 9 else None, Recorder(path), Guard(1e3)],
    )  # fmt: skip
    assert (result.reason, result.step) == ("stopped", 9)
    np.testing.assert_array_equal(state_of(made)[0] * 10, expected[9].positions)
    del made
    made, _ = scripted(crystal(), "LangevinMiddle", pairs)
    run(made, 11, [Recorder(path, mode="append")], restart=path)
    for one, other in zip(state_of(made), end, strict=True):
        np.testing.assert_array_equal(one, other)
    assert Trajectory(path).series["step"].tolist() == list(range(21))


def test_conservative_forces_and_a_part_of_a_system(pairs, frames):
    atoms = cluster()
    made, _ = scripted(atoms, "Verlet", pairs, forces="conservative", atoms=[1, 4, 6])
    run(made, 3, [frames])
    expected = Frames()
    made, _ = simulation(atoms, "Verlet", forces="conservative", atoms=[1, 4, 6])
    run(made, 3, [expected])
    for one, other in zip(frames, expected, strict=True):
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-10)
        np.testing.assert_allclose(one.forces, one.conservative_forces)
        np.testing.assert_allclose(one.direct_forces, other.direct_forces, atol=1e-10)


def test_forces_of_other_kinds_stay_apart(pairs, frames):
    """Energies and forces of a frame are the model's, whatever else is in the System."""
    atoms = cluster()
    made, monitor = scripted(atoms, "Verlet", pairs)
    system = made.system
    wall = openmm.CustomExternalForce("10*(x^2+y^2+z^2)")
    for index in range(8):
        wall.addParticle(index)
    system.addForce(wall)
    again = app.Simulation(topology_of(atoms), system, openmm.VerletIntegrator(0.001))
    again.context.setPositions(atoms.positions / 10)
    run(again, 1, [frames])
    assert monitor.force.getForceGroup() != wall.getForceGroup()
    alone = Frames()
    made, _ = simulation(atoms, "Verlet")
    run(made, 0, [alone])
    np.testing.assert_allclose(frames[0].forces, alone[0].forces, atol=1e-10)


def test_what_is_refused(pairs, tmp_path):
    with pytest.raises(ForceDeltaError, match="export the model first"):
        scripted(cluster(), "Verlet", "acetylacetone")
    (tmp_path / "text.pt").write_text("not a module")
    with pytest.raises(ForceDeltaError, match="is not an exported model"):
        scripted(cluster(), "Verlet", tmp_path / "text.pt")
    gold = cluster()
    gold.numbers[3] = 79
    with pytest.raises(ForceDeltaError, match="does not support Au"):
        scripted(gold, "Verlet", pairs)


OPENMM_FIRST = """
import sys
import openmm
import numpy as np
from simulations import cluster, simulation
from forcedelta.openmm import run

for _ in range(2):
    made, _ = simulation(cluster(), model=sys.argv[1], path="torchscript", platform="Reference")
    assert run(made, 3, []).step == 3
    forces = made.context.getState(getForces=True).getForces(asNumpy=True)
    assert np.abs(forces._value).max() > 1
"""


def test_openmm_may_be_imported_before_torch(pairs):
    """OpenMM then cannot load the plug-in of TorchForce by itself: in a process of its own."""
    command = [sys.executable, "-c", OPENMM_FIRST, str(pairs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
