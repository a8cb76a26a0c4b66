"""What goes wrong in a comparison, and what a reader has to know about its labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from paths_of_water import models, options

import forcedelta as root
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.comparison.compare import compare
from forcedelta.errors import ForceDeltaError
from md_hooks import Trajectory


def test_other_weights_and_settings_are_refused(forcedelta, files):
    command = ["compare", files / "plain.xyz", "--out", "out"]
    assert forcedelta(*command, *options(files, "one"))[0] == 0
    shutil.copy(files / "two.safetensors", "one.safetensors")
    code, _, err = forcedelta(*command, "--model", "one.safetensors")
    assert code == 2
    assert "out/one/plain.h5 was made with other weights" in err
    code, _, err = forcedelta(*command, *options(files, "one"), "--dtype", "float64")
    assert code == 2
    assert "made with dtype float32, not float64: pass --overwrite" in err
    assert forcedelta(*command, "--model", "one.safetensors", "--overwrite")[0] == 0
    stored = Trajectory("out/one/plain.h5").metadata["model"]["weights_hash"]
    assert stored != ForceDeltaCalculator(files / "one.safetensors").model.weights_hash


def test_audits_of_other_structures_are_refused_or_left_out(forcedelta, files):
    shutil.copy(files / "plain.xyz", "water.xyz")
    command = ["compare", "water.xyz", "--out", "out"]
    assert forcedelta(*command, *options(files, "one", "two"))[0] == 0
    frames = ase.io.read("water.xyz", ":")
    frames[2].positions[0, 0] += 0.01
    ase.io.write("water.xyz", frames)
    code, _, err = forcedelta(*command, *options(files, "one"))
    assert code == 2
    assert "out/one/water.h5 was made of other structures than those in water.xyz (frame 2" in err
    assert forcedelta(*command, *options(files, "one"), "--overwrite")[0] == 2
    code, out, err = forcedelta(*command)
    assert code == 2
    assert "two/water.h5 was made of other structures" in err
    assert "it was left out" in err
    assert " one " in out


def test_another_cell_is_another_structure(files, here):
    silicon = ase.Atoms("Si2", [[0, 0, 0], [1.4, 1.4, 1.4]], cell=[5.4] * 3, pbc=True)
    ase.io.write("si.xyz", silicon)
    compare("si.xyz", models(files, "solid"), "out")
    silicon.set_cell([5.5] * 3, scale_atoms=False)
    ase.io.write("si.xyz", silicon)
    with pytest.raises(ForceDeltaError, match="was made of other structures"):
        compare("si.xyz", models(files, "solid"), "out")


def test_a_model_that_fails_on_some_structures(forcedelta, files):
    mixed = ase.io.read(files / "cold.xyz", ":")
    mixed[3].symbols[0] = "C"
    ase.io.write("mixed.xyz", mixed)
    code, out, _ = forcedelta("compare", "mixed.xyz", *options(files, "one", "two"), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["structures"], found["common"]) == (24, 23)
    [row] = [row for row in found["rows"] if row["frame"] == 3 and row["model"] == "one"]
    assert row["force_delta"] is row["epsilon"] is None
    assert "does not support C" in row["reason"]
    assert any("one evaluates 23 of 24 structures" in note for note in found["notes"])


def test_a_model_that_fails_altogether_loses_nothing(forcedelta, files):
    code, out, err = forcedelta(
        "compare", files / "cold.xyz", *options(files, "one", "solid"), "--model", "nonsense"
    )
    assert code == 2
    assert "error: model 'nonsense': no model is called 'nonsense'" in err
    assert "solid evaluates none of the structures (model 'solid'" in out
    assert "24 evaluated by all, 24 of them labelled" in out


def test_no_common_structure(forcedelta, files):
    ase.io.write("si.xyz", ase.Atoms("Si2", [[0, 0, 0], [1.4, 1.4, 1.4]], cell=[5.4] * 3, pbc=True))
    code, out, _ = forcedelta(
        "compare",
        files / "plain.xyz",
        "si.xyz",
        *options(files, "one", "solid"),
        "--report",
        "r.html",
    )
    assert code == 0
    assert "no structure is evaluated by all models" in out


def test_models_without_labels_are_ranked_by_self_consistency(forcedelta, files):
    code, out, _ = forcedelta(
        "compare", files / "plain.xyz", *options(files), "--report", "report.html"
    )
    assert code == 0
    assert "ranked by U, their self-consistency, not by their error" in out
    assert "five Orb models" in out
    page = Path("report.html").read_text(encoding="utf-8")
    assert "self-consistency" in page
    assert Path("report-structures.png").exists()
    assert not Path("report-models.png").exists()


def test_labels_on_some_frames(forcedelta, files):
    frames = ase.io.read(files / "cold.xyz", ":")
    for atoms in frames[:4]:
        atoms.calc = None
    ase.io.write("some.traj", frames)
    code, out, _ = forcedelta("compare", "some.traj", *options(files, "one"))
    assert code == 0
    assert "24 evaluated by all, 20 of them labelled" in out
    assert "20 of 24 frames have labels" in out


def test_fewer_than_three_labels(forcedelta, files):
    ase.io.write("two.xyz", ase.io.read(files / "cold.xyz", ":2"))
    code, out, _ = forcedelta(
        "compare", "two.xyz", *options(files, "one", "two"), "--report", "r.html"
    )
    assert code == 0
    assert "2 labelled structures: rank correlations need at least 3" in out


@pytest.mark.slow
def test_constant_predictors(forcedelta, files):
    """Copies of one structure: there is nothing to rank."""
    ase.io.write("same.xyz", [ase.io.read(files / "cold.xyz", 3)] * 5)
    code, out, _ = forcedelta(
        "compare", "same.xyz", *options(files), "--report", "r.html", "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert all(model["ranking"]["energy"]["spearman"]["value"] is None for model in found["models"])


def test_labels_under_another_name(forcedelta, files):
    frames = ase.io.read(files / "cold.xyz", ":")
    for atoms in frames:
        atoms.arrays["REF_forces"] = atoms.calc.results["forces"]
        atoms.calc = None
    ase.io.write("named.xyz", frames)
    code, out, _ = forcedelta("compare", "named.xyz", *options(files, "one"))
    assert code == 0
    assert "0 of them labelled" in out
    assert "pass --forces-key REF_forces" in out
    code, out, _ = forcedelta(
        "compare", "named.xyz", *options(files, "one"), "--forces-key", "REF_forces"
    )
    assert "24 of them labelled" in out


def test_forces_of_a_model_are_no_labels(forcedelta, files):
    calculator = ForceDeltaCalculator(files / "two.safetensors")
    frames = ase.io.read(files / "plain.xyz", ":")
    for atoms in frames:
        calculator.calculate(atoms, ["force_delta"])
        atoms.calc = SinglePointCalculator(atoms, forces=calculator.results["direct_forces"])
    ase.io.write("own.xyz", frames)
    code, out, _ = forcedelta("compare", "own.xyz", *options(files, "one", "two"))
    assert code == 0
    assert "are the direct forces of two, not those of a reference" in out
    assert "0 of them labelled" in out


def test_levels_of_theory(forcedelta, files):
    frames = ase.io.read(files / "cold.xyz", ":")
    for index, atoms in enumerate(frames):
        atoms.info["reference"] = "PBE/def2-SVP" if index % 2 else "PBE+D3/def2-SVP"
    ase.io.write("levels.xyz", frames)
    code, out, _ = forcedelta("compare", "levels.xyz", *options(files, "one"))
    assert code == 0
    assert "labels of different levels of theory are mixed (dispersion)" in out
    assert "one: trained on another level of theory than that of the labels" in out


def test_families(forcedelta, files):
    code, out, _ = forcedelta(
        "compare", files / "cold.xyz", *options(files), "--family", "pair=one,two", "--family", "far=away",
        "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    families = {family["name"]: family for family in found["families"]}
    assert families["pair"]["models"] == ["one", "two"]
    assert families["pair"]["ensemble"] is not None
    assert families["others"]["note"] == "a family of one model has no ensemble"
    assert any("there are no predictions of 'away'" in note for note in found["notes"])


def test_the_library_of_published_models_is_their_family():
    from forcedelta.comparison.families import families_of
    from forcedelta.comparison.table import Predictions

    nothing = np.empty(0)
    made = [
        Predictions(name, name, "", None, nothing, nothing, nothing, nothing, [], [])
        for name in ("orb-v3-direct-inf-mpa", "eqV2_31M_mp", "orb-d3-v2", "mine")
    ]
    found, notes = families_of(made, None)
    assert [len(members) for members in found.values()] == [2, 1, 1]
    assert found["others"] == ["mine"]
    assert notes == []


@pytest.mark.slow
def test_systems_by_a_field(forcedelta, files):
    frames = ase.io.read(files / "cold.xyz", ":")
    for index, atoms in enumerate(frames[:-1]):
        atoms.info["kind"] = f"kind{index % 3}"
    ase.io.write("kinds.xyz", frames)
    code, out, _ = forcedelta(
        "compare",
        "kinds.xyz",
        *options(files, "one", "two"),
        "--group-by",
        "kind",
        "--report",
        "r.html",
    )
    assert code == 0
    assert "kind2" in out
    assert "r_s over 4 systems" in out
    assert "1 of 24 frames have no 'kind' and count as system 'kinds'" in out
    assert Path("r-systems.png").exists()


def test_crystals_at_rest_are_mentioned(forcedelta, files):
    frames = ase.io.read(files / "cold.xyz", ":")
    for atoms in frames[:5]:
        atoms.calc.results["forces"] *= 0
    ase.io.write("rest.xyz", frames)
    out = forcedelta("compare", "rest.xyz", *options(files, "two"))[1]
    assert "reference forces of 5 of 24 labelled structures are zero" in out


def test_two_names_for_the_same_weights(forcedelta, files):
    shutil.copy(files / "one.safetensors", "copy.safetensors")
    out = forcedelta(
        "compare", files / "plain.xyz", *options(files, "one"), "--model", "copy.safetensors"
    )[1]
    assert "copy and one are the same weights" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.xyz"], "missing.xyz does not exist"),
        (["a.xyz", "sub/a.xyz"], "would both be called a.h5: rename one"),
        (["a.xyz"], "comparison is not a folder with predictions: give --model"),
        (["a.xyz", "--family", "pair"], "--family is 'pair': give NAME=MODEL,MODEL,..."),
        (["a.xyz", "--family", "pair="], "family 'pair' has no models"),
        (["a.xyz", "--family", "a=x", "--family", "b=x"], "model 'x' is in the families 'a' and 'b'"),
        (["a.xyz", "--family", "a=x,x"], "model 'x' is twice in family 'a'"),
        (["a.xyz", "--family", "a=x", "--family", "a=y"], "--family a is given twice"),
        (["a.xyz", "--model", "nonsense"], "no model is called 'nonsense'"),
        (["cut.xyz"], "cut.xyz holds no readable frame (the file ends in the middle of this frame)"),
        (["a.xyz", "--model", "m/one.safetensors", "--model", "one.safetensors"], "in the folder one"),
        (["a.xyz", "--report", "a.xyz"], "a.xyz exists: pass --overwrite"),
        (["a.xyz", "--out", "a.xyz", "--model", "acac"], "a.xyz cannot be made a folder"),
    ],
)  # fmt: skip
def test_bad_input(forcedelta, files, arguments, message):
    for folder in ("sub", "m"):
        Path(folder).mkdir()
    shutil.copy(files / "plain.xyz", "a.xyz")
    shutil.copy(files / "plain.xyz", "sub/a.xyz")
    shutil.copy(files / "one.safetensors", "one.safetensors")
    shutil.copy(files / "one.safetensors", "m/one.safetensors")
    Path("cut.xyz").write_text("9\n\nC 0 0 0\n")
    before = Path("a.xyz").read_bytes()
    code, out, err = forcedelta("compare", *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert Path("a.xyz").read_bytes() == before


def test_the_report_does_not_replace_the_structures(forcedelta, files):
    shutil.copy(files / "plain.xyz", "a.xyz")
    code, _, err = forcedelta(
        "compare", "a.xyz", *options(files, "one"), "--report", "a.xyz", "--overwrite"
    )
    assert code == 2
    assert "is the structure file itself" in err


@pytest.mark.slow
def test_a_report_is_made_again_and_nothing_else_is_replaced(forcedelta, files):
    command = ["compare", files / "cold.xyz", files / "warm.xyz", "--report", "r.html"]
    assert forcedelta(*command, *options(files))[0] == 0
    page = Path("r.html").read_text(encoding="utf-8")
    for text in ("r-systems.png", "r-structures.png", "r-models.png"):
        assert Path(text).stat().st_size > 1000
    assert "an ensemble?" in page
    assert "data:image/png" in page
    assert forcedelta(*command)[0] == 0
    Path("r.html").write_text("mine")
    code, _, err = forcedelta(*command)
    assert code == 2
    assert "r.html exists: pass --overwrite" in err


def test_a_damaged_audit_is_named(forcedelta, files):
    command = ["compare", files / "plain.xyz", "--out", "out"]
    assert forcedelta(*command, *options(files, "one", "two"))[0] == 0
    path = Path("out/two/plain.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    code, out, err = forcedelta(*command)
    assert code == 2
    assert "out/two/plain.h5" in err
    assert " one " in out


def test_models_in_memory(files, here):
    loaded = root.load_model(files / "one.safetensors")
    found = compare(files / "plain.xyz", [loaded], "out")
    assert found.computed == ["one"]


def test_function_errors(files, here):
    with pytest.raises(ForceDeltaError, match="no structures: give one or more files"):
        compare([], models(files), "out")
