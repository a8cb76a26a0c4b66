"""``forcedelta run --engine openmm`` and ``forcedelta export``."""

import json
import signal
import subprocess
import time

import ase.io
import numpy as np
import pytest
import torch
from command_line import PROGRAM
from simulations import crystal

from forcedelta.cli import status
from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork
from md_hooks import HookError, Trajectory, load_checkpoint


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a structure and a small network; the commands run in it."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DirectForceNetwork([14], 4.0, features=16, channels=4, layers=1)
    network.energy_scale.mul_(0.05)
    metadata = dict.fromkeys(
        ("name", "training_set", "source", "level_of_theory", "regime", "licence"), "tiny"
    )
    save_network(tmp_path / "si.safetensors", network, {**metadata, "periodic": True, "tests": {}})
    ase.io.write(tmp_path / "si.xyz", crystal())
    return tmp_path


RUN = ["run", "si.xyz", "--model", "./si.safetensors", "--engine", "openmm", "--seed", "4"]


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "npt"])
def test_a_continued_run_equals_one_that_was_not_interrupted(ensemble, files):
    options = [*RUN, "--ensemble", ensemble, "--dtype", "float64"]
    assert status([*options, "--steps", "40", "--out", "whole.h5"]) == 0
    assert status([*options, "--steps", "25", "--out", "parts.h5"]) == 0
    assert status(["run", "--restart", "--steps", "40", "--out", "parts.h5"]) == 0
    whole, parts = Trajectory("whole.h5"), Trajectory("parts.h5")
    assert parts.series["step"].tolist() == list(range(41))
    for name in ("potential_energy", "temperature", "force_delta", "time", "worst_atom"):
        np.testing.assert_array_equal(whole.series[name], parts.series[name])
    np.testing.assert_array_equal(whole.frame(-1).positions, parts.frame(-1).positions)
    assert parts.metadata["settings"]["engine"] == "openmm"


def test_the_guard_stops_with_status_3(files, capsys):
    assert status([*RUN, "--steps", "20", "--stop-above", "0", "--json"]) == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["reason"], facts["step"]) == ("stopped", 0)
    assert Trajectory("run.h5").frame_steps.tolist() == [0]


def test_the_same_as_ase(files):
    """Start structure, velocities and U; then round-off."""
    options = ["run", "si.xyz", "--model", "./si.safetensors", "--seed", "4", "--steps", "10",
               "--ensemble", "nve", "--dtype", "float64"]  # fmt: skip
    assert status([*options, "--engine", "openmm", "--out", "openmm.h5"]) == 0
    assert status([*options, "--engine", "ase", "--out", "ase.h5"]) == 0
    one, other = Trajectory("openmm.h5"), Trajectory("ase.h5")
    np.testing.assert_allclose(
        one.series["force_delta"], other.series["force_delta"], rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(one.frame(-1).positions, other.frame(-1).positions, atol=1e-9)


def start(out):
    """A long run in a process of its own, once it has recorded something."""
    command = [*PROGRAM, *RUN, "--steps", "100000000", "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 600  # no verdict: the end of a test that hangs
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0]
        try:
            if len(Trajectory(out).series["step"]) > 20:
                return process
        except (HookError, KeyError):
            pass
        time.sleep(0.05)
    process.kill()
    process.communicate()
    raise AssertionError("the run recorded nothing")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_status_130(number, files):
    process = start("run.h5")
    process.send_signal(number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "interrupted after step" in output
    assert "Traceback" not in output
    recorded = Trajectory("run.h5")
    last = int(recorded.series["step"][-1])
    assert recorded.outcome["reason"] == "interrupted"
    assert load_checkpoint("run.h5").step == last
    assert status(["run", "--restart", "--steps", str(last + 5)]) == 0
    assert Trajectory("run.h5").series["step"].tolist() == list(range(last + 6))


@pytest.mark.slow
def test_a_killed_run_goes_on(files):
    process = start("run.h5")
    process.kill()
    process.communicate()
    step = load_checkpoint("run.h5").step
    assert status(["run", "--restart", "--steps", str(step + 20)]) == 0
    assert status([*RUN, "--steps", str(step + 20), "--out", "whole.h5"]) == 0
    parts, whole = Trajectory("run.h5"), Trajectory("whole.h5")
    assert parts.series["step"].tolist() == list(range(step + 21))
    np.testing.assert_array_equal(parts.series["force_delta"], whole.series["force_delta"])


def test_bad_input_is_one_line(files, capsys):
    assert status([*RUN, "--steps", "5", "--ensemble", "bussi"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error == ["error: OpenMM has no ensemble bussi: choose langevin, or --engine ase"]
    assert status([*RUN, "--steps", "5"]) == 0
    assert status(["run", "--restart", "--engine", "ase", "--steps", "9"]) == 2
    assert "--engine ase differs from the run" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_export(files, capsys):
    command = ["export", "./si.safetensors", "--out", "si.pt"]
    assert status(command) == 0
    assert "si.pt" in capsys.readouterr().out
    assert hasattr(torch.jit.load("si.pt"), "bind")
    assert status(command) == 2
    assert "exists: pass --overwrite" in capsys.readouterr().err
    assert status([*command, "--overwrite"]) == 0
