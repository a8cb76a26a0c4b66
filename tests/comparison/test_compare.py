"""Comparisons of models: physics of the result, reuse of audits, and what goes wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from paths_of_water import FRAMES
from scipy.stats import spearmanr

import forcedelta as root
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit.result import AuditResult
from forcedelta.comparison import audits
from forcedelta.comparison.compare import compare
from forcedelta.errors import ForceDeltaError
from md_hooks import Trajectory

MODELS = ("one", "two", "three")


def models(files: Path, *names: str) -> list[Path]:
    return [files / f"{name}.safetensors" for name in names or MODELS]


def options(files: Path, *names: str) -> list[object]:
    return [word for model in models(files, *names) for word in ("--model", model)]


@pytest.fixture(scope="module")
def compared(files, tmp_path_factory):
    """Three models on cold.xyz and warm.xyz."""
    out = tmp_path_factory.mktemp("compared") / "found"
    return compare([files / "cold.xyz", files / "warm.xyz"], models(files), out)


def by_name(found):
    return {model.name: model for model in found.models}


def test_the_labels_are_gradients_of_the_first_model(compared):
    """Its error is then U itself, and U ranks it perfectly."""
    one = by_name(compared)["one"]
    assert one.epsilon == pytest.approx(one.force_delta, rel=1e-5)
    assert one.ranking["force_delta"]["spearman"].value > 0.999
    assert one.ranking["force_delta"]["auroc_worst_tenth"].value == 1
    assert one.better == []
    assert one.within["force_delta"] > 0.999
    assert (compared.structures, compared.common, compared.labelled) == (48, 48, 48)
    assert compared.problems == []


def test_rows_are_those_of_the_calculator(files, compared):
    frames = ase.io.read(files / "cold.xyz", ":")
    calculator = ForceDeltaCalculator(files / "two.safetensors")
    rows = [row for row in compared.rows if row["model"] == "two" and row["file"] == "cold"]
    for atoms, row in list(zip(frames, rows, strict=True))[::6]:
        reference = atoms.calc.results["forces"]
        calculator.calculate(atoms, ["force_delta"])
        found = calculator.results
        assert row["force_delta"] == pytest.approx(found["force_delta"], rel=1e-4)
        assert row["energy_per_atom"] == pytest.approx(found["energy"] / 3, rel=1e-5)
        direct = found["direct_forces"]
        assert row["epsilon"] == pytest.approx(
            np.sqrt(np.mean((direct - reference) ** 2)), rel=1e-4
        )
    assert sum(row["relative_energy_per_atom"] for row in compared.rows) == pytest.approx(
        0, abs=1e-6
    )


def test_models_are_in_the_order_of_u(compared):
    u = [model.force_delta for model in compared.models]
    assert u == sorted(u)
    [family] = compared.families
    expected = spearmanr(u, [model.epsilon for model in compared.models]).statistic
    assert family.models_spearman["force_delta"] == pytest.approx(expected)


def test_the_ensemble_is_computed_from_the_direct_forces(files, compared):
    frames = [*ase.io.read(files / "cold.xyz", ":"), *ase.io.read(files / "warm.xyz", ":")]
    reference = np.array([atoms.calc.results["forces"] for atoms in frames])
    direct = []
    for model in models(files):
        calculator = ForceDeltaCalculator(model)
        rows = []
        for atoms in frames:
            calculator.calculate(atoms, ["force_delta"])
            rows.append(calculator.results["direct_forces"])
        direct.append(rows)
    spread = np.sqrt(np.var(direct, axis=0, ddof=1).mean(axis=(1, 2)))
    error = np.sqrt(((np.mean(direct, axis=0) - reference) ** 2).mean(axis=(1, 2)))
    [family] = compared.families
    made = family.ensemble
    assert family.name == "all"
    assert made.ensemble.value == pytest.approx(spearmanr(spread, error).statistic, abs=1e-3)
    assert made.epsilon == pytest.approx(error.mean(), rel=1e-4)
    each = [model.ranking["force_delta"]["spearman"].value for model in compared.models]
    assert family.spearman["force_delta"] == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert made.difference.value == pytest.approx(made.mean.value - made.ensemble.value)
    assert made.verdict


def test_systems_are_means_over_models_and_structures(compared):
    assert [(one.name, one.structures) for one in compared.systems] == [("cold", 24), ("warm", 24)]
    rows = [row for row in compared.rows if row["system"] == "cold"]
    mean = np.mean([row["force_delta"] for row in rows])
    assert compared.systems[0].force_delta == pytest.approx(mean)
    assert compared.systems[0].energy + compared.systems[1].energy == pytest.approx(0, abs=1e-6)


def test_the_table_has_all_rows(compared):
    with open(Path(compared.out) / "structures.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * FRAMES == len(compared.rows)
    assert float(rows[0]["force_delta"]) == compared.rows[0]["force_delta"]
    assert json.dumps(compared.as_dict())


def test_root_function_and_silence(files, here, silent):
    found = root.compare(files / "plain.xyz", files / "one.safetensors", here / "out")
    assert (found.labelled, found.models[0].epsilon, found.attack) == (0, None, None)


@pytest.mark.slow
def test_finished_audits_are_used_again(forcedelta, files):
    """What another environment left in the folder is joined, and nothing is computed twice."""
    command = ["compare", files / "cold.xyz", files / "warm.xyz", "--out", "out"]
    code, out, _ = forcedelta(*command, *options(files, "one"))
    assert code == 0
    assert "one computed here" in out
    assert "the same command there, with their --model and the same --out" in out
    times = {path: os.stat(path).st_mtime_ns for path in Path("out/one").iterdir()}
    code, out, _ = forcedelta(*command, *options(files, "one", "two"))
    assert code == 0
    assert "two computed here" in out.splitlines()[0]
    assert times == {path: os.stat(path).st_mtime_ns for path in Path("out/one").iterdir()}
    code, out, _ = forcedelta(*command, "--json")
    found = json.loads(out)
    assert code == found["status"] == 0
    assert (found["computed"], sorted(found["found"])) == ([], ["one", "two"])


def test_an_unfinished_audit_is_continued(files, here):
    compare(files / "cold.xyz", models(files, "one"), "out")
    root.audit(files / "cold.xyz", files / "two.safetensors", "two.h5", stop=10, record_every=1)
    whole = compare(files / "cold.xyz", models(files, "two"), "whole")
    Path("out/two").mkdir()
    shutil.copy("two.h5", "out/two/cold.h5")
    partly = compare(files / "cold.xyz", (), "out")
    assert partly.common == 10
    assert any("two evaluates 10 of 24 structures" in note for note in partly.notes)
    # a trajectory that has grown since
    again = compare(files / "cold.xyz", models(files, "two"), "out")
    assert again.common == FRAMES
    u = [row["force_delta"] for row in again.rows if row["model"] == "two"]
    np.testing.assert_allclose(u, [row["force_delta"] for row in whole.rows], rtol=1e-5)


@pytest.mark.slow
def test_workers_agree_with_one_process(files, here):
    paths = [files / "cold.xyz", files / "warm.xyz"]
    one = compare(paths, models(files, "one"), "one")
    two = compare(paths, models(files, "one"), "two", workers=2)
    assert len(two.rows) == len(one.rows)
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["force_delta"] == pytest.approx(b["force_delta"], rel=1e-5)


def test_ctrl_c(forcedelta, files, monkeypatch):
    """The audit of a file ends after its batch; the status says that the command can be repeated."""
    interrupted = AuditResult("cold.xyz", "out/one/cold.h5", "interrupted", FRAMES)
    monkeypatch.setattr(audits, "audit", lambda *_, **__: [interrupted])
    code, out, err = forcedelta("compare", files / "cold.xyz", *options(files, "one"))
    assert (code, out) == (130, "")
    assert "interrupted: the same command continues the audits in comparison" in err


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
