"""Driving ASE dynamics with hooks: frames, stops, interruptions, restarts, evaluations."""

from __future__ import annotations

import os
import signal
import warnings

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.bussi import Bussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.switch_langevin import SwitchLangevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from ase.optimize.sciopt import SciPyFminCG
from helpers import TwoForces, argon, langevin

from md_hooks import (
    Action,
    Guard,
    HookChain,
    HookError,
    Recorder,
    RunInfo,
    RunStoppedError,
    Trajectory,
    attach,
    load_checkpoint,
    restore,
    run,
)

DT = 2.0 * units.fs


def bussi(atoms, seed=1):
    return Bussi(atoms, DT, temperature_K=30, taut=50 * units.fs, rng=np.random.default_rng(seed))


def baoab(atoms, seed=1):
    return LangevinBAOAB(
        atoms, DT, temperature_K=30, T_tau=100 * units.fs, rng=np.random.default_rng(seed)
    )


def verlet(atoms):
    return VelocityVerlet(atoms, DT)


def nose_hoover(atoms):
    return NoseHooverChainNVT(atoms, DT, temperature_K=30, tdamp=100 * units.fs)


def berendsen(atoms):
    return NVTBerendsen(atoms, DT, temperature_K=30, taut=50 * units.fs)


def npt(atoms):
    return NPTBerendsen(
        atoms, DT, temperature_K=30, pressure_au=0.0, taut=50 * units.fs, taup=500 * units.fs,
        compressibility_au=1.0,
    )  # fmt: skip


MAKERS = [langevin, bussi, baoab, verlet, nose_hoover, berendsen, npt]


class Collector:
    def __init__(self):
        self.frames = []
        self.verdicts = []
        self.result = None

    def observe(self, frame, verdict):
        self.frames.append(frame)
        self.verdicts.append(verdict)

    def close(self, result):
        self.result = result


def stop_at(step):
    return lambda frame: Action.STOP if frame.step >= step else None


def system(make):
    return argon(periodic=make is npt)


@pytest.mark.parametrize("make", MAKERS)
def test_a_stop_ends_at_that_frame_on_disk(make, tmp_path):
    atoms = system(make)
    seen = Collector()
    result = run(make(atoms), 50, [stop_at(7), Recorder(tmp_path / "r.h5"), seen])
    assert (result.reason, result.step) == ("stopped", 7)
    assert [f.step for f in seen.frames] == list(range(8))
    trajectory = Trajectory(tmp_path / "r.h5")
    assert trajectory.frame(-1).step == 7
    np.testing.assert_array_equal(trajectory.frame(-1).positions, atoms.positions)
    assert list(trajectory.stops) == [7]
    assert trajectory.outcome["reason"] == "stopped"


@pytest.mark.parametrize("make", MAKERS)
def test_hooks_cost_no_evaluation(make, tmp_path):
    atoms = system(make)
    run(make(atoms), 20, [Guard(stop_above=9.0), Recorder(tmp_path / "r.h5", every=1)])
    bare = system(make)
    make(bare).run(20)
    assert atoms.calc.evaluations == bare.calc.evaluations
    if make is not npt:  # it rescales the cell, and so evaluates twice a step by itself
        assert atoms.calc.evaluations == 21
    np.testing.assert_array_equal(atoms.positions, bare.positions)


@pytest.mark.parametrize("make", MAKERS)
def test_stop_when_the_user_runs(make):
    atoms = system(make)
    dynamics = make(atoms)
    seen = Collector()
    with attach(dynamics, [stop_at(4), seen]):
        dynamics.run(30)
        assert dynamics.nsteps == 4
        assert seen.result.reason == "stopped"  # closed at the stop, not when the block ends
        with pytest.raises(RunStoppedError, match="cannot continue"):
            dynamics.run(30)
    assert len(seen.frames) == 5
    dynamics.run(2)  # detached


def test_stop_at_the_first_frame():
    result = run(langevin(argon()), 30, [stop_at(0)])
    assert (result.reason, result.step, result.evaluations) == ("stopped", 0, 1)


@pytest.mark.parametrize("optimiser", [BFGS, FIRE, SciPyFminCG])
def test_optimisers(optimiser):
    atoms = argon(error=0.0)
    atoms.rattle(0.3, seed=1)
    seen = Collector()
    result = run(optimiser(atoms, logfile=None), 100, [seen], fmax=0.02)
    assert result.reason == "converged"
    assert np.linalg.norm(seen.frames[-1].forces, axis=1).max() < 0.02
    atoms.rattle(0.3, seed=2)
    seen = Collector()
    result = run(optimiser(atoms, logfile=None), 100, [stop_at(3), seen], fmax=1e-9)
    assert (result.reason, result.step) == ("stopped", 3)
    assert [f.step for f in seen.frames] == [0, 1, 2, 3]


