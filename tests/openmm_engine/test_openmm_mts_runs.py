"""Guarded runs in OpenMM with multiple time steps: ensembles by name, and the command."""

import ase.io
import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
from ase import Atoms, units
from ase.constraints import FixAtoms
from openmm.mtsintegrator import MTSIntegrator, MTSLangevinIntegrator
from simulations import Frames, cluster, crystal, loaded, state_of

from forcedelta import ForceDeltaError, guarded_run
from forcedelta.cli import status
from forcedelta.ensembles import EnsembleSettings, Ramp, prepare
from forcedelta.openmm.engine import BAROSTAT_EVERY, OpenMMEngine
from md_hooks import HookChain, Recorder, RunInfo, Trajectory, load_checkpoint

INNER = 4


def settings(name: str, ramp: Ramp | None = None, **changes) -> EnsembleSettings:
    values = {
        "name": name, "ramp": ramp or Ramp(300, 300, 0, 0), "timestep": 1.0, "tau": 100.0,
        "pressure": 0.0, "barostat_tau": 1000.0, "seed": 7, **changes,
    }  # fmt: skip
    return EnsembleSettings(**values)


def engine(atoms: Atoms, chosen: EnsembleSettings) -> OpenMMEngine:
    prepare(atoms, chosen)
    return OpenMMEngine(atoms, chosen, loaded(), forces="mts", inner=INNER, dtype="float64")


@pytest.mark.parametrize("name", ["nve", "langevin", "npt"])
def test_a_run_and_its_continuation(name, tmp_path):
    # the ramp neither begins nor ends at an outer step
    chosen = settings(name, None if name == "nve" else Ramp(300, 600, 5, 38))
    whole = engine(crystal(), chosen)
    expected = Frames()
    result = whole.run(60, HookChain([whole, expected]), RunInfo())
    trials = 60 // INNER // (BAROSTAT_EVERY // INNER) if name == "npt" else 0
    assert (result.reason, result.step, result.evaluations) == ("finished", 60, 60 + trials)
    assert [frame.step for frame in expected] == list(range(0, 61, INNER))
    assert all(frame.time == frame.step for frame in expected)
    assert all(frame.force_delta > 0 for frame in expected)
    assert ("conserved_energy" in expected[0].extra) == (name == "nve")
    end = state_of(whole.simulation)
    del whole
    path = tmp_path / "run.h5"
    first = engine(crystal(), chosen)
    first.run(24, HookChain([first, Recorder(path)]), RunInfo())
    del first
    second = engine(crystal(), chosen)
    second.run(
        36, HookChain([second, Recorder(path, mode="append")]), RunInfo(), load_checkpoint(path)
    )
    for one, other in zip(state_of(second.simulation), end, strict=True):
        np.testing.assert_array_equal(one, other)
    assert Trajectory(path).series["step"].tolist() == list(range(0, 61, INNER))


def test_integrators_and_barostat_by_name():
    nve = engine(cluster(), settings("nve")).simulation
    assert type(nve.integrator) is MTSIntegrator
    assert nve.integrator.getStepSize()._value == pytest.approx(0.004)
    npt = engine(crystal(), settings("npt"))
    assert type(npt.simulation.integrator) is MTSLangevinIntegrator
    (barostat,) = (
        f for f in npt.simulation.system.getForces() if isinstance(f, openmm.MonteCarloBarostat)
    )
    assert barostat.getFrequency() == BAROSTAT_EVERY // INNER


def test_npt_changes_the_volume():
    made = engine(crystal(), settings("npt"))
    frames = Frames()
    made.run(80 * INNER, HookChain([made, frames]), RunInfo())
    assert len({frame.cell[0, 0] for frame in frames}) > 3


def test_the_first_frame_has_the_velocities_of_the_structure():
    atoms = cluster()
    made = engine(atoms, settings("langevin"))
    frames = Frames()
    made.run(0, HookChain([frames]), RunInfo())
    np.testing.assert_allclose(
        frames[0].velocities, atoms.get_velocities() * units.fs, rtol=0, atol=1e-12
    )
    assert frames[0].temperature == pytest.approx(atoms.get_temperature(), rel=1e-6)


def test_fixed_atoms_do_not_move():
    atoms = cluster()
    atoms.set_constraint(FixAtoms([0, 3]))
    made = engine(atoms, settings("nve"))
    frames = Frames()
    made.run(400, HookChain([frames]), RunInfo())
    moved = np.abs(frames[-1].positions - frames[0].positions).max(axis=1)
    assert set(np.flatnonzero(moved < 1e-12)) == {0, 3}
    total = [frame.extra["conserved_energy"] for frame in frames]
    assert np.ptp(total) < 0.02 * np.ptp([frame.energy for frame in frames])


