"""The command, its file, and the runs and audits that use it."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from labelled_water import label, water

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.calibration.calibrate import from_labels
from forcedelta.calibration.labels import read_labels
from forcedelta.calibration.result import read_calibration
from forcedelta.errors import ForceDeltaError
from md_hooks import Trajectory


def fails(done):
    """The line on stderr of a command that fails as it should."""
    code, out, err = done
    assert code == 2
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in err
    return line


@pytest.fixture(scope="session")
def tolerance(files):
    """An error that 15 of the 120 labels exceed."""
    return round(float(np.quantile(read_labels([files / "full.xyz"]).epsilon, 0.875)), 3)


@pytest.fixture(scope="session")
def calibration_facts(files, tolerance):
    """What the file of a calibration holds."""
    return from_labels(read_labels([files / "full.xyz"]), tolerance, 0.1).as_dict()


@pytest.fixture
def calibrated(files, here, forcedelta, tolerance):
    """cal.json for the model wet, in the working directory."""
    command = ["calibrate", files / "full.xyz", "--tolerance", tolerance, "--risk", "0.1"]
    code, out, err = forcedelta(*command, "--out", "cal.json", "--plot", "cal.png")
    assert (code, err) == (0, "")
    return out


def test_what_it_prints_and_writes(files, calibrated, tolerance):
    facts = json.loads(Path("cal.json").read_text())
    labels = read_labels([files / "full.xyz"])
    threshold = facts["threshold"]
    passing = labels.force_delta <= threshold
    assert facts["unit"] == "eV/Å"
    assert facts["model"] == labels.model
    assert facts["labels"]["count"] == facts["labels"]["used"] == 120
    assert facts["labels"]["reference"] == "gradient"
    assert facts["passing"]["count"] == passing.sum()
    assert threshold == pytest.approx(tolerance, rel=0.2)  # as U is the error here
    assert facts["passing"]["bad"] == (labels.epsilon[passing] > tolerance).sum()
    assert set(facts["ranking"]) == {
        "force_delta", "force_rms", "energy_per_atom", "rigid_force",
    }  # fmt: skip
    (row,) = (row for row in facts["thresholds"] if row["threshold"] == threshold)
    assert row["risk"] == facts["passing"]["bad"] / facts["passing"]["count"]
    assert f"threshold {threshold:.4g} eV/Å for model 'wet'" in calibrated
    assert f"P(error of the direct forces > {tolerance:g} eV/Å | U <= {threshold:.4g}" in calibrated
    assert "Based on 120 labels, taken as independent" in calibrated
    assert f"U <= {threshold!r} eV/Å" in facts["guarantee"]
    assert "no run is known are independent of each other" in facts["guarantee"]
    assert "against gradient" in calibrated
    assert Path("cal.png").read_bytes().startswith(b"\x89PNG")


def test_json_and_a_model_for_a_training_set(files, here, forcedelta, calibrated, tolerance):
    command = ["calibrate", files / "plain.xyz", "--model", files / "wet.safetensors", "--json"]
    code, out, _ = forcedelta(*command, "--tolerance", tolerance, "--risk", "0.1")
    assert code == 0
    facts, stored = json.loads(out), read_calibration("cal.json")
    assert facts["threshold"] == pytest.approx(stored.threshold, rel=1e-5)
    assert facts["model"] == stored.model
    assert facts["ranking"]["force_delta"]["spearman"]["value"] == pytest.approx(
        stored.ranking["force_delta"]["spearman"]["value"]
    )


def test_several_files_of_different_models(files, here, forcedelta, tolerance):
    frames = ase.io.read(files / "full.xyz", ":3")
    for atoms in frames:
        atoms.info["model"] = "other"
        atoms.rattle(0.01, seed=1)
    ase.io.write("other.xyz", frames)
    command = ["calibrate", files / "full.xyz", "other.xyz", "--tolerance", tolerance]
    line = fails(forcedelta(*command))
    assert "other.xyz, frame 0 (counted from 0) has model other" in line
    code, out, _ = forcedelta(
        *command, "--risk", "0.1", "--model", files / "wet.safetensors", "--json"
    )
    assert code == 0
    assert json.loads(out)["labels"]["count"] == 123


def test_frames_of_one_trajectory_are_thinned(files, here, forcedelta, tolerance):
    frames = ase.io.read(files / "full.xyz", ":")
    order = np.argsort([atoms.info["force_delta"] for atoms in frames])
    # U as a slow wave in time: neighbours are alike
    wave = np.argsort(np.argsort(np.sin(np.arange(120) / 8), kind="stable"), kind="stable")
    slow = [frames[order[rank]].copy() for rank in wave]
    for step, (atoms, rank) in enumerate(zip(slow, wave, strict=True)):
        atoms.calc = frames[order[rank]].calc
        atoms.info.update(source="audit.h5", step=step, time=0.5 * step)
    ase.io.write("slow.xyz", slow)
    line = fails(forcedelta("calibrate", "slow.xyz", "--tolerance", tolerance, "--risk", "0.1"))
    assert "labels are too few" in line
    assert "the labels of 1 run" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--risk", "0.01"], "120 labels are too few for a risk of 0.01 at a confidence of 0.9"),
        (["--risk", "0.01"], "needs at least 231"),
        (["--tolerance", "1e-6"], "no threshold keeps a risk of 0.05"),
        (["--tolerance", "1e6"], "all 120 labels pass (0 with an error above"),
        (["--tolerance", "-1"], "tolerance is -1.0: give an error above 0"),
        (["--risk", "2"], "risk is 2.0"),
        (["--confidence", "1"], "confidence is 1.0"),
        (["--out", "nowhere/cal.json"], "make the folder nowhere first"),
        (["--model", "acca"], "no model is called 'acca'"),
        (["--model", "wet.safetensors"], "no such file"),
        (["--device", "abacus", "--model", "acac"], "device 'abacus' cannot be used"),
    ],
)  # fmt: skip
def test_what_it_refuses(files, here, forcedelta, change, said):
    given = change if "--tolerance" in change else ["--tolerance", "1", *change]
    assert said in fails(forcedelta("calibrate", files / "full.xyz", *given))
    assert not list(here.iterdir())


def test_an_existing_file_is_kept(files, here, forcedelta, calibrated, tolerance):
    before = Path("cal.json").read_bytes()
    command = ["calibrate", files / "full.xyz", "--tolerance", tolerance, "--out", "cal.json"]
    assert "cal.json exists" in fails(forcedelta(*command))
    assert Path("cal.json").read_bytes() == before
    assert forcedelta(*command, "--risk", "0.09", "--overwrite")[0] == 0
    assert read_calibration("cal.json").risk == 0.09


def test_labels_without_forces(files, here, forcedelta):
    ase.io.write("bare.xyz", water(2))
    command = ["calibrate", "bare.xyz", "--tolerance", "1", "--model", files / "wet.safetensors"]
    assert "bare.xyz, frame 0 (counted from 0) has no reference forces" in fails(
        forcedelta(*command)
    )
    wet = ForceDeltaCalculator(files / "wet.safetensors")
    ase.io.write("labelled.xyz", [label(atoms, wet) for atoms in water(2)])
    line = fails(forcedelta("calibrate", "labelled.xyz", "--tolerance", "1"))
    assert "pass --model" in line


def test_runs_of_one_name_in_different_folders(files, here, forcedelta, tolerance):
    """A run id tells them apart, also where all frames lie in one file and times are the same."""
    frames = ase.io.read(files / "full.xyz", ":")
    for index, atoms in enumerate(frames):
        run, step = index % 40, index // 40
        atoms.info.update(run="run.h5", step=step, run_id=f"{run:031d}a")
    ase.io.write("all.xyz", frames)
    command = ["calibrate", "all.xyz", "--tolerance", tolerance, "--risk", "0.1", "--json"]
    code, out, _ = forcedelta(*command)
    assert code == 0
    facts = json.loads(out)
    assert facts["labels"]["runs"] == 40
    assert 40 <= facts["labels"]["used"] <= 120
    assert "runs are independent of each other" in facts["guarantee"]
    for atoms in frames:
        del atoms.info["run_id"]
    ase.io.write("all.xyz", frames)
    line = fails(forcedelta(*command))
    assert "1 label is too few" in line
    assert "one label of each of 1 run counts" in line


def test_forces_under_another_name(files, here, forcedelta, tolerance):
    frames = ase.io.read(files / "full.xyz", ":")
    for atoms in frames:
        atoms.set_array("REF_forces", atoms.calc.results["forces"])
        atoms.info["REF_energy"] = atoms.calc.results["energy"]
        atoms.calc = None
    ase.io.write("keys.xyz", frames)
    command = ["calibrate", "keys.xyz", "--tolerance", tolerance, "--risk", "0.1", "--json"]
    assert "pass --forces-key REF_forces" in fails(forcedelta(*command))
    named = ["--forces-key", "REF_forces", "--energy-key", "REF_energy"]
    code, out, _ = forcedelta(*command, *named)
    assert code == 0
    usual = forcedelta("calibrate", files / "full.xyz", *command[2:])[1]
    assert json.loads(out)["threshold"] == json.loads(usual)["threshold"]
    line = fails(forcedelta(*command, "--forces-key", "ref"))
    assert "under 'ref'; its vector arrays: REF_forces" in line
    line = fails(forcedelta(*command, "--forces-key", "REF_forces", "--energy-key", "E"))
    assert "no finite number under 'E'" in line
    assert "REF_energy" in line


# --- runs that use it --------------------------------------------------------------------------


@pytest.fixture
def start(files):
    """Arguments of a run of water that lacks its thresholds."""
    return [
        "run", files / "water.xyz", "--model", files / "wet.safetensors", "--seed", "1",
        "--steps", "20", "--temperature", "30",
    ]  # fmt: skip


def with_threshold(value):
    """Put another threshold into cal.json, as a test cannot wait for one to be crossed."""
    facts = json.loads(Path("cal.json").read_text())
    facts["threshold"] = value
    Path("cal.json").write_text(json.dumps(facts))


def test_a_run_stops_above_it_and_records_it(forcedelta, calibrated, start):
    with_threshold(1e-3)
    code, _, err = forcedelta(*start, "--stop-above", "cal.json")
    assert code == 3
    assert "With a confidence of 0.9" in err
    trajectory = Trajectory("run.h5")
    assert trajectory.thresholds["stop"] == 1e-3
    settings = trajectory.metadata["settings"]
    assert float(settings["stop_above"]) == 1e-3
    kept = settings["calibrations"]["stop_above"]
    assert kept["risk"] == 0.1
    assert kept["unit"] == "eV/Å"
    assert kept["model"]["name"] == "wet"
    assert kept["labels"]["used"] == 120
    assert "ranking" not in kept


def test_a_run_flags_above_it_and_goes_on_without_the_file(forcedelta, calibrated, start):
    with_threshold(1e-3)
    assert forcedelta(*start, "--flag-above", "cal.json")[0] == 0
    first = Trajectory("run.h5")
    assert len(first.flags) == 21
    Path("cal.json").unlink()
    assert forcedelta("run", "--restart", "--steps", "30")[0] == 0
    trajectory = Trajectory("run.h5")
    assert len(trajectory.flags) == 31
    assert trajectory.runs[-1]["info"]["settings"]["calibrations"]["flag_above"]["risk"] == 0.1


def test_it_is_for_one_model_and_one_quantity(files, forcedelta, calibrated, start):
    def refused(*change):
        return fails(forcedelta(*start, "--stop-above", "cal.json", *change))

    line = refused("--model", files / "other.safetensors")
    assert "the calibration is for the weights" in line
    assert "'other' has the weights" in line
    Path("copy.safetensors").write_bytes((files / "wet.safetensors").read_bytes())
    assert "for the model 'wet', not for 'copy'" in refused("--model", "copy.safetensors")
    assert "omit --on" in refused("--on", "worst_atom")
    assert "conservative forces drive this run" in refused("--forces", "conservative")
    assert not Path("run.h5").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cal.json cannot be read (No such file or directory)"),
        ("{", "cal.json is not JSON"),
        ("[1]", "cal.json is not a calibration"),
        ('{"format": "forcedelta calibration 2"}', "cal.json is not a calibration of this version"),
        (
            '{"format": "forcedelta calibration 1", "unit": "kcal/mol/Å", "on": "force_delta"}',
            "threshold in kcal/mol/Å",
        ),
        (
            '{"format": "forcedelta calibration 1", "unit": "eV/Å", "on": "force_delta"}',
            "cal.json lacks 'threshold'",
        ),
    ],
)
def test_files_that_are_no_calibration(here, forcedelta, start, text, said):
    if text is not None:
        Path("cal.json").write_text(text)
    assert said in fails(forcedelta(*start, "--stop-above", "cal.json"))
    assert not Path("run.h5").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", None), ("threshold", float("nan")), ("threshold", -1), ("threshold", "0.1"),
        ("threshold", True), ("threshold", float("inf")), ("tolerance", "x"),
        ("risk", 1.5), ("risk", None), ("confidence", [0.9]), ("guarantee", 3), ("model", "wet"),
        ("model", {"name": "wet"}), ("model", {"name": "wet", "weights_hash": 1}), ("labels", []),
        ("passing", None), ("ranking", 1), ("thresholds", {}), ("versions", "1"),
    ],
)  # fmt: skip
def test_fields_of_a_calibration_that_make_no_sense(calibration_facts, here, name, value):
    Path("cal.json").write_text(json.dumps({**calibration_facts, name: value}))
    said = rf"cal\.json: {name} (is|has)|cal\.json is not JSON \((NaN|Infinity)"
    with pytest.raises(ForceDeltaError, match=said):
        read_calibration("cal.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"threshold": ' + "1" * 6000 + "}", "\xff\xfe"])
def test_text_that_is_not_json(here, text):
    Path("cal.json").write_text(text, encoding="latin-1")
    with pytest.raises(ForceDeltaError, match=r"cal\.json is not (UTF-8|JSON)"):
        read_calibration("cal.json")


# --- audits that use it ------------------------------------------------------------------------


def audit_of(files, *change):
    return ["audit", files / "plain.xyz", "--model", files / "wet.safetensors", *change]


def test_an_audit_flags_above_it_and_goes_on_without_the_file(forcedelta, files, calibrated):
    threshold = read_calibration("cal.json").threshold
    flags = ["--flag-above", "cal.json"]
    code, _, err = forcedelta(*audit_of(files, *flags, "--stop", 60, "--report", "a.html"))
    assert code == 0
    assert "With a confidence of 0.9" in err
    first = Trajectory("audit.h5")
    assert first.thresholds["flag"] == threshold
    kept = first.metadata["settings"]["calibrations"]
    assert set(kept) == {"flag_above"}
    assert kept["flag_above"]["model"]["name"] == "wet"
    assert kept["flag_above"]["labels"]["used"] == 120
    assert "With a confidence of 0.9" in Path("a.html").read_text()
    # the same file may be said again, or be gone
    assert forcedelta(*audit_of(files, *flags, "--stop", 90, "--restart"))[0] == 0
    Path("cal.json").unlink()
    assert forcedelta("audit", "--restart", "--stop", 120)[0] == 0
    trajectory = Trajectory("audit.h5")
    assert len(trajectory.series["step"]) == 120
    above = trajectory.series["force_delta"] > threshold
    assert trajectory.flags.tolist() == trajectory.series["step"][above].tolist()
    # what calibrated it says the same of these frames
    labelled = read_labels([files / "full.xyz"]).force_delta > threshold
    assert labelled.sum() > 4
    assert abs(int(above.sum()) - int(labelled.sum())) <= 1  # one of them is at the threshold
    assert trajectory.metadata["settings"]["calibrations"] == kept


def test_an_audit_stops_above_it_and_only_with_its_model(forcedelta, files, calibrated):
    with_threshold(1e-3)

    def refused(*change):
        return fails(forcedelta(*audit_of(files, "--stop-above", "cal.json", *change)))

    other = files / "other.safetensors"
    assert "the calibration is for the weights" in refused("--model", other)
    Path("copy.safetensors").write_bytes((files / "wet.safetensors").read_bytes())
    assert "for the model 'wet', not for 'copy'" in refused("--model", "copy.safetensors")
    assert "omit --on" in refused("--on", "worst_atom")
    assert not Path("audit.h5").exists()
    Path("text.json").write_text("[1]")
    assert "text.json is not a calibration" in fails(
        forcedelta(*audit_of(files, "--flag-above", "text.json"))
    )
    Path("audit.h5").write_bytes(b"precious")
    refused("--overwrite", "--model", other)
    assert Path("audit.h5").read_bytes() == b"precious"
    Path("audit.h5").unlink()
    assert forcedelta(*audit_of(files, "--stop-above", "cal.json"))[0] == 3
    assert len(Trajectory("audit.h5").stops) == 120
