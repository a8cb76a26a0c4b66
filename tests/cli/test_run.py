"""forcedelta run: what it makes of its settings, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest

from md_hooks import Trajectory
from md_hooks.atoms import bare_atoms


def test_a_finished_run(forcedelta, water):
    code, out, err = forcedelta(*water, "--steps", "20", "--record-every", "5")
    assert code == 0
    assert out == "done: step 20, 10 fs; trajectory in run.h5\n"
    trajectory = Trajectory("run.h5")
    assert list(trajectory.series["step"]) == list(range(21))
    assert list(trajectory.frame_steps) == [0, 5, 10, 15, 20]
    assert np.isfinite(trajectory.series["force_delta"]).all()
    metadata = trajectory.metadata
    assert metadata["seed"] == 1
    assert metadata["model"]["name"] == "wet"
    assert metadata["settings"]["timestep"] == 0.5
    assert {"python", "numpy", "ase", "torch"} <= metadata["versions"].keys()
    assert "direct forces" in err
    assert "velocities drawn at 300 K" in err


def test_a_stopped_run_says_where_in_one_line(forcedelta, water):
    code, out, _ = forcedelta(*water, "--steps", "20", "--stop-above", "1e-9")
    assert code == 3
    u = Trajectory("run.h5").series["force_delta"][0]
    assert out.startswith(f"stopped at step 0, 0 fs: U {u:.4g} eV/Å is above the stop threshold")
    assert out.endswith("; that frame is the last one in run.h5\n")
    assert out.count("\n") == 1
    assert "worst atom" in out
    assert Trajectory("run.h5").frame(-1).step == 0


def test_an_automatic_threshold_is_known_after_the_burn_in_at_constant_temperature(
    forcedelta, water
):
    code, out, _ = forcedelta(
        *water, "--steps", "40", "--ramp-to", "900", "--stop-above", "auto", "--burn-in", "10",
        "--stop-factor", "0.01", "--flag-factor", "0.001", "--json",
    )  # fmt: skip
    facts = json.loads(out)
    assert code == facts["status"] == 3
    assert facts["reason"] == "stopped"
    assert facts["step"] == 10
    series = Trajectory("run.h5").series
    assert facts["stop_threshold"] == pytest.approx(0.01 * series["force_delta"][:10].max())
    assert facts["force_delta"] == series["force_delta"][-1]
    assert facts["file"] == "run.h5"
    assert Trajectory("run.h5").metadata["settings"]["ramp_steps"] == [10, 40]


def test_flagged_frames_are_collected(forcedelta, water):
    code, out, _ = forcedelta(*water, "--steps", "5", "--flag-above", "0", "--flags", "flags.xyz")
    assert code == 0
    assert "6 flagged" in out
    assert len(ase.io.read("flags.xyz", ":")) == 6


def test_every_k_and_conservative_forces(forcedelta, water):
    assert forcedelta(*water, "--steps", "6", "--every", "3", "--out", "k.h5")[0] == 0
    known = np.isfinite(Trajectory("k.h5").series["force_delta"])
    assert list(np.flatnonzero(known)) == [0, 3, 6]
    assert forcedelta(*water, "--steps", "2", "--forces", "conservative", "--out", "c.h5")[0] == 0
    frame = Trajectory("c.h5").frame(0)
    np.testing.assert_allclose(frame.forces, frame.conservative_forces, rtol=1e-6)


def test_the_seed_decides_and_is_recorded_when_drawn(forcedelta, files, here):
    base = ["run", files / "water.xyz", "--model", files / "wet.safetensors", "--steps", "3"]
    assert forcedelta(*base, "--out", "a.h5")[0] == 0
    seed = Trajectory("a.h5").metadata["seed"]
    assert forcedelta(*base, "--out", "b.h5", "--seed", seed)[0] == 0
    assert forcedelta(*base, "--out", "c.h5", "--seed", seed + 1)[0] == 0
    a, b, c = (Trajectory(f"{name}.h5").frame(-1).positions for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-6


def test_momenta_of_the_structure_are_kept(forcedelta, water):
    forcedelta(*water, "--steps", "5", "--out", "first.h5")
    last = Trajectory("first.h5").frame(-1)
    bare_atoms(last).write("moving.xyz")
    water[1] = "moving.xyz"
    code, _, err = forcedelta(*water, "--steps", "1", "--out", "second.h5", "--ensemble", "nve")
    assert code == 0
    assert "velocities from the structure" in err
    np.testing.assert_allclose(
        Trajectory("second.h5").frame(0).velocities,
        last.velocities,
        atol=1e-8,
    )


def test_settings_from_a_file_and_flags_win(forcedelta, files, here):
    Path("run.toml").write_text(
        f'structure = "{files}/water.xyz"\nmodel = "{files}/wet.safetensors"\n'
        'steps = 4\nramp-to = 500\nstop_above = 1e-9\nout = "file.h5"\nseed = 3\noverwrite = true\n'
    )
    code, _, _ = forcedelta("run", "--config", "run.toml", "--stop-above", "none", "--steps", "2")
    assert code == 0
    settings = Trajectory("file.h5").metadata["settings"]
    assert (settings["steps"], settings["ramp_to"], settings["seed"]) == (2, 500.0, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz = 4", "unknown key 'stepz': did you mean 'steps'?"),
        ("steps = 4.5", "steps is 4.5, a number: give a whole number"),
        ("steps = [4]", "steps must be one value"),
        ("steps = ", "not valid TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_settings_file_that_is_wrong(forcedelta, water, text, said):
    if text is not None:
        Path("run.toml").write_text(text)
    code, out, err = forcedelta(*water, "--config", "run.toml")
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_the_pressure_of_npt_compresses(forcedelta, files, here):
    base = [
        "run", files / "crystal.xyz", "--model", files / "solid.safetensors", "--ensemble", "npt",
        "--barostat-tau", "100", "--timestep", "1", "--steps", "30", "--seed", "2",
    ]  # fmt: skip
    volume = {}
    for pressure in (-5, 5):
        code, _, err = forcedelta(*base, "--pressure", pressure, "--out", f"{pressure}.h5")
        assert code == 0
        assert f"{pressure} GPa by the conservative stress" in err
        volume[pressure] = np.linalg.det(Trajectory(f"{pressure}.h5").frame(-1).cell)
    assert volume[5] < 0.98 * volume[-5]


def test_help_and_errors_need_no_torch():
    code = (
        "import sys; from forcedelta.cli import status; "
        "status(['run', '--help']); status(['run', '--stepz']); "
        "status(['run', 'nothing.xyz', '--config', 'nothing.toml']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    for unit in ("fs", "GPa", "eV/Å", "K"):
        assert unit in done.stdout
    assert "130" in done.stdout
