"""Structures that no atom can have: refused by atom before anything is written, remarked in audits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import Trajectory as AseTrajectory

from forcedelta.checks import check_atoms
from forcedelta.ensembles import EnsembleSettings, Ramp, prepare
from forcedelta.errors import ForceDeltaError
from forcedelta.neighbours import neighbour_pairs
from md_hooks import Trajectory


def moving() -> Atoms:
    atoms = molecule("H2O")
    atoms.set_momenta(np.full((3, 3), 0.01))
    return atoms


def with_entry(array: str, value: float) -> Atoms:
    atoms = moving()
    atoms.arrays[array][1, 2] = value
    return atoms


def with_mass(value: float) -> Atoms:
    atoms = moving()
    atoms.set_masses([16, value, 1])
    return atoms


def with_number(number: int) -> Atoms:
    atoms = moving()
    atoms.numbers[1] = number
    return atoms


def with_cell(value: float) -> Atoms:
    atoms = moving()
    atoms.cell = np.diag([9, 9, value])
    return atoms


BAD = {
    "momentum nan": (with_entry("momenta", np.nan), r"atom 1 \(H\), .*a momentum that is not a finite"),
    "momentum inf": (with_entry("momenta", np.inf), r"atom 1 \(H\), .*a momentum that is not a finite"),
    "momentum 1e300": (with_entry("momenta", 1e300), r"atom 1 \(H\), .*faster than light"),
    "position nan": (with_entry("positions", np.nan), r"atom 1 \(H\), counted from 0, is not a finite"),
    "mass 0": (with_mass(0.0), r"atom 1 \(H\), .*a mass of 0 amu"),
    "mass -1": (with_mass(-1.0), r"atom 1 \(H\), .*a mass of -1 amu"),
    "mass nan": (with_mass(np.nan), r"atom 1 \(H\), .*a mass of nan amu"),
    "mass inf": (with_mass(np.inf), r"atom 1 \(H\), .*a mass of inf amu"),
    "element 0": (with_number(0), r"atom 1 \(X\), .*has no element"),
    "cell nan": (with_cell(np.nan), "the cell has entries that are not finite"),
    "no atoms": (Atoms(), "at least one atom"),
}  # fmt: skip


@pytest.mark.parametrize(("atoms", "said"), BAD.values(), ids=BAD)
def test_atoms_that_are_none(atoms, said):
    with np.errstate(all="ignore"), pytest.raises(ForceDeltaError, match=said):
        check_atoms(atoms)
    settings = EnsembleSettings("langevin", Ramp(300, 300, 0, 1), 0.5, 100.0, 0.0, 1000.0, 1)
    with np.errstate(all="ignore"), pytest.raises(ForceDeltaError, match=said):
        prepare(atoms.copy(), settings)


def test_good_atoms():
    check_atoms(moving())
    check_atoms(molecule("C6H6"))


@pytest.mark.parametrize("engine", ["ase", "openmm"])
@pytest.mark.parametrize("name", ["momentum nan", "mass 0", "element 0", "cell nan"])
def test_a_run(forcedelta, files, here, name, engine):
    if engine == "openmm":
        pytest.importorskip("openmm")
    with AseTrajectory("bad.traj", "w") as file:
        file.write(BAD[name][0])
    code, out, err = forcedelta(
        "run", "bad.traj", "--model", files / "wet.safetensors", "--steps", "2", "--engine", engine
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: bad.traj: ")
    assert err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["bad.traj"]


def test_an_audit_remarks_them_and_goes_on(forcedelta, files, here):
    kinds = ["momentum nan", "mass 0", "mass -1", "mass nan", "element 0", "position nan"]
    with AseTrajectory("mixed.traj", "w") as file:
        for atoms in (moving(), *(BAD[name][0] for name in kinds), moving()):
            file.write(atoms)
    code, out, _ = forcedelta("audit", "mixed.traj", "--model", files / "wet.safetensors")
    assert code == 3  # positions that are not finite
    assert "4 without usable velocities" in out
    assert "1 not audited" in out
    audited = Trajectory("audit.h5")
    remarks = {remark.frame: remark for remark in audited.remarks()}
    assert [remarks[k].kind for k in range(1, 5)] == ["velocities"] * 4
    assert "masses are not all finite" in remarks[3].text
    assert "has no element" in remarks[5].text
    assert audited.series["source_frame"].tolist() == [0, 1, 2, 3, 4, 6, 7]
    temperature = audited.series["temperature"]
    assert np.isfinite(temperature[[0, 6]]).all()
    assert np.isnan(temperature[1:5]).all()
    u = audited.series["force_delta"]
    assert np.allclose(u[:5], u[0])


@pytest.mark.parametrize("count", ["10000000", "999999999999999999", "9" * 5000])
def test_a_file_that_claims_more_atoms_than_it_has(forcedelta, files, here, count):
    Path("claims.xyz").write_text(f"{count}\n\nH 0 0 0\n")
    model = files / "wet.safetensors"
    for command in (["run", "claims.xyz", "--steps", "1"], ["audit", "claims.xyz"]):
        code, out, err = forcedelta(*command, "--model", model)
        assert (code, out) == (2, "")
        assert err.startswith("error: claims.xyz ")
        assert len(err) < 500


def test_a_cell_is_called_what_it_is():
    positions = np.zeros((1, 3))
    pbc = np.ones(3, dtype=bool)
    skewed = np.array([[9.0, 0, 0], [0, 9, 0], [1e5, 0, 9]])
    for cell, said in (
        (np.eye(3) * 1e6, "of 1e.06 Å is too long"),
        (np.eye(3) * 1e300, "of 1e.300 Å is too long"),
        (skewed, "too skewed for a neighbour list.*niggli_reduce"),
        (np.diag([9.0, 9.0, np.nan]), "missing or not finite"),
        (np.array([[9.0, 0, 0], [0, 9, 0], [9, 9, 0]]), "do not span a volume"),
    ):
        with pytest.raises(ForceDeltaError, match=said):
            neighbour_pairs(positions, cell, pbc, 4.0)
