"""Runs and audits with a predicted error."""

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from forcedelta import ForceDeltaCalculator, PredictedErrorHook, guarded_run, read_predicted_error
from forcedelta.calibration.calibrate_error import calibrate_error
from forcedelta.calibration.predicted_error_file import text_of
from forcedelta.calibration.signals import Signals, composition, frame_signals, rigid_force
from forcedelta.errors import ForceDeltaError
from md_hooks import Action, HookChain, RunInfo, Trajectory
from md_hooks.predicted_error import OUTSIDE, PREDICTED


@pytest.fixture(scope="session")
def error_file(files, tmp_path_factory):
    """The predicted error of the model wet."""
    path = tmp_path_factory.mktemp("error") / "error.json"
    path.write_bytes(text_of(calibrate_error(files / "full.xyz")))
    return path


@pytest.fixture
def start(files, here, error_file):
    """Arguments of a run of water with a predicted error."""
    return [
        "run", files / "water.xyz", "--model", files / "wet.safetensors", "--seed", "1",
        "--steps", "30", "--temperature", "30", "--calibration", error_file, "--record-every", "3",
    ]  # fmt: skip


def refused(done):
    code, out, err = done
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert not Path("run.h5").exists()
    return line


def test_calibrate_prints_and_writes_it(files, here, forcedelta):
    command = ["calibrate", files / "full.xyz", "--out", "error.json"]
    code, out, err = forcedelta(*command)
    assert (code, err) == (0, "")
    assert "predicted error of 'wet' from U" in out
    assert "The intervals cover 90% of the errors" in out
    found = read_predicted_error("error.json")
    assert found.fit.slopes["force_delta"] == pytest.approx(1, abs=0.05)  # U is the error here
    assert found.quality["factor"] < 1.02
    assert set(found.atoms) == {"H", "O"}
    code, out, _ = forcedelta(*command, "--overwrite", "--json")
    assert json.loads(out) == found.as_dict()
    assert "error.json exists" in forcedelta(*command)[2]
    assert "pass --tolerance, or omit --plot" in forcedelta(*command[:2], "--plot", "a.png")[2]


def test_a_threshold_comes_with_a_predicted_error(files, here, forcedelta, start, error_file):
    command = ["calibrate", files / "full.xyz", "--tolerance", "0.083", "--risk", "0.1"]
    code, out, _ = forcedelta(*command, "--out", "cal.json")
    assert code == 0
    assert "predicted error of 'wet'" in out
    assert read_predicted_error("cal.json") == read_predicted_error(error_file)
    facts = json.loads(Path("cal.json").read_text())
    code, _, err = forcedelta(*start, "--calibration", "cal.json", "--stop-above", "cal.json")
    assert "a threshold on it bounds no risk" in err
    assert "With a confidence of 0.9" in err
    del facts["prediction"]  # a file of an earlier version
    Path("cal.json").write_text(json.dumps(facts))
    Path("run.h5").unlink()
    line = refused(forcedelta(*start, "--calibration", "cal.json"))
    assert "has a threshold but no predicted error" in line
    line = refused(forcedelta(*start, "--stop-above", str(error_file)))
    assert "has a predicted error but no threshold" in line