def test_filter_around_the_atoms():
    atoms = argon(periodic=True)
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    seen = Collector()
    result = run(BFGS(FrechetCellFilter(atoms), logfile=None), 5, [seen], fmax=1e-9)
    assert result.step == 5
    np.testing.assert_array_equal(seen.frames[-1].cell, atoms.cell.array)


def test_dynamics_with_a_loop_of_its_own():
    atoms = argon()
    dynamics = SwitchLangevin(
        atoms, TwoForces(), TwoForces(), DT, temperature_K=30, friction=0.01, n_eq=10, n_switch=5,
        fixcm=False,
    )  # fmt: skip
    seen = Collector()
    with pytest.raises(RunStoppedError), attach(dynamics, [stop_at(4), seen]):
        dynamics.run()
    assert seen.frames[-1].step == 4
    assert seen.result.reason == "stopped"


def test_a_frame_is_one_configuration():
    atoms = argon()
    seen = Collector()
    run(langevin(atoms), 5, [seen])
    model = TwoForces(reference=atoms.calc.reference)
    for frame in seen.frames:
        copy = atoms.copy()
        copy.positions = frame.positions
        np.testing.assert_allclose(model.get_property("forces", copy), frame.forces, atol=1e-12)
        difference = frame.direct_forces - frame.conservative_forces
        assert frame.force_delta == pytest.approx(np.sqrt((difference**2).mean()))
        assert frame.force_delta**2 == pytest.approx((frame.force_deltas**2).mean())
        assert frame.energy == pytest.approx(model.get_property("energy", copy))
        assert frame.worst_atom == frame.force_deltas.argmax()
        with pytest.raises(ValueError, match="read-only"):
            frame.positions[0, 0] = 1.0
    last = seen.frames[-1]
    assert last.temperature == pytest.approx(atoms.get_temperature())
    np.testing.assert_allclose(last.velocities, atoms.get_velocities() * units.fs)
    assert last.time == 10.0


def test_atoms_moved_after_the_forces():
    atoms = argon()
    dynamics = langevin(atoms)
    seen = Collector()
    dynamics.attach(lambda: atoms.positions.__iadd__(0.5), 1)  # before our observer
    with attach(dynamics, [seen]):
        before = atoms.positions.copy()
        dynamics.run(0)
    np.testing.assert_array_equal(seen.frames[0].positions, before)
    assert atoms.calc.evaluations == 1


def test_temperature_counts_the_constraints():
    atoms = argon()
    atoms.set_constraint(FixAtoms([0, 1]))
    seen = Collector()
    run(verlet(atoms), 3, [seen])
    assert seen.frames[-1].temperature == pytest.approx(atoms.get_temperature())


def test_zero_kelvin_is_recorded(tmp_path):
    atoms = argon()
    atoms.set_momenta(np.zeros((8, 3)))
    run(verlet(atoms), 0, [Recorder(tmp_path / "r.h5")])
    assert Trajectory(tmp_path / "r.h5").series["temperature"][0] == 0.0


def test_every_k_has_u_at_some_steps(tmp_path):
    seen = Collector()
    result = run(langevin(argon(every=4)), 10, [seen, Recorder(tmp_path / "r.h5", every=1)])
    with_u = [f.step for f in seen.frames if f.force_delta is not None]
    assert with_u == [0, 4, 8]
    assert result.force_delta == seen.frames[8].force_delta
    trajectory = Trajectory(tmp_path / "r.h5")
    assert list(np.flatnonzero(np.isfinite(trajectory.series["force_delta"]))) == with_u
    assert list(trajectory.series["worst_atom"][:2] < 0) == [False, True]
    assert trajectory.frame(1).force_deltas is None
    assert trajectory.frame(4).force_deltas is not None


@pytest.mark.parametrize("quantity", ["energy", "forces"])
def test_a_broken_model_stops_the_run(quantity, tmp_path):
    atoms = argon(broken={6: quantity})
    result = run(verlet(atoms), 50, [Guard(), Recorder(tmp_path / "r.h5")])
    assert (result.reason, result.step) == ("stopped", 6)
    assert quantity in result.message
    if quantity == "forces":
        assert "worst atom 3 (Ar)" in result.message
    assert Trajectory(tmp_path / "r.h5").frame(-1).step == 6


