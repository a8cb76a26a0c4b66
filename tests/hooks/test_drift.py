"""The conserved energy of a run, its drift, and the guard of the drift."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md import langevin
from ase.md.bussi import Bussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from helpers import frame, record

from md_hooks import Action, Drift, DriftGuard, HookError, Recorder, Trajectory, drift_of, run
from md_hooks.conserved_energy import has_conserved_energy
from md_hooks.drift import drift

ATOMS = 4
PER_PS = 1e-6 * ATOMS
"""eV/fs of one meV/atom/ps."""


def test_a_line_has_its_slope():
    time = np.arange(0, 1000, 0.5)
    found = drift(time, -1e5 + 3.0 * PER_PS * time, ATOMS)
    assert found.value == pytest.approx(3.0, rel=1e-6)
    assert found.error < 1e-4


def test_the_error_covers_the_scatter_of_correlated_noise():
    """An oscillation of 20 fs and noise that is correlated over 10 fs, as energies of runs have."""
    time = np.arange(0, 1000, 0.5)
    deviations = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        noise = np.convolve(rng.normal(size=len(time) + 19), np.ones(20) / 20, "valid") * 1e-3
        wave = 1e-3 * np.sin(2 * np.pi * (time / 20 + rng.random()))
        found = drift(time, 2.0 * PER_PS * time + noise + wave, ATOMS)
        deviations.append((found.value - 2.0) / found.error)
    assert abs(np.mean(deviations)) < 0.3
    assert 0.7 < np.std(deviations) < 1.4


def test_values_that_are_unknown_do_not_count():
    time = np.arange(0, 1000, 0.5)
    energy = 3.0 * PER_PS * time
    energy[time % 2 > 0] = np.nan
    assert drift(time, energy, ATOMS).value == pytest.approx(3.0)
    assert drift(time, np.full(len(time), np.nan), ATOMS) is None
    assert drift(time[:3], energy[:3], ATOMS) is None
    assert drift([0, 1, 2, 3], [0, 1e308, -1e308, 1e308], 1) is None


def test_in_words():
    assert str(Drift(0.0312, 0.0051)) == "+0.0312 ± 0.0051 meV/atom/ps"
    assert str(Drift(-18.24, 1.2)) == "-18.2 ± 1.2 meV/atom/ps"
    assert str(Drift(2345.6, 345.6)) == "+2346 ± 346 meV/atom/ps"
    assert str(Drift(0.0, 0.0)) == "+0.00 ± 0.00 meV/atom/ps"


# --- runs ---------------------------------------------------------------------------------------


def argon():
    atoms = bulk("Ar", cubic=True) * 2
    atoms.rattle(0.05, seed=0)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=6.0, smooth=True)
    thermalize_momenta(atoms, 40, rng=np.random.default_rng(0))
    return atoms


def dynamics(name, atoms):
    step, rng = 4 * units.fs, np.random.default_rng(1)
    if name == "nve":
        return VelocityVerlet(atoms, step)
    if name == "bussi":
        return Bussi(atoms, step, 80, 50 * units.fs, rng=rng)
    if name == "nose-hoover":
        return NoseHooverChainNVT(atoms, step, 80, 50 * units.fs)
    if name == "langevin":
        return langevin.Langevin(
            atoms, step, temperature_K=80, friction=0.02 / units.fs, fixcm=False, rng=rng
        )
    return LangevinBAOAB(atoms, step, temperature_K=80, T_tau=50 * units.fs, rng=rng)


@pytest.mark.parametrize("name", ["nve", "bussi", "nose-hoover"])
def test_conserved_energy_of_a_run(name, tmp_path):
    atoms = argon()
    evaluations = []
    calculate = atoms.calc.calculate
    atoms.calc.calculate = lambda *a, **k: (evaluations.append(1), calculate(*a, **k))[1]
    run(dynamics(name, atoms), 100, [Recorder(tmp_path / "r.h5")])
    assert len(evaluations) == 101
    trajectory = Trajectory(tmp_path / "r.h5")
    series = trajectory.series
    kinetic = 1.5 * len(atoms) * units.kB * series["temperature"]
    total = series["potential_energy"] + kinetic
    assert np.ptp(series["conserved_energy"]) < 2e-3
    assert (np.ptp(total) > 0.05) == (name != "nve")
    assert trajectory.frame(3).extra["conserved_energy"] == series["conserved_energy"][30]
    found = drift_of(trajectory)
    assert abs(found.value) < max(1.0, 3 * found.error)


@pytest.mark.parametrize("name", ["langevin", "baoab"])
def test_thermostats_that_do_not_count_their_heat_have_none(name, tmp_path):
    atoms = argon()
    made = dynamics(name, atoms)
    assert not has_conserved_energy(made)
    run(made, 10, [Recorder(tmp_path / "r.h5")])
    trajectory = Trajectory(tmp_path / "r.h5")
    assert "conserved_energy" not in trajectory.series
    assert drift_of(trajectory) is None


# --- the guard ----------------------------------------------------------------------------------


def frames(per_ps, last=3000, noise=0.0, seed=0):
    """Frames of 0.5 fs whose conserved energy drifts, meV/atom/ps; every fourth one knows it."""
    rng = np.random.default_rng(seed)
    for step in range(last):
        energy = -1e4 + per_ps * PER_PS * 0.5 * step + noise * rng.normal()
        yield frame(step=step, extra={"conserved_energy": math.nan if step % 4 else energy})


def stop_of(guard, given):
    for one in given:
        verdict = guard(one)
        if verdict.action is not Action.CONTINUE:
            return one.time, verdict
    return None


@pytest.mark.parametrize("per_ps", [6.0, -6.0])
def test_a_drift_of_either_sign_stops_after_one_window(per_ps):
    time, verdict = stop_of(DriftGuard(stop_above=5.0, window=200.0), frames(per_ps))
    assert verdict.action is Action.STOP
    assert 200 <= time <= 202
    assert verdict.value == pytest.approx(per_ps, rel=1e-6)
    assert (verdict.quantity, verdict.threshold) == ("drift", 5.0)
    for part in ("conserved energy drifts by", f"{per_ps:+.2f}", "over 200 fs", "stop threshold 5"):
        assert part in verdict.reason


def test_smaller_and_unresolved_drifts_pass():
    assert stop_of(DriftGuard(stop_above=5.0, window=200.0), frames(4.9)) is None
    assert stop_of(DriftGuard(stop_above=0.01, window=200.0), frames(0.0, noise=1e-9)) is None
    # noise of 1 meV makes slopes of 5 and more, of which few are resolved
    guard, marked = DriftGuard(flag_above=0.1, window=200.0), 0
    for one in frames(0.0, noise=1e-3, last=8000):
        marked += guard(one).action is Action.FLAG
    assert marked < 0.15 * 8000 * 0.5 / (200 / 16)


def test_a_band_flags_and_then_stops():
    guard = DriftGuard(stop_above=5.0, flag_above=2.0, window=100.0)
    assert stop_of(guard, frames(3.0))[1].action is Action.FLAG
    assert guard.drift.value == pytest.approx(3.0)
    guard = DriftGuard(stop_above=5.0, flag_above=2.0, window=100.0)
    assert stop_of(guard, frames(6.0))[1].action is Action.STOP


def test_only_the_window_counts():
    """A run that drifted long ago, and does no longer, is judged by its present."""
    guard = DriftGuard(stop_above=5.0, window=100.0)
    energies = 4.0 * PER_PS * np.minimum(0.5 * np.arange(2000), 500)
    shown = [frame(step=k, extra={"conserved_energy": e}) for k, e in enumerate(energies)]
    for one in shown[:1000]:
        guard(one)
    assert guard.drift.value == pytest.approx(4.0)
    for one in shown[1000:]:
        guard(one)
    assert abs(guard.drift.value) < 1e-6


def test_a_restart_gives_the_same_verdicts():
    given = list(frames(3.0, noise=3e-4, last=2000))
    straight = DriftGuard(flag_above=2.0, window=150.0)
    expected = [straight(one) for one in given]
    first = DriftGuard(flag_above=2.0, window=150.0)
    for one in given[:777]:
        first(one)
    second = DriftGuard(flag_above=2.0, window=150.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second(one) for one in given[777:]] == expected[777:]
    assert any(verdict.action is Action.FLAG for verdict in expected[777:])


def test_the_policy_is_in_the_file(tmp_path):
    guard = DriftGuard(stop_above=5.0, window=200.0)
    record(tmp_path / "r.h5", list(frames(0.0, last=20)), hooks=[guard])
    assert Trajectory(tmp_path / "r.h5").policies == [
        {"on": "drift", "drift_stop_above": 5.0, "drift_flag_above": None, "window": 200.0}
    ]
    assert Trajectory(tmp_path / "r.h5").thresholds["stop"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no threshold: pass stop_above or flag_above"),
        ({"stop_above": 0}, "stop_above is 0: pass a number above 0 in meV/atom/ps"),
        ({"flag_above": math.nan}, "flag_above is nan: pass a number above 0"),
        ({"stop_above": "auto"}, "stop_above is 'auto': pass a number above 0"),
        ({"stop_above": True}, "stop_above is True: pass a number above 0"),
        ({"stop_above": 1.0, "flag_above": 2.0}, "must lie below stop_above"),
        ({"stop_above": 1.0, "window": 0}, "window is 0: pass a time above 0 in fs"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(HookError, match=message) as caught:
        DriftGuard(**arguments)
    assert "\n" not in str(caught.value)


def test_frames_without_conserved_energy():
    with pytest.raises(HookError, match=r"step 0, 0 fs carries no conserved energy"):
        DriftGuard(stop_above=1.0)(frame())
    guard = DriftGuard(stop_above=1.0, window=1.0)
    with pytest.raises(HookError, match="pass a longer window"):
        stop_of(guard, frames(0.0))