def test_what_a_run_records(forcedelta, files, start, error_file):
    code, _, err = forcedelta(*start, "--flags", "flags.xyz", "--flag-error", "1e-3")
    assert code == 0
    assert "predicted error " in err
    trajectory, found = Trajectory("run.h5"), read_predicted_error(error_file)
    series = trajectory.series
    calculator = ForceDeltaCalculator(files / "wet.safetensors")
    assert len(trajectory.flags) == 31
    for frame in trajectory.frames():
        atoms = ase.Atoms(numbers=frame.numbers, positions=frame.positions)
        calculator.calculate(atoms, ["force_delta"])
        results = calculator.results
        columns = {
            "force_delta": results["force_delta"],
            "worst_atom": results["force_deltas"].max(),
            "energy_per_atom": results["energy"] / 3,
            "force_rms": np.sqrt(np.mean(results["direct_forces"] ** 2)),
            "rigid_force": rigid_force(atoms.positions, results["direct_forces"], atoms.pbc),
        }
        signals = Signals({name: np.array([value]) for name, value in columns.items()}, ["H2O"])
        expected = [values[0] for values in found.predict(signals)]
        assert [frame.extra[name] for name in PREDICTED] == pytest.approx(expected, rel=1e-4)
        assert frame.extra[OUTSIDE] == sum(out[0] for out in found.outside(signals).values())
    assert (series["predicted_error_low"] <= series["predicted_error"]).all()
    assert (series["predicted_error"] <= series["predicted_error_high"]).all()
    flagged = ase.io.read("flags.xyz", ":")
    assert flagged[5].info["predicted_error"] == series["predicted_error"][5]
    assert "eV/Å is above the flag threshold 0.001 eV/Å (U " in flagged[5].info["reason"]
    code, out, _ = forcedelta("watch", "--once", "run.h5")
    assert "predicted error " in out
    code, out, _ = forcedelta("watch", "--once", "--json", "run.h5")
    assert json.loads(out)["predicted_error_high"] == series["predicted_error_high"][-1]


def test_it_stops_and_goes_on_exactly_without_the_file(forcedelta, start, error_file):
    whole = [*start, "--out", "whole.h5", "--flag-error", "0.02"]
    assert forcedelta(*whole)[0] == 0
    Path("mine.json").write_bytes(error_file.read_bytes())
    begun = [*start, "--calibration", "mine.json", "--flag-error", "0.02", "--steps", "13"]
    assert forcedelta(*begun)[0] == 0
    Path("mine.json").unlink()
    assert forcedelta("run", "--restart", "--steps", "30")[0] == 0
    one, two = Trajectory("whole.h5").series, Trajectory("run.h5").series
    for name in ("force_delta", *PREDICTED, OUTSIDE, "action"):
        np.testing.assert_array_equal(one[name], two[name])
    limit = float(np.sort(one["predicted_error"])[-2])
    first = int(np.argmax(one["predicted_error"] > limit))
    command = [*start, "--out", "stop.h5", "--stop-error", repr(limit), "--json"]
    code, out, _ = forcedelta(*command)
    assert code == 3
    facts = json.loads(out)
    assert facts["step"] == first
    assert facts["predicted_error"] == one["predicted_error"][first]
    assert facts["message"].startswith(f"step {first}, ")
    assert "eV/Å is above the stop threshold" in facts["message"]
    # a later part may have another threshold, and the prediction of the first
    assert forcedelta("run", "--restart", "--out", "stop.h5", "--stop-error", "100")[0] == 0
    np.testing.assert_array_equal(
        Trajectory("stop.h5").series["predicted_error"], one["predicted_error"]
    )


def test_steps_without_u_have_none(forcedelta, start):
    assert forcedelta(*start, "--every", "2", "--stop-error", "100")[0] == 0
    errors = Trajectory("run.h5").series["predicted_error"]
    assert np.isfinite(errors[::2]).all()
    assert np.isnan(errors[1::2]).all()


def test_frames_unlike_the_labels_are_warned_of_and_flagged(forcedelta, start):
    code, _, err = forcedelta(*start, "--temperature", "8000", "--flag-error", "1e5")
    assert code == 0
    assert "outside the calibrated range: the predicted error is extrapolated" in err
    assert "frames with a predicted error are outside the calibrated range" in err
    assert ", extrapolated" in err
    trajectory = Trajectory("run.h5")
    outside = trajectory.series[OUTSIDE] > 0
    assert outside.any()
    np.testing.assert_array_equal(trajectory.series["action"] == Action.FLAG, outside)
    Path("run.h5").unlink()
    assert forcedelta(*start, "--temperature", "8000")[0] == 0  # without a guard on it, none
    assert not len(Trajectory("run.h5").flags)


