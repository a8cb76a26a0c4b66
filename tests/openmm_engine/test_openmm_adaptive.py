"""Adaptive monitoring in OpenMM: the work along the path decides which frames have U."""

import ase.io
import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
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
)

from forcedelta import ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.cli import status
from forcedelta.ensembles import EnsembleSettings, Ramp, prepare
from forcedelta.openmm import add_force_delta, run
from forcedelta.openmm import monitor as monitor_module
from forcedelta.openmm.engine import OpenMMEngine
from forcedelta.sentinel import AT_LEAST_EVERY, FEWEST
from md_hooks import Guard, HookChain, Recorder, RunInfo, Trajectory, load_checkpoint
from md_hooks import run as run_ase


@pytest.fixture
def backwards(monkeypatch):
    """A list that grows by one with each backward pass."""
    count: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: count.append(1) or grad(*a, **k))
    return count


def exact_steps(frames):
    return [frame.step for frame in frames if frame.force_delta is not None]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "shifted positions"])
@pytest.mark.parametrize("barostat", [False, True], ids=["fixed box", "barostat"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_passes(integrator, barostat, plain, frames, backwards, monkeypatch):
    """A forward pass per step, a backward pass per frame with U, and what the firings repeat."""
    if not plain:
        monkeypatch.setattr(monitor_module, "_PLAIN_PLATFORMS", ())
    module = MorsePairs()
    made, monitor = simulation(
        crystal(), integrator, model=loaded(module), barostat=barostat, every="adaptive"
    )
    before = monitor.evaluations
    result = run(made, 100, [frames])
    counts = result.monitoring
    steps = exact_steps(frames)
    assert counts["evaluations"] == len(frames) == 101
    assert counts["exact_evaluations"] == len(steps) == len(backwards)
    assert steps[:FEWEST] == list(range(FEWEST))
    assert max(np.diff(steps)) <= AT_LEAST_EVERY
    assert len(steps) < 60
    trials = 100 // 5 if barostat else 0
    passes = 100 + counts["firings"] + trials
    assert passes <= monitor.evaluations - before <= passes + 1
    assert module.calls == monitor.evaluations
    for frame in frames:
        assert (frame.conservative_forces is None) == (frame.force_delta is None)
        assert "estimated_force_delta" in frame.extra
    assert np.isnan(frames[0].extra["estimated_force_delta"])
    estimates = [frame.extra["estimated_force_delta"] for frame in frames[FEWEST + 1 :]]
    assert np.all(np.array(estimates) > 0)


def test_watching_changes_nothing(frames):
    watched, _ = simulation(crystal(), barostat=True, every="adaptive")
    run(watched, 60, [frames])
    alone, _ = simulation(crystal(), barostat=True)
    alone.step(60)
    for one, other in zip(state_of(watched), state_of(alone), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_decisions_as_in_ase():
    """The same path, so the same frames with U and the same estimates."""
    atoms = crystal()
    thermalize_momenta(atoms, 900, rng=np.random.default_rng(4))
    velocities = atoms.get_velocities() * units.fs
    model = loaded()
    atoms.calc = ForceDeltaCalculator(model, dtype="float64")
    half = velocities - 0.5 * units.fs**2 * atoms.get_forces() / atoms.get_masses()[:, None]
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    topology = topology_of(atoms)
    add_force_delta(system, model, topology, every="adaptive", dtype="float64")
    made = app.Simulation(
        topology, system, openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )  # fmt: skip
    made.context.setPeriodicBoxVectors(*(atoms.cell.array / 10))
    made.context.setPositions(atoms.positions / 10)
    made.context.setVelocities(half * 100)
    openmm_frames, ase_frames = Frames(), Frames()
    threshold = 0.05  # near enough for firings
    here = run(made, 200, [openmm_frames, Guard(flag_above=threshold)])
    atoms.calc = ForceDeltaCalculator(model, every="adaptive", dtype="float64")
    there = run_ase(VelocityVerlet(atoms, units.fs), 200, [ase_frames, Guard(flag_above=threshold)])
    assert here.monitoring["firings"] > 0
    assert exact_steps(openmm_frames) == exact_steps(ase_frames)
    assert here.monitoring == there.monitoring
    np.testing.assert_allclose(
        [frame.extra["estimated_force_delta"] for frame in openmm_frames],
        [frame.extra["estimated_force_delta"] for frame in ase_frames],
        rtol=1e-4,
    )


def engine(every, ramp: Ramp, seed: int = 7) -> OpenMMEngine:
    atoms = cluster()
    chosen = EnsembleSettings(
        name="langevin", ramp=ramp, timestep=1.0, tau=50.0, pressure=0.0, barostat_tau=1000.0,
        seed=seed,
    )  # fmt: skip
    prepare(atoms, chosen)
    return OpenMMEngine(atoms, chosen, loaded(), every=every, dtype="float64")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_stop_is_decided_by_an_exact_u(seed, tmp_path):
    """A ramp that heats a cluster until it breaks, as if U were exact at every step."""
    ramp = Ramp(100, 6000, 0, 1500)
    results, counts = [], None
    for every in (1, "adaptive"):
        made = engine(every, ramp, seed)
        path = tmp_path / f"{every}.h5"
        guard = Guard(stop_above=0.05)
        results.append(made.run(1500, HookChain([made, guard, Recorder(path)]), RunInfo()))
        recorded = Trajectory(path)
        last = recorded.frame(-1)
        assert last.step == results[-1].step
        assert last.force_delta > 0.05
        counts = results[-1].monitoring
    exact, adaptive = results
    assert exact.reason == adaptive.reason == "stopped"
    assert exact.step <= adaptive.step <= exact.step + 10
    assert counts["exact_evaluations"] < counts["evaluations"]


def test_a_continued_run_equals_one_that_was_not_interrupted(tmp_path):
    ramp = Ramp(300, 1500, 0, 200)

    def chain(made, path, **mode):
        return HookChain([made, Guard(flag_above=0.1), Recorder(path, every=1, **mode)])

    whole = engine("adaptive", ramp)
    expected = whole.run(200, chain(whole, tmp_path / "whole.h5"), RunInfo())
    end = state_of(whole.simulation)
    del whole
    path = tmp_path / "parts.h5"
    result = None
    for first, last in ((0, 41), (41, 90), (90, 200)):
        made = engine("adaptive", ramp)
        if first == 0:
            result = made.run(last, chain(made, path), RunInfo())
        else:
            hooks = chain(made, path, mode="append")
            result = made.run(last - first, hooks, RunInfo(), load_checkpoint(path))
    for one, other in zip(state_of(made.simulation), end, strict=True):
        np.testing.assert_array_equal(one, other)
    assert result.monitoring == expected.monitoring
    assert expected.monitoring["firings"] > 0
    one, other = Trajectory(tmp_path / "whole.h5"), Trajectory(path)
    for name in ("potential_energy", "force_delta", "temperature", "estimated_force_delta"):
        np.testing.assert_array_equal(one.series[name], other.series[name])


def test_a_second_run_goes_on_where_the_first_ended():
    made, monitor = simulation(crystal(), every="adaptive")
    run(made, 60, [])
    frames = Frames()
    run(made, 30, [frames])
    assert len(exact_steps(frames)) < 10, "the scale is known"
    made.step(5)  # no frames, so the path is not known
    frames.clear()
    run(made, 30, [frames])
    assert exact_steps(frames)[:FEWEST] == list(range(95, 95 + FEWEST))
    assert monitor.sentinel.evaluations == 61 + 31 + 31


def test_a_molecule_among_other_particles():
    """The work is that of the model's forces on its own atoms."""
    atoms = cluster()
    chosen = [0, 2, 3, 5, 6]
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    springs = openmm.CustomExternalForce("500*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    for name in ("x0", "y0", "z0"):
        springs.addPerParticleParameter(name)
    for index, place in enumerate(atoms.positions / 10):
        springs.addParticle(index, place)
    system.addForce(springs)
    add_force_delta(
        system, loaded(), atoms.numbers, chosen, every="adaptive", periodic=False, dtype="float64"
    )
    made = app.Simulation(
        app.Topology(), system, openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )  # fmt: skip
    made.context.setPositions(atoms.positions / 10)
    made.context.setVelocitiesToTemperature(600, 2)
    frames = Frames()
    run(made, 150, [frames])
    estimates, exact = zip(
        *((frame.extra["estimated_force_delta"], frame.force_delta)
          for frame in frames[FEWEST + 10 :] if frame.force_delta is not None),
        strict=True,
    )  # fmt: skip
    assert len(exact) < 40
    # of U, although the springs also do work along the path
    assert np.median(np.array(estimates) / exact) == pytest.approx(1, abs=0.6)


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_a_continued_command_equals_one_that_was_not_interrupted(ensemble, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("si.xyz", crystal())
    options = ["run", "si.xyz", "--model", "mlearn", "--engine", "openmm", "--every", "adaptive",
               "--ensemble", ensemble, "--dtype", "float64", "--seed", "4"]  # fmt: skip
    assert status([*options, "--steps", "60", "--out", "whole.h5"]) == 0
    assert status([*options, "--steps", "33", "--out", "parts.h5"]) == 0
    assert status(["run", "--restart", "--steps", "60", "--out", "parts.h5"]) == 0
    whole, parts = Trajectory("whole.h5"), Trajectory("parts.h5")
    for name in ("potential_energy", "force_delta", "estimated_force_delta", "temperature"):
        np.testing.assert_array_equal(whole.series[name], parts.series[name])
    assert 20 <= np.isfinite(whole.series["force_delta"]).sum() < 40
    assert parts.metadata["settings"]["every"] == "adaptive"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": "now and then"}, "a whole number of 1 or more, or 'adaptive'"),
        ({"every": "adaptive", "forces": "conservative"}, "every must be 1 with conservative"),
        ({"every": "adaptive", "forces": "mts", "inner": 4}, "no meaning with forces='mts'"),
        ({"every": "adaptive", "path": "torchscript"}, "use path='python'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    system = openmm.System()
    for _ in range(8):
        system.addParticle(28.0)
    with pytest.raises(ForceDeltaError, match=message):
        add_force_delta(system, loaded(), [14] * 8, **options)
    assert system.getNumForces() == 0
