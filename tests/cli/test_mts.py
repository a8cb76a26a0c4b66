"""Runs with multiple time steps: headline, restarts, outputs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixBondLengths

from forcedelta import DriftGuard, guarded_run
from md_hooks import Trajectory

MTS = ["--forces", "mts", "--inner", "4", "--record-every", "4"]


def test_a_run_says_its_outer_step_and_knows_u_at_outer_steps(forcedelta, water):
    code, out, err = forcedelta(*water, "--steps", "40", *MTS, "--json")
    assert code == 0
    assert "direct forces every 0.5 fs, conservative ones and U every 2 fs" in err
    assert "resonance" not in err
    assert (
        "outer" not in err.split("seed 1", 1)[1]
    )  # no remark: steps and records are at outer ones
    found = json.loads(out)
    assert found["evaluations"] == 40
    assert found["drift_error"] > 0
    assert f"drift of the conserved energy: {found['drift']:+.1f}"[:33] in err
    trajectory = Trajectory("run.h5")
    series = trajectory.series
    outer = series["step"] % 4 == 0
    np.testing.assert_array_equal(np.isfinite(series["force_delta"]), outer)
    np.testing.assert_array_equal(np.isfinite(series["conserved_energy"]), outer)
    assert trajectory.metadata["settings"]["inner"] == 4
    assert trajectory.metadata["model"]["forces"] == "mts"
    frame = trajectory.frame(-1)
    assert frame.step == 40
    np.testing.assert_allclose(frame.forces, frame.direct_forces, atol=1e-6)  # another unit on file
    u = np.sqrt(np.mean((frame.direct_forces - frame.conservative_forces) ** 2))
    assert u == pytest.approx(frame.force_delta, rel=1e-4)


def test_remarks(forcedelta, water):
    code, _, err = forcedelta(
        *water, "--steps", "42", "--forces", "mts", "--inner", "10", "--timestep", "0.8"
    )
    assert code == 0
    assert "outer steps of 8 fs come close to half a vibration of bonds to hydrogen" in err
    assert "use --inner 5" in err
    assert "42 steps are not a multiple of --inner 10" in err
    assert "--steps 50 ends at one" in err
    trajectory = Trajectory("run.h5")
    assert trajectory.series["step"][-1] == 42
    assert trajectory.frame(-1).force_delta is None
    assert "conserved_energy" not in trajectory.frame(-1).extra
    code, _, err = forcedelta(
        *water, "--steps", "6", "--forces", "mts", "--inner", "3", "--overwrite"
    )
    assert "--record-every 12 records outer steps only" in err


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "bussi"])
@pytest.mark.parametrize("first", [20, 22], ids=["outer", "inner"])
def test_restart_equals_no_restart(forcedelta, water, ensemble, first):
    command = [*water, *MTS, "--ensemble", ensemble]
    assert forcedelta(*command, "--steps", "41", "--out", "straight.h5")[0] == 0
    assert forcedelta(*command, "--steps", str(first), "--out", "parts.h5")[0] == 0
    code, _, err = forcedelta("run", "--restart", "--out", "parts.h5", "--steps", "41")
    assert code == 0
    assert f"continued from step {first}" in err
    a, b = Trajectory("straight.h5"), Trajectory("parts.h5")
    assert a.series.keys() == b.series.keys()
    for name, values in a.series.items():
        np.testing.assert_array_equal(values, b.series[name], err_msg=name)
    for name in ("positions", "velocities", "forces"):
        np.testing.assert_array_equal(getattr(a.frame(-1), name), getattr(b.frame(-1), name))
    code, _, err = forcedelta(
        "run", "--restart", "--out", "parts.h5", "--inner", "8", "--steps", "48"
    )
    assert code == 2
    assert "--inner 8 differs from the run in parts.h5, which has 4" in err


def test_the_guard_stops_at_an_outer_step(forcedelta, water):
    code, out, _ = forcedelta(
        *water,
        "--steps",
        "400",
        *MTS,
        "--stop-above",
        "0.05",
        "--ramp-to",
        "9000",
        "--record-every",
        "50",
    )
    assert code == 3
    assert out.startswith("stopped at step ")
    last = Trajectory("run.h5").frame(-1)
    assert last.step % 4 == 0
    assert last.force_delta > 0.05


def test_a_drift_guard_stops_direct_forces_and_not_multiple_time_steps(files, here):
    def run(forces: str, inner: int, out: str, steps: int = 200, **more: bool):
        return guarded_run(
            str(files / "water.xyz"), str(files / "wet.safetensors"), steps, out=out,
            ensemble="nve", forces=forces, inner=inner, seed=1, temperature=1000,
            hooks=[DriftGuard(stop_above=bound, window=50.0)], **more,
        )  # fmt: skip

    bound = 1e9
    direct, mts = run("direct", 1, "d.h5"), run("mts", 4, "m.h5")
    assert direct.reason == mts.reason == "finished"
    assert abs(direct.drift.value) > 5 * abs(mts.drift.value)
    bound = abs(direct.drift.value) / 2
    straight = run("direct", 1, "straight.h5")
    assert straight.reason == "stopped"
    assert "conserved energy drifts by" in straight.run.message
    half = straight.run.step // 2
    assert run("direct", 1, "parts.h5", half).reason == "finished"
    continued = run("direct", 1, "parts.h5", 200, restart=True)
    assert (continued.reason, continued.run.message) == (straight.reason, straight.run.message)
    assert run("mts", 4, "calm.h5").reason == "finished"


def test_drift_in_watch_and_in_the_report(forcedelta, water):
    forcedelta(*water, "--steps", "40", *MTS)
    code, out, _ = forcedelta("watch", "run.h5", "--once")
    assert code == 0
    assert " meV/atom/ps" in out
    found = json.loads(forcedelta("watch", "run.h5", "--once", "--json")[1])
    assert found["drift_error"] > 0
    assert forcedelta("plot", "run.h5", "--out", "report.html")[0] == 0
    assert "Drift of the conserved energy: " in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--forces", "mts"], "forces='mts' needs inner of 2 or more, and inner is 1"),
        (["--forces", "mts", "--inner", "0"], "--inner is 0: give a whole number"),
        (["--inner", "4"], "inner=4 needs forces='mts', and forces is 'direct'"),
        (["--forces", "conservative", "--inner", "4"], "and forces is 'conservative'"),
        ([*MTS, "--every", "2"], "every=2 has no meaning with forces='mts'"),
        ([*MTS, "--ensemble", "npt"], "--forces mts has no stress at inner steps"),
    ],
)
def test_what_is_refused(forcedelta, water, here, change, said):
    code, out, err = forcedelta(*water, "--steps", "8", *change)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not list(here.iterdir())


def test_bond_constraints_are_refused(forcedelta, files, here):
    bound = molecule("H2O")
    bound.set_constraint(FixBondLengths([[0, 1]]))
    bound.write("bound.traj")
    code, _, err = forcedelta(
        "run", "bound.traj", "--model", files / "wet.safetensors", "--steps", "8", *MTS
    )
    assert code == 2
    assert "multiple time steps do not support the constraint FixBondLengths" in err
    assert not Path("run.h5").exists()
