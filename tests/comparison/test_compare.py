"""Comparisons of models: the numbers of the result, and reuse of audits."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from paths_of_water import FRAMES, models, options
from scipy.stats import spearmanr

import forcedelta as root
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit.result import AuditResult
from forcedelta.comparison import audits
from forcedelta.comparison.compare import compare


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
