"""The audit of a foreign file: its numbers, its remarks, and what follows with other commands."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from command_line import untrained_network

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit import audit
from forcedelta.cli import main as program
from forcedelta.errors import ForceDeltaError
from forcedelta.report.snapshot import snapshot
from forcedelta.structures import read_structure
from md_hooks import Trajectory


def main(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        program(arguments)
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    untrained_network(folder / "wet.safetensors", [1, 6, 8], periodic=False, seed=3)
    untrained_network(folder / "solid.safetensors", [14], periodic=True, seed=3)
    return folder


def ethanol(columns: str = "id type x y z") -> str:
    atoms = molecule("CH3CH2OH")
    rows = "".join(
        f"{k + 1} {'CHO'.index(a.symbol) + 1} {a.x:.6f} {a.y:.6f} {a.z:.6f}\n"
        for k, a in enumerate(atoms)
    )
    return "".join(
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n9\nITEM: BOX BOUNDS pp pp pp\n"
        + "-9 9\n" * 3 + f"ITEM: ATOMS {columns}\n{rows}"
        for step in (0, 100, 300)
    )  # fmt: skip


def test_types_are_refused_and_mapped(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.lammpstrj").write_text(ethanol())
    model = str(models / "wet.safetensors")
    arguments = ["audit", "a.lammpstrj", "--model", model, "--out", "a.h5"]
    assert main(arguments) == 2
    assert "--type-map" in capsys.readouterr().err
    options = ["--type-map", "1=C,2=H,3=O", "--no-pbc", "--timestep", "0.5", "--overwrite"]
    assert main([*arguments, *options]) == 0
    calculator = ForceDeltaCalculator(model)
    calculator.calculate(molecule("CH3CH2OH"), ["force_delta"])
    audited = Trajectory("a.h5")
    np.testing.assert_allclose(
        audited.series["force_delta"], calculator.results["force_delta"], rtol=1e-4
    )
    assert audited.series["step"].tolist() == [0, 100, 300]
    assert audited.series["time"].tolist() == [0, 50, 150]
    # a restart reads the file as the first part did, and refuses another reading
    assert main(["audit", "--out", "a.h5", "--restart"]) == 0
    assert main(["audit", "--out", "a.h5", "--restart", "--timestep", "1"]) == 2


def test_unknown_times_are_nan_and_not_shown(models, tmp_path, capsys):
    ase.io.write(tmp_path / "a.xyz", [molecule("CH3CH2OH")] * 3, format="extxyz")
    [result] = audit(tmp_path / "a.xyz", models / "wet.safetensors", tmp_path / "a.h5")
    assert result.audited == 3
    audited = Trajectory(tmp_path / "a.h5")
    assert np.isnan(audited.series["time"]).all()
    assert snapshot(audited).time is None
    assert "fs" not in snapshot(audited).numbers
    assert "time" not in ase.io.read(tmp_path / "a.h5", 0).info
    assert main(["watch", str(tmp_path / "a.h5"), "--once"]) == 0
    assert " fs" not in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "a.h5")]) == 0


def test_what_a_file_leaves_open_is_remarked_once(models, tmp_path):
    lines = [
        line + " 0.1 0.2 0.3" * (len(line.split()) == 5 and line[0].isdigit())
        for line in ethanol("id type x y z vx vy vz").splitlines()
    ]
    path = tmp_path / "a.lammpstrj"
    path.write_text("\n".join(lines) + "\n")
    [result] = audit(
        path, models / "wet.safetensors", tmp_path / "a.h5", type_map="1=C,2=H,3=O", no_pbc=True
    )
    assert result.audited == 3
    remarks = Trajectory(tmp_path / "a.h5").remarks()
    [remark] = [remark for remark in remarks if remark.kind == "reading"]
    assert "does not name its units" in remark.text


def test_atoms_that_have_moved_far_away_keep_their_digits(models, tmp_path):
    near = bulk("Si", cubic=True)
    near.rattle(0.1, seed=1)
    far = near.copy()
    cells = np.random.default_rng(0).integers(-20000, 20000, (8, 3))
    far.positions += cells @ far.cell.array  # 1e5 Å
    forces = []
    for atoms in (near, far):
        atoms.calc = ForceDeltaCalculator(models / "solid.safetensors")
        forces.append(atoms.get_forces())
    scale = np.abs(forces[0]).max()
    np.testing.assert_allclose(forces[1], forces[0], atol=2e-5 * scale)
    ase.io.write(tmp_path / "a.traj", [near, far])
    audit(tmp_path / "a.traj", models / "solid.safetensors", tmp_path / "a.h5")
    first, second = Trajectory(tmp_path / "a.h5").series["force_delta"]
    assert second == pytest.approx(first, rel=1e-4)


def test_one_of_several_that_cannot_be_read_does_not_end_the_others(models, tmp_path):
    (tmp_path / "cut.xyz").write_text("9\n\nC 0 0 0\n")
    ase.io.write(tmp_path / "good.xyz", [molecule("CH3CH2OH")])
    files = [tmp_path / "cut.xyz", tmp_path / "good.xyz"]
    bad, good = audit(files, models / "wet.safetensors", tmp_path / "out")
    assert (bad.reason, bad.audited, good.audited) == ("unreadable", 0, 1)
    assert "ends in the middle" in bad.problem
    with pytest.raises(ForceDeltaError, match="no readable frame"):
        audit(files[0], models / "wet.safetensors", tmp_path / "a.h5")


def test_a_run_of_a_dump(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.lammpstrj").write_text(ethanol())
    options = ["--type-map", "1=C,2=H,3=O", "--no-pbc", "--model", str(models / "wet.safetensors")]
    assert (
        main(["run", "a.lammpstrj", *options, "--steps", "2", "--seed", "1", "--out", "r.h5"]) == 0
    )
    assert not Trajectory("r.h5").frame(0).pbc.any()
    assert main(["run", "--restart", "--steps", "3", "--out", "r.h5"]) == 0
    atoms = read_structure("a.lammpstrj", "1=C,2=H,3=O")
    assert atoms.get_chemical_symbols() == molecule("CH3CH2OH").get_chemical_symbols()
    assert atoms.pbc.all()


def test_a_screen_and_a_check_of_a_dump(models, tmp_path, monkeypatch, capsys):
    """The same options, with the numbers of the same frames in extended XYZ; a restart keeps them."""
    monkeypatch.chdir(tmp_path)
    model = str(models / "wet.safetensors")
    Path("a.lammpstrj").write_text(ethanol())
    ase.io.write("b.xyz", read_structure("a.lammpstrj", "1=C,2=H,3=O", True), format="extxyz")
    options = ["--type-map", "1=C,2=H,3=O", "--no-pbc"]
    given = ["screen", "a.lammpstrj", "--model", model, "--json", "--out", "a.csv"]
    assert main([*given, *options]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert main([*given, "--restart"]) == 0  # nothing is evaluated anew
    assert json.loads(capsys.readouterr().out)["rows"] == rows
    assert main(["screen", "b.xyz", "--model", model, "--json", "--out", "b.csv"]) == 0
    (same,) = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 3
    assert rows[0]["formula"] == same["formula"]
    assert rows[0]["force_delta"] == pytest.approx(same["force_delta"], rel=1e-4)

    assert main(["check", model, "a.lammpstrj", "--quick"]) == 2
    assert "--type-map" in capsys.readouterr().err
    assert main(["check", model, "a.lammpstrj", "--quick", *options]) in (0, 4)
    assert "verdict" in capsys.readouterr().out