def test_a_model_that_raises_loses_nothing(tmp_path):
    path = tmp_path / "r.h5"
    atoms = argon(broken={18: "raise"})
    with pytest.raises(RuntimeError, match="the model broke"):
        run(langevin(atoms), 50, [Recorder(path)])
    trajectory = Trajectory(path)
    assert list(trajectory.series["step"]) == list(range(18))
    assert list(trajectory.frame_steps) == [0, 10, 17]
    assert trajectory.outcome["reason"] == "error"
    assert load_checkpoint(path).step == 10  # the later frame was left in the middle of a step


def test_no_calculator_results():
    class Forgetful(TwoForces):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            del self.results["energy"]

    atoms = argon()
    atoms.calc = Forgetful()
    with pytest.raises(HookError, match=r"calc\.results"):
        run(verlet(atoms), 5, [Collector()])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_step(number, tmp_path):
    path = tmp_path / "r.h5"

    def send(frame):
        if frame.step == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    atoms = argon()
    result = run(langevin(atoms), 50, [send, Recorder(path)])
    assert (result.reason, result.step) == ("interrupted", 5)
    assert number.name in result.message
    assert signal.getsignal(number) is before
    assert Trajectory(path).outcome["reason"] == "interrupted"
    checkpoint = load_checkpoint(path)
    assert checkpoint.step == 5
    np.testing.assert_array_equal(checkpoint.state["positions"], atoms.positions)


def test_a_keyboard_interrupt_inside_a_step(tmp_path):
    class Interrupted(TwoForces):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.evaluations == 6:
                raise KeyboardInterrupt

    atoms = argon()
    atoms.calc = Interrupted()
    result = run(langevin(atoms), 50, [Recorder(tmp_path / "r.h5", every=2)])
    assert (result.reason, result.step) == ("interrupted", 4)
    assert load_checkpoint(tmp_path / "r.h5").step == 4


@pytest.mark.parametrize("make", MAKERS)
def test_restart_equals_no_restart(make, tmp_path):
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    rule = {"stop_above": "auto", "burn_in": 25, "factor": 1e6, "flag_factor": 1.1}
    with warnings.catch_warnings():
        run(make(system(make)), 60, [Guard(**rule), Recorder(whole)])
        run(make(system(make)), 20, [Guard(**rule), Recorder(parts)])
    for more in (20, 20):
        checkpoint = load_checkpoint(parts)
        atoms = system(make)
        atoms.calc.reference = system(make).positions
        dynamics = make(atoms)
        restore(dynamics, checkpoint)
        chain = HookChain([Guard(**rule), Recorder(parts, mode="append")])
        chain.load_state_dict(checkpoint.hooks)
        info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
        result = run(dynamics, more, chain, info)
        assert result.step == checkpoint.step + more
    one, many = Trajectory(whole), Trajectory(parts)
    for name, values in one.series.items():
        np.testing.assert_array_equal(many.series[name], values, err_msg=name)
    np.testing.assert_array_equal(many.frame_steps, one.frame_steps)
    for a, b in zip(one.frames(), many.frames(), strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.velocities, b.velocities)
        np.testing.assert_array_equal(a.force_deltas, b.force_deltas)
    assert many.thresholds == one.thresholds
    assert len(many.runs) == 3


def test_restore_refuses_another_dynamics(tmp_path):
    run(langevin(argon()), 3, [Recorder(tmp_path / "r.h5")])
    checkpoint = load_checkpoint(tmp_path / "r.h5")
    with pytest.raises(HookError, match="use Langevin to continue"):
        restore(verlet(argon()), checkpoint)
    with pytest.raises(HookError, match="same structure"):
        restore(langevin(argon()[:5]), checkpoint)


def test_a_second_run_of_the_same_dynamics_goes_on():
    dynamics = langevin(argon())
    run(dynamics, 5, [Collector()])
    seen = Collector()
    run(dynamics, 5, [seen])
    assert [f.step for f in seen.frames] == [6, 7, 8, 9, 10]


def test_ase_is_left_as_it_was():
    from ase.calculators import calculator

    before = list(calculator.all_properties), list(calculator.all_changes)
    dynamics = langevin(argon())
    run(dynamics, 3, [Collector()])
    assert (list(calculator.all_properties), list(calculator.all_changes)) == before
    assert dynamics.observers == []
