"""Several monitored regions in one System: frames, U, files and stops of each."""

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
from ase import Atoms
from openmm import app
from openmm.mtsintegrator import MTSIntegrator
from simulations import Frames, MorsePairs, cluster, loaded, state_of

from forcedelta import ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.openmm import ForceDeltaReporter, add_force_delta, find_monitors, run
from md_hooks import Action, HookError, Recorder, RunStoppedError, Trajectory, load_checkpoint

SOLUTES = [list(range(8)), list(range(8, 16))]


def two_solutes(integrator=None, coupled=True, **options):
    """Two clusters with a model each, coupled by a soft spring; (simulation, monitors, modules)."""
    one, other = cluster(), cluster()
    other.rattle(0.03, seed=8)
    other.positions += [12.0, 0.0, 0.0]
    atoms: Atoms = one + other
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    modules = [MorsePairs(), MorsePairs()]
    monitors = [
        add_force_delta(
            system, loaded(module), atoms.numbers, atoms=part, dtype="float64", **options
        )
        for module, part in zip(modules, SOLUTES, strict=True)
    ]
    if coupled:
        spring = openmm.HarmonicBondForce()
        spring.addBond(0, 8, 1.0, 50.0)
        system.addForce(spring)
    if integrator is None:
        integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.001)
        integrator.setRandomNumberSeed(1)
    made = app.Simulation(
        app.Topology(), system, integrator, openmm.Platform.getPlatformByName("Reference")
    )
    made.context.setPositions(atoms.positions / 10)
    made.context.setVelocitiesToTemperature(300, 2)
    return made, monitors, modules


def through_run(made, monitors, steps, hooks):
    return run(made, steps, dict(zip(monitors, hooks, strict=True)))


def through_reporters(made, monitors, steps, hooks):
    for monitor, own in zip(monitors, hooks, strict=True):
        made.reporters.append(ForceDeltaReporter(monitor, own))
    made.step(steps)
    return {reporter.monitor: reporter.close() for reporter in list(made.reporters)}


@pytest.mark.parametrize("drive", [through_run, through_reporters])
def test_each_region_has_its_own_frames(drive):
    made, monitors, modules = two_solutes()
    assert find_monitors(made.system) == monitors
    frames = [Frames(), Frames()]
    results = drive(made, monitors, 12, [[one] for one in frames])
    for monitor, module, part, own in zip(monitors, modules, SOLUTES, frames, strict=True):
        assert [frame.step for frame in own] == list(range(13))
        result = results[monitor]
        assert (result.reason, result.step, result.evaluations) == ("finished", 12, 13)
        assert module.calls == monitor.evaluations == 14  # and the forces of the initial velocities
        np.testing.assert_array_equal(state_of(made)[0][part] * 10, own[-1].positions)
        calculator = ForceDeltaCalculator(loaded(), dtype="float64")
        for frame in own:
            alone = Atoms(frame.numbers, frame.positions, calculator=calculator)
            np.testing.assert_allclose(alone.get_forces(), frame.forces, rtol=0, atol=1e-10)
            assert calculator.results["force_delta"] == pytest.approx(frame.force_delta)
    assert frames[0][-1].force_delta != frames[1][-1].force_delta