def test_what_is_refused(forcedelta, files, start):
    plain = start[:-4] + start[-2:]
    assert "--stop-error needs a predicted error: pass --calibration" in refused(
        forcedelta(*plain, "--stop-error", "0.1")
    )
    for change, said in (
        (["--model", files / "other.safetensors"], "the calibration is for the weights"),
        (["--forces", "conservative"], "conservative forces drive this run"),
        (["--stop-error", "0.1", "--flag-error", "0.2"], "must be below --stop-error"),
        (["--stop-error", "-1"], "--stop-error is -1.0"),
        (["--stop-error", "nan"], "--stop-error is nan"),
        (["--calibration", "nowhere.json"], "nowhere.json cannot be read"),
        (["--calibration", files / "water.xyz"], "water.xyz is not JSON"),
    ):
        assert said in refused(forcedelta(*start, *change))


def test_audits(forcedelta, files, here, error_file):
    audit = ["audit", files / "plain.xyz", "--model", files / "wet.safetensors"]
    given = [*audit, "--calibration", error_file, "--stop-error", "0.09", "--flag-error", "0.08"]
    code, out, err = forcedelta(*given, "--json", "--report", "a.html", "--stop", "70")
    assert code == 3
    assert "a threshold on it bounds no risk" in err
    first = json.loads(out)["audits"][0]
    assert forcedelta("audit", "--restart", "--stop", "120")[0] == 3
    series = Trajectory("audit.h5").series
    errors = series["predicted_error"]
    # the reference is the gradient: U is the error, and within its interval nearly always
    assert (
        np.mean(
            (series["predicted_error_low"] <= series["force_delta"])
            & (series["force_delta"] <= series["predicted_error_high"])
        )
        > 0.85
    )
    np.testing.assert_array_equal(series["action"] == Action.STOP, errors > 0.09)
    assert (series["action"][(errors > 0.08) & (errors <= 0.09)] == Action.FLAG).all()
    assert first["predicted_error"]["frames"] == 70
    assert first["predicted_error"]["maximum"] == errors[:70].max()
    assert "with a predicted error above 0.09 eV/Å or not finite, the first at step" in err
    assert "flagged (with a predicted error above 0.08 eV/Å)" in err
    page = " ".join(Path("a.html").read_text().split())
    assert "with a predicted error above 0.09 eV/Å, or not finite." in page
    assert "Predicted error of the direct forces, from labels: median" in page
    assert "The intervals cover 90% of the errors" in page
    flags = [*audit, "--calibration", error_file, "--flag-error", "0.08", "--report", "b.html"]
    assert forcedelta(*flags, "--out", "b.h5")[0] == 0
    page = " ".join(Path("b.html").read_text().split())
    assert "(with a predicted error above 0.08 eV/Å, or outside the calibrated range)" in page
    code, _, err = forcedelta(
        *audit, "--restart", "--calibration", error_file, "--stop-error", "0.2"
    )
    assert code == 2
    assert "stop-error 0.2 differs from the audit" in err.splitlines()[-1]


def test_in_python_and_in_any_chain(files, here, error_file):
    found = read_predicted_error(error_file)
    result = guarded_run(
        files / "water.xyz", files / "wet.safetensors", 5, seed=1, temperature=30,
        calibration=found, stop_error=100.0,
    )  # fmt: skip
    assert result.predicted["predicted_error"] > 0
    seen = []
    chain = HookChain([PredictedErrorHook(found), lambda frame: seen.append(frame.predicted_error)])
    frame = Trajectory("run.h5").frame(0)
    chain.open(RunInfo())
    chain.dispatch(frame)
    assert seen[0] == pytest.approx(frame.predicted_error, rel=1e-4)
    assert composition(frame.numbers) == "H2O"
    assert set(frame_signals(frame)) == {
        "force_delta", "worst_atom", "energy_per_atom", "force_rms", "rigid_force",
    }  # fmt: skip
    slopes = {**found.fit.slopes, "expected_error": 1.0}
    lacking = PredictedErrorHook(replace(found, fit=replace(found.fit, slopes=slopes)))
    with pytest.raises(ForceDeltaError, match="needs the model's expected error"):
        lacking.annotate(frame)
