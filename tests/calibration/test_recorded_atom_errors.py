"""Predicted errors of atoms in what runs and audits record."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from labelled_water import predicted, water

from forcedelta import ForceDeltaCalculator, PredictedErrorHook, guarded_run
from forcedelta.calibration.calibrate_error import calibrate_error
from forcedelta.calibration.predicted_error import COVERAGE
from forcedelta.calibration.predicted_error_file import text_of
from forcedelta.report.html import write_report
from md_hooks import HookChain, HookError, Recorder, RunInfo, RunResult, Trajectory
from md_hooks.h5md.layout import PARTICLES
from md_hooks.predicted_error import PREDICTED_ATOMS

FRAMES = 160
EXACT = 3e-7
"""Relative; that of float32."""


@pytest.fixture(scope="session")
def labels(files):
    """Water labelled by the energy of another model, so that the error of an atom is not its u_i."""
    wet = ForceDeltaCalculator(files / "wet.safetensors")
    other = ForceDeltaCalculator(files / "other.safetensors")
    frames = []
    for atoms in water(2 * FRAMES):
        frame = predicted(atoms, wet)
        other.calculate(atoms, ["force_delta"])
        results = other.results
        frame.calc = SinglePointCalculator(
            frame, energy=results["energy"], forces=results["conservative_forces"]
        )
        frames.append(frame)
    order = np.random.default_rng(0).permutation(2 * FRAMES)
    return [frames[k] for k in order]


@pytest.fixture(scope="session")
def found(labels, tmp_path_factory):
    """The predicted error from one half of the labels."""
    path = tmp_path_factory.mktemp("labels") / "labels.xyz"
    ase.io.write(path, labels[:FRAMES])
    return calibrate_error(path)


@pytest.fixture
def error_file(found, here):
    Path("error.json").write_bytes(text_of(found))
    return "error.json"


@pytest.fixture
def run(files, forcedelta, error_file):
    """Runs water with the calibration; gives what was recorded."""

    def call(*arguments, out="run.h5"):
        code, _, err = forcedelta(
            "run", files / "water.xyz", "--model", files / "wet.safetensors", "--seed", 1, "--steps",
            12, "--temperature", 30, "--calibration", error_file, "--record-every", 1, "--out", out,
            *arguments,
        )  # fmt: skip
        assert code == 0, err
        return Trajectory(out)

    return call


def arrays_of(frame):
    return np.array([getattr(frame, name) for name in PREDICTED_ATOMS])


def by_element(found, frame):
    """[3, N] what the fit of each element predicts from the recorded u_i."""
    expected = np.full((3, len(frame.numbers)), np.nan)
    for symbol, one in found.atoms.items():
        mine = np.array(Atoms(frame.numbers).symbols) == symbol
        expected[:, mine] = one.predict(frame.force_deltas[mine].astype(float))
    return expected


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_a_run_records_what_the_fits_predict(run, found, engine):
    if engine == "openmm":
        pytest.importorskip("openmm")
    frames = list(run("--engine", engine).frames())
    assert len(frames) == 13
    for frame in frames:
        np.testing.assert_allclose(arrays_of(frame), by_element(found, frame), rtol=EXACT)
        told = found.predict_atoms(frame.numbers, frame.force_deltas)
        np.testing.assert_allclose(arrays_of(frame), told, rtol=EXACT)
    with h5py.File("run.h5") as file:
        for name in PREDICTED_ATOMS:
            element = file[f"{PARTICLES}/{name}"]
            assert element["value"].shape == (13, 3)
            assert element["value"].attrs["unit"] == "eV Angstrom-1"
            assert element["step"] == file[f"{PARTICLES}/position/step"]
        assert file["per_step/predicted_error/value"].attrs["unit"] == "eV Angstrom-1"


def test_recorded_intervals_cover_labels_that_the_fit_has_not_seen(
    labels, found, files, here, forcedelta, error_file
):
    """As often as those of the calibration itself, and as often as it states."""
    held_out = labels[FRAMES:]
    ase.io.write("held_out.xyz", held_out)
    code, *_ = forcedelta(
        "audit", "held_out.xyz", "--model", files / "wet.safetensors", "--calibration", error_file,
        "--record-every", 1, "--out", "audit.h5",
    )  # fmt: skip
    assert code == 0
    inside, stated = {"H": [], "O": []}, {"H": [], "O": []}
    frames = list(Trajectory("audit.h5").frames())
    assert len(frames) == FRAMES
    for frame, label in zip(frames, held_out, strict=True):
        difference = label.arrays["direct_forces"] - label.calc.results["forces"]
        error = np.sqrt(np.mean(difference**2, axis=1))
        _, low, high = arrays_of(frame)
        for atom, symbol in enumerate(label.symbols):
            inside[symbol].append(low[atom] <= error[atom] <= high[atom])
            u = label.arrays["force_deltas"][[atom]]
            _, lowest, highest = found.atoms[symbol].predict(u)
            stated[symbol].append(lowest[0] <= error[atom] <= highest[0])
    for symbol, one in found.atoms.items():
        assert np.mean(inside[symbol]) == np.mean(stated[symbol])
        # two standard errors of the share of frames, whose atoms are alike
        assert np.mean(inside[symbol]) == pytest.approx(
            one.coverage, abs=2 * np.sqrt(COVERAGE * (1 - COVERAGE) / FRAMES)
        )


@pytest.mark.slow
def test_a_restart_records_what_one_run_does(run, forcedelta):
    whole = run(out="whole.h5")
    run("--steps", 5, out="parts.h5")
    assert forcedelta("run", "--restart", "--out", "parts.h5", "--steps", 12)[0] == 0
    frames = list(Trajectory("parts.h5").frames())
    assert len(frames) == 13
    for one, other in zip(whole.frames(), frames, strict=True):
        np.testing.assert_array_equal(arrays_of(one), arrays_of(other))


def test_frames_without_u_have_none(run, found):
    for frame in run("--every", 2).frames():
        known = frame.step % 2 == 0
        assert (frame.force_deltas is not None) == known
        assert all((getattr(frame, name) is not None) == known for name in PREDICTED_ATOMS)
    hook = PredictedErrorHook(found)
    assert hook.annotate_atoms(Trajectory("run.h5").frame(0))
    assert not hook.annotate_atoms(replace(Trajectory("run.h5").frame(0), force_delta=np.nan))


def test_a_changed_value_is_no_prediction(run):
    run()
    with h5py.File("run.h5", "r+") as file:
        file[f"{PARTICLES}/predicted_errors_high/value"][3, 1] *= 0.5
    with pytest.raises(HookError, match="do not fit their checksums"):
        Trajectory("run.h5").frame(3)


def test_they_go_with_their_atoms(found, files, here, forcedelta, error_file):
    """A permutation of the atoms permutes them, in frames of one audit."""
    atoms = water(1)[0]
    order = [2, 0, 1]
    ase.io.write("both.xyz", [atoms, atoms[order]])
    code, *_ = forcedelta(
        "audit", "both.xyz", "--model", files / "wet.safetensors", "--calibration", error_file,
        "--record-every", 1, "--out", "audit.h5",
    )  # fmt: skip
    assert code == 0
    one, other = Trajectory("audit.h5").frames()
    np.testing.assert_allclose(arrays_of(one)[:, order], arrays_of(other), rtol=1e-5)
    assert arrays_of(one)[0].std() > 0


def test_ase_and_extended_xyz_have_them(run):
    trajectory = run("--flags", "flags.xyz", "--flag-error", "1e-4")
    expected = [arrays_of(frame) for frame in trajectory.frames()]
    for frames in (ase.io.read("run.h5", ":"), ase.io.read("flags.xyz", ":")):
        assert len(frames) == 13
        for atoms, values in zip(frames, expected, strict=True):
            stored = [atoms.arrays[name] for name in PREDICTED_ATOMS]
            np.testing.assert_allclose(stored, values, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_labelled_frames_have_them(run, forcedelta):
    expected = [arrays_of(frame) for frame in run().frames()]
    assert forcedelta(
        "recalc", "run.h5", "--select", 2, "--stop-above", 9, "--calculator",
        "ase.calculators.lj:LennardJones", "--out", "labelled.xyz",
    )[0] == 0  # fmt: skip
    for atoms in ase.io.read("labelled.xyz", ":"):
        stored = [atoms.arrays[name] for name in PREDICTED_ATOMS]
        np.testing.assert_allclose(stored, expected[atoms.info["step"]], rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_the_report_shows_them(found, files, here, caplog):
    """In the table for the worst atom, and in the picture that a browser draws; nothing for NaN."""
    for name, atoms in (("all", found.atoms), ("none", {"O": found.atoms["O"]}), ("plain", {})):
        guarded_run(
            files / "water.xyz", files / "wet.safetensors", 3, seed=1, temperature=30, record_every=1,
            calibration=replace(found, atoms=atoms), out=f"{name}.h5",
        )  # fmt: skip
        write_report([f"{name}.h5"], Path(f"{name}.html"))
        page, frames = Path(f"{name}.html").read_text(), list(Trajectory(f"{name}.h5").frames())
        [views] = json.loads(re.search(r'id="views">(.*?)</script>', page)[1])
        assert len(views) == len(frames) == 4
        for view, frame in zip(views, frames, strict=True):
            assert view["errors"] == [] if name == "plain" else len(view["errors"]) == 3
            for symbol, index, words in zip(
                view["symbols"], view["indices"], view["errors"], strict=False
            ):
                centre, low, high = arrays_of(frame)[:, index]
                known = name == "all" or symbol == "O"
                assert words == (f"{centre:.2g} ({low:.2g} to {high:.2g}) eV/Å" if known else "")
        known = [view["errors"][frame.worst_atom] if view["errors"] else ""
                 for view, frame in zip(views, frames, strict=True)]  # fmt: skip
        assert ("<th>its predicted error</th>" in page) == any(known)
        for frame, words in zip(frames, known, strict=True):
            worst = f"{chemical_symbols[frame.numbers[frame.worst_atom]]}{frame.worst_atom}"
            assert f"<td>{worst}</td>" + (f"<td>{words}</td>" if any(known) else "") in page


def test_elements_without_a_fit_are_nan_and_told_once(found, files, here, caplog):
    part = replace(found, atoms={"O": found.atoms["O"]})
    with caplog.at_level(logging.WARNING):
        guarded_run(
            files / "water.xyz", files / "wet.safetensors", 4, seed=1, temperature=30,
            calibration=part, record_every=1, flag_error=1e-4, flags="flags.xyz",
        )  # fmt: skip
    told = [text for text in caplog.messages if "NaN" in text]
    assert len(told) == 1
    assert "the predicted errors of atoms of H are NaN" in told[0]
    trajectory = Trajectory("run.h5")
    for frames in (trajectory.frames(), ase.io.read("flags.xyz", ":")):
        for frame in frames:
            oxygen = np.array(frame.numbers) == 8
            for name in PREDICTED_ATOMS:
                values = frame.arrays[name] if isinstance(frame, Atoms) else getattr(frame, name)
                np.testing.assert_array_equal(np.isfinite(values), oxygen)
    oxygen = trajectory.frame(0).numbers == 8
    np.testing.assert_allclose(
        arrays_of(trajectory.frame(0))[:, oxygen],
        found.predict_atoms(np.array([8]), trajectory.frame(0).force_deltas[oxygen]),
        rtol=EXACT,
    )


def test_a_calibration_without_fits_of_atoms_records_none(found, files, here, caplog):
    guarded_run(
        files / "water.xyz", files / "wet.safetensors", 2, seed=1, temperature=30,
        calibration=replace(found, atoms={}), record_every=1,
    )  # fmt: skip
    assert np.isfinite(Trajectory("run.h5").series["predicted_error"]).all()
    assert not [text for text in caplog.messages if "NaN" in text]
    with h5py.File("run.h5") as file:
        assert not set(PREDICTED_ATOMS) & set(file[PARTICLES])


def test_files_of_earlier_versions_are_read_and_continued(found, files, here):
    """They have predicted errors of frames only; appended frames get those of atoms."""
    guarded_run(
        files / "water.xyz", files / "wet.safetensors", 4, seed=1, temperature=30,
        calibration=replace(found, atoms={}), record_every=1,
    )  # fmt: skip
    old = list(Trajectory("run.h5").frames())
    assert all(getattr(frame, name) is None for frame in old for name in PREDICTED_ATOMS)
    assert not set(PREDICTED_ATOMS) & set(ase.io.read("run.h5").arrays)
    chain = HookChain([PredictedErrorHook(found), Recorder("run.h5", every=1, mode="append")])
    chain.open(RunInfo(numbers=old[0].numbers))
    for frame in old:
        chain.dispatch(replace(frame, step=frame.step + 5))
    chain.close(RunResult("finished", 9, 0.0))
    frames = list(Trajectory("run.h5").frames())
    assert [frame.predicted_errors is not None for frame in frames] == [False] * 5 + [True] * 5
    np.testing.assert_allclose(arrays_of(frames[7]), by_element(found, frames[7]), rtol=EXACT)


def test_what_hooks_tell_of_atoms_is_checked(files, here, found):
    guarded_run(files / "water.xyz", files / "wet.safetensors", 1, seed=1)
    frame = Trajectory("run.h5").frame(0)

    class Tells:
        def __init__(self, name, values):
            self.told = {name: values}

        def annotate_atoms(self, frame):
            return self.told

        def observe(self, frame, verdict):
            self.seen = frame

    hook = Tells("predicted_errors", np.arange(3.0))
    HookChain([hook]).dispatch(frame)
    np.testing.assert_array_equal(hook.seen.predicted_errors, [0, 1, 2])
    for name, values in (("predicted_errors", np.zeros(2)), ("force_deltas", np.zeros(3))):
        with pytest.raises(
            HookError, match=f"annotate_atoms of Tells returned {name} of the shape"
        ):
            HookChain([Tells(name, values)]).dispatch(frame)