@pytest.mark.parametrize("which", [0, 1])
def test_the_run_ends_when_one_region_stops(which, tmp_path):
    whole, _, _ = two_solutes()
    whole.step(20)
    made, monitors, _ = two_solutes()
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    hooks = {m: [Recorder(path)] for m, path in zip(monitors, paths, strict=True)}
    hooks[monitors[which]].append(lambda frame: Action.STOP if frame.step == 7 else None)
    results = run(made, 20, hooks)
    assert {result.reason for result in results.values()} == {"stopped"}
    assert results[monitors[which]].message.endswith("returned stop")
    assert results[monitors[1 - which]].message.startswith("with another region: ")
    for path in paths:
        stored = Trajectory(path)
        assert stored.series["step"][-1] == load_checkpoint(path).step == 7
        assert stored.outcome["reason"] == "stopped"
    made.step(13)
    for one, other in zip(state_of(made), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reporters_stop_together_in_their_with_blocks(tmp_path):
    made, (a, b), _ = two_solutes()
    stops = ForceDeltaReporter(a, [lambda frame: Action.STOP if frame.step == 4 else None])
    path = tmp_path / "b.h5"
    records = ForceDeltaReporter(b, [Recorder(path)])
    made.reporters += [stops, records]
    with pytest.raises(RunStoppedError), stops, records:
        made.step(10)
    assert made.reporters == []
    assert (records.result.reason, records.result.step) == ("stopped", 4)
    assert "with another region" in Trajectory(path).outcome["message"]
    assert load_checkpoint(path).step == 4


MODES = {"direct": {}, "conservative": {"forces": "conservative"}, "adaptive": {"every": "adaptive"},
         "mts": {"forces": "mts", "inner": 3}}  # fmt: skip


def of_mode(name):
    integrator = MTSIntegrator(0.003, [(1, 1), (0, 3)]) if name == "mts" else None
    return two_solutes(integrator, **MODES[name])


@pytest.mark.parametrize("reader", ["run", "reporters"])
@pytest.mark.parametrize("mode", MODES)
def test_a_restart_of_both(mode, reader, tmp_path):
    whole, _, _ = of_mode(mode)
    whole.step(20)
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    made, monitors, _ = of_mode(mode)
    through_run(made, monitors, 9, [[Recorder(path, every=4)] for path in paths])
    del made
    again, monitors, _ = of_mode(mode)
    hooks = [[Recorder(path, every=4, mode="append")] for path in paths]
    if reader == "run":
        files = dict(zip(monitors, paths, strict=True))
        run(again, 11, dict(zip(monitors, hooks, strict=True)), restart=files)
    else:
        for monitor, own, path in zip(monitors, hooks, paths, strict=True):
            again.reporters.append(ForceDeltaReporter(monitor, own, restart=path, simulation=again))
        again.step(11)
        for reporter in list(again.reporters):
            reporter.close()
    for one, other in zip(state_of(again), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    for path in paths:
        assert list(Trajectory(path).series["step"]) == list(range(21))


def test_checkpoints_of_different_steps_continue_from_the_earliest(tmp_path):
    """What a killed process leaves, if its recorders do not write at the same steps."""
    whole, _, _ = two_solutes()
    whole.step(20)
    made, (a, b), _ = two_solutes()
    paths = {a: tmp_path / "a.h5", b: tmp_path / "b.h5"}
    early = Recorder(paths[b])
    run(made, 6, {a: [Recorder(paths[a])], b: [early]})
    run(made, 3, {a: [Recorder(paths[a], mode="append")]}, restart={a: paths[a]})
    assert [load_checkpoint(path).step for path in paths.values()] == [9, 6]
    again, monitors, _ = two_solutes()
    files = dict(zip(monitors, paths.values(), strict=True))
    hooks = {monitor: [Recorder(path, mode="append")] for monitor, path in files.items()}
    run(again, 14, hooks, restart=files)
    for path in paths.values():
        assert list(Trajectory(path).series["step"]) == list(range(21))
    for one, other in zip(state_of(again), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_closes_the_files_of_all_regions(tmp_path):
    made, (a, b), _ = two_solutes()

    def full(frame):
        if frame.step == 3:
            raise HookError("disk full")

    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    with pytest.raises(HookError, match="disk full"):
        run(made, 9, {a: [full, Recorder(paths[0])], b: [Recorder(paths[1])]})
    for path in paths:
        assert Trajectory(path).outcome["reason"] == "error"
    with pytest.raises(HookError, match="exists"):
        run(made, 9, {a: [], b: [Recorder(paths[1])]})

    class Unclosable(Frames):
        def close(self, result):
            raise HookError("cannot be closed")

    other = Frames()
    closed = []
    other.close = closed.append
    with pytest.raises(HookError, match="cannot be closed"):
        run(made, 2, {a: [Unclosable()], b: [other]})
    assert closed[0].reason == "finished"


def test_an_error_of_a_model_in_any_region():
    made, (a, b), modules = two_solutes(openmm.NoseHooverIntegrator(300, 5, 0.001))
    frames = Frames()

    def fail(*arguments):
        raise ZeroDivisionError("no such thing")

    def arm(frame):
        if frame.step == 3:
            modules[1].forward = fail

    with pytest.raises(ZeroDivisionError, match="no such thing") as caught:
        run(made, 9, {a: [frames, arm], b: []})
    assert caught.value.__notes__ == ["in the evaluation at step 3"]
    assert [frame.step for frame in frames] == [0, 1, 2, 3]


def test_what_does_not_fit_is_refused(tmp_path):
    made, (a, b), _ = two_solutes()
    _, (c, _), _ = two_solutes()
    with pytest.raises(ForceDeltaError, match=r"2 ForceDelta forces: pass the hooks of each"):
        run(made, 1, [])
    with pytest.raises(ForceDeltaError, match="no monitor of the simulation's System"):
        run(made, 1, {c: []})
    with pytest.raises(ForceDeltaError, match="at least one monitor"):
        run(made, 1, {})
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    run(made, 2, {a: [Recorder(paths[0])], b: [Recorder(paths[1])]})
    with pytest.raises(ForceDeltaError, match="1 files for 2 monitors"):
        run(made, 1, {a: [], b: []}, restart={a: paths[0]})
    with pytest.raises(ForceDeltaError, match=r"restart=\{monitor: file\}"):
        run(made, 1, {a: [], b: []}, restart=paths[0])
    with pytest.raises(ForceDeltaError, match="of another region, with particle 8 first, not 0"):
        run(made, 1, {a: [], b: []}, restart={a: paths[1], b: paths[0]})


def test_one_region_alone_may_be_watched():
    made, (_, b), _ = two_solutes()
    frames = Frames()
    assert list(run(made, 3, {b: [frames]})) == [b]
    assert len(frames) == 4
