"""Bad input: a line with the correction and status 2, or a row with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule


@pytest.fixture
def refused(forcedelta, files):
    """Runs a screen that must end with one line."""

    def call(*arguments: object) -> str:
        code, out, err = forcedelta("screen", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return call


def test_nothing_to_screen(refused, files, solid):
    assert "no structures: give files that ASE reads, or folders" in refused("--model", solid)
    assert "missing.xyz does not exist" in refused("missing.xyz", "--model", solid)
    Path("empty").mkdir()
    assert "the folder empty holds no file in a format that ASE reads" in refused(
        "empty", "--model", solid
    )
    Path("empty/README.md").write_text("# of something else\n")
    Path("empty/run.log").write_text("step 1\n")
    Path("empty/.hidden.xyz").write_text("1\n\nSi 0 0 0\n")
    assert "(2 files in all)" in refused("empty", "--model", solid)


def test_models_and_outputs(refused, files, solid):
    crystals = files / "crystals.xyz"
    assert "no model: give --model" in refused(crystals)
    assert "no-such-model" in refused(crystals, "--model", "no-such-model")
    given = (crystals, "--model", solid)
    assert "give FILE.csv" in refused(*given, "--out", "table.json")
    assert "make the folder" in refused(*given, "--out", "nowhere/table.csv")
    Path("same.csv").write_text("1\n\nSi 0 0 0\n")
    assert "is the structure file itself" in refused(
        "same.csv", "--model", solid, "--out", "same.csv", "--overwrite"
    )
    assert "are the same file" in refused(
        *given, "--out", "a.csv", "--report", "a.rows.jsonl", "--overwrite"
    )
    assert "takes neither charge nor spin" in refused(*given, "--charge", 1)
    assert not Path("screen.csv").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--rattle", "-0.1"), "--rattle is -0.1: give a displacement of 0 or more (0 to 1 Å"),
        (("--rattle", "nan"), "--rattle is nan"),
        (("--rattle", "2"), "--rattle is 2.0"),
        (("--rattles", "0"), "--rattles is 0: give a whole number above 0 (1 to 1000)"),
        (("--seed", "-1"), "--seed is -1"),
        (("--workers", "0"), "--workers is 0"),
        (("--stop-above", "-1"), "give a number >= 0"),
        (("--stop-above", "missing.json"), "missing.json"),
    ],
)
def test_values_out_of_range(refused, files, solid, option, said):
    assert said in refused(files / "crystals.xyz", "--model", solid, *option)


def broken(name: str) -> Atoms:
    atoms = bulk("Si", cubic=True)
    if name == "nan":
        atoms.positions[2, 1] = np.nan
    elif name == "twice":
        atoms.positions[1] = atoms.positions[0] + 0.01
    elif name == "no cell":
        atoms.cell[:] = 0
    elif name == "copper":
        atoms.symbols[3] = "Cu"
    elif name == "a molecule":
        atoms = molecule("SiH4")[[0]]
    elif name == "flat":
        atoms.cell[2] = atoms.cell[1]
    return atoms


REASONS = {
    "nan": "the position of atom 2 (Si), counted from 0, is not a finite number",
    "twice": "atoms 0 (Si) and 1 (Si), counted from 0, are only 0.02 Å apart",
    "no cell": "the cell vectors of periodic directions are missing",
    "copper": "does not support Cu (first: atom 3, counted from 0)",
    "a molecule": "periodic in three directions, not in 0",
    "flat": "cell",
}


def test_each_has_a_row_and_the_others_keep_theirs(forcedelta, solid):
    good = bulk("Si", cubic=True)
    good.positions[0] += 0.1
    ase.io.write("mixed.xyz", [good, *map(broken, REASONS), good])
    with open("mixed.xyz", "a") as file:
        file.write("8\n\nSi 0 0 0\n")
    code, out, _ = forcedelta("screen", "mixed.xyz", "--model", solid, "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert [row["frame"] for row in rows] == [0, 7, 1, 2, 3, 4, 5, 6, 8]
    assert rows[0]["force_delta"] == pytest.approx(rows[1]["force_delta"], rel=1e-4)
    for row, reason in zip(rows[2:-1], REASONS.values(), strict=True):
        assert reason in row["reason"]
        assert row["verdict"] == "not evaluated"
        assert row["force_delta"] is None
    assert "the file ends in the middle of this frame" in rows[-1]["reason"]


def test_files_without_structures(forcedelta, files, solid):
    Path("text.txt").write_text("no structure\n")
    Path("bad.cif").write_text("data_x\nloop_\n _atom")
    Path("bad.traj").write_text("no structure\n")
    Path("OUTCAR").write_text("no structure\n")
    Path("moves.dcd").write_bytes(b"\0" * 100)
    Path("empty.xyz").touch()
    names = ["text.txt", "bad.cif", "bad.traj", "OUTCAR", "moves.dcd", "empty.xyz"]
    code, out, err = forcedelta("screen", *names, "--model", solid, "--json")
    rows = json.loads(out)["rows"]
    assert code == 2
    assert [row["file"] for row in rows] == names
    assert all(row["reason"] for row in rows)
    assert "convert it, e.g. to extended XYZ" in rows[4]["reason"]
    assert "error: none of the 6 structures could be evaluated (text.txt: it is in no" in err
    assert len(Path("screen.csv").read_text().splitlines()) == 7
    code, out, _ = forcedelta(
        "screen", *names, files / "crystals.xyz", "--model", solid, "--overwrite"
    )
    assert code == 0
    assert "not evaluated: bad.cif" in out


def test_partly_occupied_sites(forcedelta, solid):
    bulk("Si", cubic=True).write("whole.cif")
    text = Path("whole.cif").read_text()
    assert text.count("1.0000") >= 8
    Path("half.cif").write_text(text.replace("1.0000", "0.5000", 1))
    code, out, _ = forcedelta("screen", "whole.cif", "half.cif", "--model", solid)
    assert code == 0
    assert "half.cif 0: the site of atom 0, counted from 0, is partly occupied (Si 0.5)" in out
    code, _, err = forcedelta("run", "half.cif", "--model", solid, "--steps", 1)
    assert code == 2
    assert "partly occupied (Si 0.5): give an ordered structure" in err


def test_folders(forcedelta, files, solid):
    Path("set/deep").mkdir(parents=True)
    bulk("Si").write("set/deep/POSCAR", format="vasp")
    bulk("Ge").write("set/a.cif")
    Path("set/README.md").write_text("# notes\n")
    Path("set/calibration.json").write_text("{}\n")
    Path("set/again.xyz").symlink_to(Path("set/a.cif").resolve())
    arguments = ("screen", "set", "set/a.cif", "--model", solid, "--out", "set/screen.csv")
    code, out, _ = forcedelta(*arguments, "--json")
    assert code == 0
    found = json.loads(out)
    assert sorted(row["file"] for row in found["rows"]) == ["set/a.cif", "set/deep/POSCAR"]
    assert found["left_out"] == ["set/README.md", "set/calibration.json"]
    code, out, _ = forcedelta(*arguments, "--restart", "--report", "set/page.html")
    assert code == 0
    code, out, _ = forcedelta(*arguments, "--restart", "--report", "set/page.html")
    assert code == 0
    assert "2 structures in 2 files: 2 evaluated" in out
    assert "2 files in no format of ASE left out (set/README.md, set/calibration.json)" in out
