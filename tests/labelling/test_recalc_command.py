"""``forcedelta recalc``, from a recorded run to a trained model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

import ase.io
import numpy as np
import pytest
from ase.calculators.calculator import compare_atoms
from doubtful_frames import doubtful, record_attack
from references import labels_in
from typer.testing import CliRunner

from forcedelta import ForceDeltaError, load_model
from forcedelta.cli.training import app as training
from md_hooks import Trajectory

pytest.importorskip("pyscf")
pytest.importorskip("tblite")
pytest.importorskip("dscribe")

BAND = ["--flag-above", "0.05", "--stop-above", "1"]


@pytest.fixture
def water(tmp_path):
    """Four flagged frames of water, the one with the largest U first."""
    frames = [doubtful(seed, force_delta=0.5 - 0.1 * seed) for seed in range(4)]
    ase.io.write(tmp_path / "flagged.xyz", frames)
    return frames


def test_a_run_becomes_labelled_data(forcedelta, run_file):
    from tblite.ase import TBLite

    code, out, err = forcedelta(
        "recalc", run_file, "--calculator", "tblite", "--select", 2, "--workers", 2, "--json"
    )
    assert code == 0
    facts = json.loads(out)
    assert facts["labelled"] == 2
    assert facts["failed"] == facts["waiting"] == 0
    assert sum(facts["left_out"].values()) == len(Trajectory(run_file)) - 2
    assert facts["band"]["lower"] == 0.04
    # acac was trained at PBE-D3, as the run's file tells
    (warning,) = facts["warnings"]
    assert "acac was trained at UHF PBE+D3/def2-SVP (ORCA 5), the labels are at GFN2-xTB" in warning
    assert warning in err
    frames = ase.io.read("labelled.xyz", ":")
    assert [atoms.info["step"] for atoms in frames] == [entry["step"] for entry in facts["frames"]]
    recorded = {frame.step: frame for frame in Trajectory(run_file).frames()}
    for atoms, entry in zip(frames, facts["frames"], strict=True):
        frame = recorded[atoms.info["step"]]
        again = atoms.copy()
        again.calc = TBLite(method="GFN2-xTB", verbosity=0)
        np.testing.assert_allclose(atoms.get_forces(), again.get_forces(), atol=1e-5)
        np.testing.assert_allclose(atoms.arrays["direct_forces"], frame.direct_forces, atol=1e-7)
        error = np.sqrt(np.mean((frame.direct_forces - atoms.get_forces()) ** 2))
        assert atoms.info["epsilon"] == pytest.approx(error, rel=1e-5)
        assert entry["epsilon"] == pytest.approx(error, rel=1e-5)
        assert atoms.info["model_energy"] == pytest.approx(frame.energy)


def test_path_and_move_of_an_attack_reach_the_labels(forcedelta, tmp_path):
    frames = [doubtful(seed, step=seed, force_delta=0.2 + 0.1 * seed) for seed in range(4)]
    for number, atoms in enumerate(frames):
        atoms.info.update(path=number // 2, move=7 + number % 2)
    record_attack(tmp_path / "attack.h5", frames)
    stored = [(atoms.info["path"], atoms.info["move"]) for atoms in ase.io.read("attack.h5", ":")]
    assert stored == [(0, 7), (0, 8), (1, 7), (1, 8)]
    command = ["recalc", "attack.h5", "--calculator", "tblite", "--select", 2, *BAND, "--json"]
    code, out, err = forcedelta(*command, "--by", "u-diversity")
    assert code == 0
    assert [(entry["path"], entry["move"]) for entry in json.loads(out)["frames"]] == [
        (1, 8),
        (0, 8),
    ]
    assert "path 1, move 8, U 0.5 eV/Å" in err
    for atoms, path in zip(ase.io.read("labelled.xyz", ":"), (1, 0), strict=True):
        assert (atoms.info["path"], atoms.info["move"]) == (path, 8)
        assert atoms.info["epsilon"] > 0
    code, _, err = forcedelta(*command, "--by", "size")
    assert code == 2
    assert "--by" in err


def test_a_dry_run_writes_nothing(forcedelta, water, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, out, _ = forcedelta(
        "recalc", "flagged.xyz", "--calculator", "pyscf", "--xc", "pbe0", "--basis", "def2-tzvp",
        "--dry-run", *BAND,
    )  # fmt: skip
    assert code == 0
    assert "PBE0-D3(BJ)/def2-tzvp" in out
    assert "4 calculations would be made" in out
    assert sorted(tmp_path.iterdir()) == before


def test_unconverged_frames_are_reported_and_taken_up_again(forcedelta, water, tmp_path):
    command = ["recalc", "flagged.xyz", "--calculator", "pyscf", "--basis", "sto-3g", *BAND,
               "--select", 1]  # fmt: skip
    code, out, _ = forcedelta(*command, "--set", "max_cycle=1")
    assert code == 5
    assert out.count("failed: SCF not converged within max_cycle=1") == 1
    assert "0 of 1 frames labelled; 1 failed; repeat the same command to continue" in out
    assert not (tmp_path / "labelled.xyz").exists()
    assert len(list((tmp_path / "labelled.xyz.jobs").iterdir())) == 1
    code, out, _ = forcedelta(*command)
    assert code == 0
    assert "1 of 1 frames labelled in labelled.xyz" in out
    code, out, _ = forcedelta(*command)
    assert code == 0
    assert "1 of 1 were labelled before" in out


HELD = ["recalc", "flagged.xyz", "--calculator", "references:Held", *BAND]
HANGS = 600  # s; no verdict, the end of a test that hangs


def start_recalc(start, journal, labels):
    """Label the frames in another process, up to a number of labels; the next one is held."""
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(sys.path), HELD_JOURNAL=str(journal),
        HELD_LABELS=str(labels),
    )  # fmt: skip
    process = start(*HELD, env=environment)
    end = time.monotonic() + HANGS
    while labels_in(journal) < labels:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def processes_in(folder):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has just ended
            if os.readlink(f"/proc/{name}/cwd").startswith(str(folder)):
                found.append(name)
    return found


def test_kill_9_loses_one_calculation_and_the_same_command_goes_on(
    forcedelta, water, tmp_path, start
):
    path = tmp_path / "labelled.xyz.journal"
    process = start_recalc(start, path, labels=2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    end = time.monotonic() + HANGS
    while processes_in(tmp_path / "labelled.xyz.jobs"):  # the third one ends itself
        assert time.monotonic() < end
        time.sleep(0.05)
    # two at a time: kill -9 hits a pool as well
    code, out, _ = forcedelta(*HELD, "--workers", 2)
    assert code == 0
    assert "2 of 4 were labelled before" in out
    assert path.read_bytes().startswith(before)
    frames = ase.io.read(tmp_path / "labelled.xyz", ":")
    assert len(frames) == 4
    for atoms, original in zip(frames, water, strict=True):
        assert compare_atoms(atoms, original, tol=1e-7) in ([], ["initial_magmoms"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_130_and_keeps_what_is_done(water, tmp_path, start, number):
    process = start_recalc(start, tmp_path / "labelled.xyz.journal", labels=1)
    process.send_signal(number)
    _, err = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert err.splitlines() == [
        "interrupted; finished frames are in labelled.xyz; repeat the same command to continue"
    ]
    assert len(ase.io.read(tmp_path / "labelled.xyz", ":")) == 1


RECIPE = """
training = ["labelled.xyz"]
validation = 0.25

