"""A run that was interrupted and continued equals one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms

from forcedelta.ase import ForceDeltaCalculator
from md_hooks import Trajectory


def same(straight: str, continued: str) -> None:
    """Every step's scalars, thresholds and the last frame are equal to the last bit."""
    a, b = Trajectory(straight), Trajectory(continued)
    assert a.series.keys() == b.series.keys()
    for name, values in a.series.items():
        np.testing.assert_array_equal(values, b.series[name], err_msg=name)
    assert a.thresholds == b.thresholds
    assert set(a.frame_steps) <= set(b.frame_steps)
    last, other = a.frame(-1), b.frame(-1)
    for name in ("positions", "velocities", "cell", "forces"):
        np.testing.assert_array_equal(getattr(last, name), getattr(other, name), err_msg=name)


@pytest.fixture
def interrupt(monkeypatch):
    """Sends this process SIGTERM in the middle of an evaluation."""
    calculate = ForceDeltaCalculator.calculate

    def at(evaluation: int) -> None:
        def counted(self, *args, **kwargs):
            if self.evaluations == evaluation:
                monkeypatch.setattr(ForceDeltaCalculator, "calculate", calculate)
                os.kill(os.getpid(), signal.SIGTERM)
            calculate(self, *args, **kwargs)

        monkeypatch.setattr(ForceDeltaCalculator, "calculate", counted)

    return at


def arguments(files: Path, ensemble: str) -> list[str]:
    system = ("crystal.xyz", "solid") if ensemble == "npt" else ("water.xyz", "wet")
    found = [
        "run", str(files / system[0]), "--model", str(files / f"{system[1]}.safetensors"),
        "--ensemble", ensemble, "--steps", "40", "--seed", "5", "--record-every", "7",
        "--stop-above", "auto", "--burn-in", "15", "--stop-factor", "900", "--flag-factor", "0.9",
        "--patience", "2/3",
    ]  # fmt: skip
    return found if ensemble == "nve" else [*found, "--ramp-to", "900"]


@pytest.mark.parametrize(
    ("ensemble", "every", "evaluation"),
    [  # within the burn-in of 15 steps, or on the ramp after it
        ("nve", 1, 10), ("langevin", 1, 23), ("langevin", 3, 10), ("bussi", 1, 10),
        ("bussi", 3, 23), ("npt", 1, 10), ("npt", 1, 23),
    ],
)  # fmt: skip
def test_restart_equals_no_restart(forcedelta, files, here, interrupt, ensemble, every, evaluation):
    command = [*arguments(files, ensemble), "--every", str(every)]
    assert forcedelta(*command, "--out", "straight.h5")[0] == 0
    interrupt(evaluation)
    code, out, _ = forcedelta(*command, "--out", "parts.h5")
    assert code == 130
    assert out.startswith(f"interrupted after step {evaluation}, ")
    assert "--restart" in out
    assert Trajectory("parts.h5").series["step"][-1] == evaluation
    assert Trajectory("parts.h5").outcome["reason"] == "interrupted"
    code, out, err = forcedelta("run", "--restart", "--out", "parts.h5")
    assert code == 0
    assert f"continued from step {evaluation}" in err
    same("straight.h5", "parts.h5")


def test_a_killed_run_goes_on(forcedelta, water, start, reached):
    process = start(*water, "--steps", "1000000", "--record-every", "20", "--out", "killed.h5")
    reached("killed.h5", 20)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = Trajectory("killed.h5")
    assert killed.outcome["reason"] == "running"
    steps = str(killed.series["step"][-1] + 30)
    # the same command as before: settings that agree may be repeated
    code, _, err = forcedelta(*water, "--steps", steps, "--out", "killed.h5", "--restart")
    assert code == 0, err
    assert forcedelta(*water, "--steps", steps, "--record-every", "20", "--out", "s.h5")[0] == 0
    same("s.h5", "killed.h5")


def test_a_finished_run_can_be_made_longer_and_its_ramp_stays(forcedelta, water):
    command = [*water, "--ramp-to", "600", "--steps"]
    assert forcedelta(*command, "10")[0] == 0
    code, out, _ = forcedelta(*command, "10", "--restart")
    assert (code, out) == (0, "done: step 10, 5 fs; trajectory in run.h5\n")
    assert len(Trajectory("run.h5").runs) == 1
    assert forcedelta(*command, "15", "--restart")[0] == 0
    trajectory = Trajectory("run.h5")
    assert list(trajectory.series["step"]) == list(range(16))
    assert trajectory.metadata["settings"]["ramp_steps"] == [0, 10]


def test_thresholds_may_change_after_a_stop(forcedelta, water):
    assert forcedelta(*water, "--steps", "10", "--stop-above", "1e-9")[0] == 3
    assert forcedelta("run", "--restart", "--stop-above", "none")[0] == 0
    assert list(Trajectory("run.h5").series["step"]) == list(range(11))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--timestep", "1"], "--timestep 1.0 differs from the run in run.h5, which has 0.5"),
        (["--seed", "2"], "--seed 2 differs"),
        (["--ensemble", "nve"], "--ensemble nve differs"),
        (["--overwrite"], "pass only one of them"),
    ],
)
def test_other_settings_are_refused(forcedelta, water, change, said):
    assert forcedelta(*water, "--steps", "3")[0] == 0
    before = Path("run.h5").read_bytes()
    code, _, err = forcedelta("run", "--restart", "--steps", "6", *change)
    assert code == 2
    assert said in err
    assert Path("run.h5").read_bytes() == before


def test_another_system_or_model_is_refused(forcedelta, files, water):
    assert forcedelta(*water, "--steps", "3")[0] == 0
    Path("hydroxyl.xyz").write_text("2\n\nO 0 0 0\nH 0 0 1\n")
    Path("wrong.xyz").write_text("3\n\nO 0 0 0\nO 0 0 1.2\nH 0 0 2.2\n")
    for name in ("hydroxyl.xyz", "wrong.xyz"):
        code, _, err = forcedelta("run", name, "--restart", "--steps", "6")
        assert code == 2
        assert err.count("\n") == 1
        assert "run.h5 holds another system" in err
    code, _, err = forcedelta(
        "run", "--restart", "--steps", "6", "--model", files / "other.safetensors"
    )
    assert code == 2
    assert "another model" in err
    assert Trajectory("run.h5").series["step"][-1] == 3


def test_constraints_come_back_at_a_restart(forcedelta, files, here):
    atoms = ase.io.read(files / "water.xyz")
    atoms.set_constraint(FixAtoms([0]))
    atoms.write("fixed.xyz", columns=["symbols", "positions", "move_mask"])
    model = files / "wet.safetensors"
    assert forcedelta("run", "fixed.xyz", "--model", model, "--steps", "3")[0] == 0
    code, _, err = forcedelta("run", files / "water.xyz", "--restart", "--steps", "6")
    assert code == 2
    assert "other constraints" in err
    assert forcedelta("run", "fixed.xyz", "--restart", "--steps", "6")[0] == 0
    assert forcedelta("run", "--restart", "--steps", "9")[0] == 0
    frames = list(Trajectory("run.h5").frames())
    np.testing.assert_array_equal(frames[0].positions[0], frames[-1].positions[0])
    assert np.abs(frames[0].positions[1] - frames[-1].positions[1]).max() > 1e-4


def test_nothing_to_continue(forcedelta, here):
    code, _, err = forcedelta("run", "--restart", "--out", "nothing.h5")
    assert code == 2
    assert "nothing.h5 does not exist" in err
