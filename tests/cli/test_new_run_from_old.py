"""A restart with other settings names the command of a new run from the last frame, and it works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from md_hooks import Trajectory


def command_in(err: str) -> list[str]:
    """The command of the new run in the error of a restart."""
    assert err.count("\n") == 1
    found = re.search(r"start a new run from .* with '(forcedelta run .*)'$", err.strip())
    assert found, err
    return shlex.split(found[1])[1:]


def carried_on(old, frame: int, new) -> None:
    """Positions, cell and velocities of a stored frame are those of step 0 of the new run."""
    a, b = Trajectory(old).frame(frame), Trajectory(new).frame(0)
    assert b.step == 0
    np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(a.cell, b.cell)
    np.testing.assert_allclose(a.velocities, b.velocities, rtol=0, atol=1e-15)
    assert np.abs(b.velocities).max() > 1e-3


CHANGES = [
    (["--timestep", "0.25"], {"timestep": 0.25}),
    (["--temperature", "450", "--ramp-to", "600"], {"temperature": 450.0, "ramp_to": 600.0}),
    (["--ensemble", "nve"], {"ensemble": "nve"}),
    (["--every", "3"], {"every": 3}),
    (["--dtype", "float64", "--tau", "50"], {"dtype": "float64", "tau": 50.0}),
    (["--forces", "conservative"], {"forces": "conservative"}),
]


@pytest.mark.parametrize("engine", ["ase", "openmm"])
@pytest.mark.parametrize(("change", "then"), CHANGES, ids=[change[0] for change, _ in CHANGES])
def test_other_settings_start_from_the_last_frame(forcedelta, water, engine, change, then):
    if engine == "openmm":
        pytest.importorskip("openmm")
    first = [*water, "--engine", engine, "--steps", "6", "--tau", "80", "--stop-above", "9"]
    assert forcedelta(*first, "--record-every", "4")[0] == 0
    before = Path("run.h5").read_bytes()
    code, _, err = forcedelta("run", "--restart", "--steps", "8", *change)
    assert code == 2
    command = command_in(err)
    code, _, err = forcedelta(*command)
    assert code == 0, err
    assert Path("run.h5").read_bytes() == before
    carried_on("run.h5", -1, "run-2.h5")
    settings = Trajectory("run-2.h5").metadata["settings"]
    assert settings.items() >= then.items()
    kept = {"engine": engine, "steps": 8, "tau": 80.0, "stop_above": "9.0", "record_every": 4}
    assert {**kept, **then}.items() <= settings.items()
    assert Trajectory("run-2.h5").series["step"][-1] == 8


def test_another_engine_or_model(forcedelta, water, files):
    pytest.importorskip("openmm")
    assert forcedelta(*water, "--steps", "3")[0] == 0
    code, _, err = forcedelta("run", "--restart", "--steps", "6", "--engine", "openmm")
    assert code == 2
    assert forcedelta(*command_in(err))[0] == 0
    carried_on("run.h5", -1, "run-2.h5")
    other = files / "other.safetensors"
    code, _, err = forcedelta("run", "--restart", "--steps", "6", "--model", other)
    assert code == 2
    assert "another model" in err
    assert forcedelta(*command_in(err))[0] == 0
    carried_on("run.h5", -1, "run-3.h5")
    assert Trajectory("run-3.h5").metadata["model"]["name"] == "other"


def test_after_a_stop_it_is_the_frame_before(forcedelta, water):
    run = [*water, "--steps", "200", "--record-every", "1"]
    assert forcedelta(*run)[0] == 0
    u = Trajectory("run.h5").series["force_delta"]
    place = int(np.argmax(u[1:] > np.maximum.accumulate(u)[:-1])) + 1  # the first above all before
    threshold = str((u[place] + u[:place].max()) / 2)
    code, _, _ = forcedelta(*run, "--stop-above", threshold, "--overwrite")
    assert code == 3
    assert Trajectory("run.h5").series["step"][-1] == place
    code, _, err = forcedelta("run", "--restart", "--timestep", "0.1")
    assert code == 2
    assert "the frame before its stop" in err
    command = command_in(err)
    assert "run.h5@-2" in command
    forcedelta(*command)
    carried_on("run.h5", -2, "run-2.h5")
    assert Trajectory("run-2.h5").series["force_delta"][0] < float(threshold)


def test_without_a_frame_before_the_stop(forcedelta, water):
    assert forcedelta(*water, "--steps", "9", "--stop-above", "1e-9")[0] == 3
    code, _, err = forcedelta("run", "--restart", "--timestep", "0.1")
    assert code == 2
    assert "from its last frame" in err
    assert forcedelta(*command_in(err))[0] == 3


def test_names_with_spaces(forcedelta, water, here):
    assert forcedelta(*water, "--steps", "3", "--out", "my run.h5")[0] == 0
    code, _, err = forcedelta("run", "--restart", "--out", "my run.h5", "--timestep", "0.1")
    assert code == 2
    # single quotes of the shell within those of the sentence
    words = shlex.split(err[err.index("'forcedelta") + 1 :].strip()[:-1])
    assert words[2:5] == ["my run.h5", "--out", "my run-2.h5"]
    assert forcedelta(*words[1:])[0] == 0