def test_the_thermostat_follows_the_ramp():
    made = engine(cluster(), settings("langevin", Ramp(10, 1500, 100, 1001), tau=20.0))
    frames = Frames()
    made.run(3000, HookChain([made, frames]), RunInfo())
    kt = made.simulation.integrator.getGlobalVariableByName("kT")
    assert kt == pytest.approx(1500 * 8.31446e-3, rel=1e-5)
    early = np.mean([frame.temperature for frame in frames if frame.step <= 100])
    late = np.mean([frame.temperature for frame in frames if frame.step > 1200])
    assert early < 50
    assert 1100 < late < 1900


def test_the_temperature_is_that_of_the_thermostat():
    """Crystal at 300 K: the mean over 1000 outer steps, with its error by blocks."""
    made = engine(crystal(), settings("langevin", tau=20.0))
    frames = Frames()
    made.run(1100 * INNER, HookChain([made, frames]), RunInfo())
    temperatures = np.array([frame.temperature for frame in frames[101:]])
    blocks = temperatures.reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    assert error < 12
    assert abs(blocks.mean() - 300) < 3.5 * error


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("bussi", 8, "OpenMM has no ensemble bussi"),
        ("nve", 10, "10 steps are not a multiple of --inner 4.*pass --steps 12"),
    ],
)
def test_what_is_refused(name, steps, message):
    with pytest.raises(ForceDeltaError, match=message):
        engine(cluster(), settings(name)).run(steps, HookChain([]), RunInfo())


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("si.xyz", crystal())
    return tmp_path


RUN = ["run", "si.xyz", "--model", "mlearn", "--seed", "4", "--dtype", "float64",
       "--forces", "mts", "--inner", "4", "--timestep", "1"]  # fmt: skip


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_a_continued_command_equals_one_that_was_not_interrupted(ensemble, files, capsys):
    options = [*RUN, "--engine", "openmm", "--ensemble", ensemble, "--record-every", "4"]
    assert status([*options, "--steps", "32", "--out", "whole.h5"]) == 0
    assert status([*options, "--steps", "20", "--out", "parts.h5"]) == 0
    assert status(["run", "--restart", "--steps", "32", "--inner", "2", "--out", "parts.h5"]) == 2
    assert "--inner 2 differs from the run in parts.h5, which has 4" in capsys.readouterr().err
    assert status(["run", "--restart", "--steps", "32", "--out", "parts.h5"]) == 0
    whole, parts = Trajectory("whole.h5"), Trajectory("parts.h5")
    assert parts.series["step"].tolist() == list(range(0, 33, 4)) == parts.frame_steps.tolist()
    for name in ("potential_energy", "temperature", "force_delta", "time", "worst_atom"):
        np.testing.assert_array_equal(whole.series[name], parts.series[name])
    np.testing.assert_array_equal(whole.frame(-1).positions, parts.frame(-1).positions)
    stored = parts.metadata["settings"]
    assert (stored["engine"], stored["forces"], stored["inner"]) == ("openmm", "mts", 4)
    assert stored["timestep"] == 1.0


def test_the_same_as_ase(files):
    options = [*RUN, "--ensemble", "nve", "--steps", "80", "--record-every", "4"]
    assert status([*options, "--engine", "openmm", "--out", "openmm.h5"]) == 0
    assert status([*options, "--engine", "ase", "--out", "ase.h5"]) == 0
    one, other = Trajectory("openmm.h5"), Trajectory("ase.h5")
    outer = other.series["step"] % 4 == 0
    for name, tolerance in (("force_delta", 1e-6), ("conserved_energy", 1e-5), ("time", 1e-9)):
        np.testing.assert_allclose(
            one.series[name], other.series[name][outer], rtol=0, atol=tolerance
        )
    for step in (0, 10, 20):
        np.testing.assert_allclose(
            one.frame(step).positions, other.frame(step).positions, rtol=0, atol=1e-5
        )


def test_the_guard_stops_a_run(files):
    result = guarded_run(
        "si.xyz", "mlearn", 400, engine="openmm", forces="mts", inner=4, timestep=1.0, seed=4,
        stop_above="auto", burn_in=40, ramp_to=20000.0, ensemble="langevin", tau=20.0,
    )  # fmt: skip
    assert result.reason == "stopped"
    assert result.run.step > 40
    recorded = Trajectory("run.h5")
    assert recorded.series["step"][-1] == result.run.step
    assert recorded.frame(-1).force_delta > result.policy["stop_threshold"]


def test_the_number_of_steps_is_checked_before_the_file_is_written(files, capsys):
    assert status([*RUN, "--engine", "openmm", "--steps", "30"]) == 2
    assert "pass --steps 32" in capsys.readouterr().err
    assert not (files / "run.h5").exists()