[network]
cutoff = 4.0
features = 8
channels = 4
layers = 1

[settings]
epochs = 3
batch_size = 2
warm_up = 1

[metadata]
name = "wet"
training_set = "labelled"
source = "this test"
licence = "MIT"
level_of_theory = "GFN2-xTB"
regime = "energy, direct forces and gradient"
periodic = false
"""


def test_the_labelled_file_is_what_training_takes(forcedelta, water, tmp_path):
    code, *_ = forcedelta("recalc", "flagged.xyz", "--calculator", "tblite", *BAND)
    assert code == 0
    (tmp_path / "recipe.toml").write_text(RECIPE)
    arguments = ["train", "recipe.toml", "--out", "wet.safetensors"]
    answer = CliRunner().invoke(training, arguments)
    assert answer.exit_code == 0, answer.output
    assert "3 training frames, 1 held out" in answer.output
    assert load_model(tmp_path / "wet.safetensors").symbols == ["H", "O"]
    # a labelled file is a source of frames, too
    code, *_ = forcedelta("recalc", "labelled.xyz", "--calculator", "tblite", "--dry-run", *BAND)
    assert code == 0

    (tmp_path / "recipe.toml").write_text(RECIPE.replace("batch_size = 2", "batch_size = 4"))
    answer = CliRunner().invoke(training, arguments)
    assert isinstance(answer.exception, ForceDeltaError)
    assert "the 3 training frames do not fill a batch of 4" in str(answer.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.h5", "--calculator", "tblite"], "none.h5 cannot be read"),
        (["flagged.xyz", "--calculator", "tblyte"], "no calculator is called 'tblyte'"),
        (["flagged.xyz", "--calculator", "pyscf", "--set", "nonsense"], "expected KEY=VALUE"),
        (["flagged.xyz", "--calculator", "pyscf", "--set", "spin=2"], "cannot have the multiplicity 2"),
        (["flagged.xyz", "--calculator", "gpaw_", "--settings", "no.toml"], "no.toml cannot be read"),
        (["flagged.xyz", "--calculator", "vasp", "--xc", "pbe"], "vasp has no setting 'xc'"),
        (["flagged.xyz", "--calculator", "tblite", "--out", "no/x.xyz"], "make the folder no first"),
        (["flagged.xyz", "--calculator", "tblite", "--flag-above", "9"], "is empty"),
        (["truncated.h5", "--calculator", "tblite"], "cut off"),
        (["text.xyz", "--calculator", "tblite"], "cannot be read as extended XYZ"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(
    forcedelta, water, run_file, tmp_path, arguments, words
):
    (tmp_path / "truncated.h5").write_bytes(run_file.read_bytes()[:3000])
    (tmp_path / "text.xyz").write_text("hello\n")
    code, _, err = forcedelta("recalc", *arguments)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_nothing_in_the_band_is_said_and_no_error(forcedelta, water):
    code, out, _ = forcedelta(
        "recalc", "flagged.xyz", "--calculator", "tblite", "--flag-above", 0.9, "--stop-above", 1
    )
    assert code == 0
    assert "4 left out: below the band" in out
    assert "no frame lies in the band; give another one with --flag-above" in out
