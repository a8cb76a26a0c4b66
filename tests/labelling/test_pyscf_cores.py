"""Basis sets and effective core potentials of PySCF, with the numbers that they have to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling import reference
from forcedelta.labelling.references.base import charge_and_multiplicity
from md_hooks.recalculation import Job, Label, run_job

pytest.importorskip("pyscf")
pytest.importorskip("pyscf.dispersion")

PARTS = {"default": "cc-pvdz", "I": "cc-pvdz-pp"}


def hydrogen_iodide(distance: float = 1.62) -> Atoms:
    return Atoms("HI", [[0, 0, 0], [0, 0, distance]])


@pytest.fixture
def label(tmp_path: Path) -> Callable[..., Label]:
    """Labels a structure in a process of its own, as PySCF leaves files open."""

    def call(atoms: Atoms, **settings: Any) -> Label:
        made = reference("pyscf", {"grid_level": 1, **settings})
        made.check_structure(atoms)
        outcome = run_job(Job("a", atoms, made, str(tmp_path / "jobs" / "a")))
        assert isinstance(outcome, Label), outcome
        return outcome

    return call


def test_the_force_of_hydrogen_iodide(label):
    """PBE-D3(BJ)/def2-SVP with ECP-28: 0.24 eV/Å; without the potential it was 133 eV/Å."""
    step = 0.005
    here, out, back = (label(hydrogen_iodide(1.62 + change)) for change in (0, step, -step))
    slope = (out.energy - back.energy) / (2 * step)
    assert here.forces[1, 2] == pytest.approx(-slope, abs=5e-3)
    assert here.forces[1, 2] == pytest.approx(0.2445, abs=5e-3)
    # 26 electrons are left; 54 have -188 000 eV
    assert here.energy == pytest.approx(-8116.60, abs=0.05)


@pytest.mark.parametrize("basis", ["lanl2dz", "sto-3g"])
def test_density_fitting_is_exact_or_left_away(label, basis):
    """Even-tempered functions are wrong by 0.04 eV/Å (LANL2DZ), valence ones by 2 eV/Å (STO-3G)."""
    fitted = label(hydrogen_iodide(), basis=basis)
    exact = label(hydrogen_iodide(), basis=basis, density_fit=False)
    assert fitted.energy == pytest.approx(exact.energy, abs=2e-3)
    np.testing.assert_allclose(fitted.forces, exact.forces, atol=1e-3)


def test_a_mixed_basis_has_a_potential_for_the_heavy_atom_only(label):
    result = label(hydrogen_iodide(), basis=PARTS, grid_level=2)
    assert result.forces[1, 2] == pytest.approx(0.30, abs=0.01)  # cc-pVDZ and cc-pVDZ-PP
    assert -8063 < result.energy < -8062


def test_an_odd_number_of_electrons_and_a_charge_are_heard_with_a_potential(label):
    cation = hydrogen_iodide()
    cation.info["charge"] = 1
    settings = {"basis": "lanl2dz", "dispersion": "none"}
    ionisation = label(cation, **settings).energy - label(hydrogen_iodide(), **settings).energy
    assert 9.5 < ionisation < 11.0  # eV; experiment: 10.4
    cation.info["spin"] = 1
    with pytest.raises(ForceDeltaError, match="HI with charge 1 has 53 electrons"):
        label(cation)


@pytest.mark.parametrize(
    ("symbol", "settings", "words"),
    [
        (
            "I",
            {"ecp": "none"},
            "def2-svp has no functions for the core electrons of I .*ecp=def2-svp",
        ),
        ("Rb", {"basis": "def2-tzvp", "ecp": {"Rb": "none"}}, "core electrons of Rb"),
        ("Na", {"basis": "lanl2dz", "ecp": "none"}, "core electrons of Na .*ecp=lanl2dz"),
        ("I", {"ecp": "lanl2dz"}, "replaces 46 electrons of I, but .* made for one of 28"),
        (
            "I",
            {"basis": "sto-3g", "ecp": "def2-svp"},
            "sto-3g has functions for the core electrons",
        ),
        ("I", {"basis": "minao"}, "core electrons of I .*PySCF has none with it"),
        ("I", {"basis": "minao", "ecp": "def2-svp"}, None),
        ("C", {"basis": "gth-szv"}, "core electrons of C"),
        ("Ce", {}, "the basis set def2-svp has no Ce"),
        ("I", {"basis": "cc-pvdz"}, "cc-pvdz has no I: choose another"),
        ("I", {"basis": {"H": "sto-3g"}}, "basis has no entry for I"),
        ("Kr", {"ecp": "none"}, None),
        ("Au", {"basis": "aug-cc-pvdz-pp"}, None),
        ("Au", {"basis": "cc-pwcvtz-pp"}, None),
        ("Si", {"basis": "ccecp-cc-pvdz"}, None),
        ("I", {"basis": "stuttgart"}, None),
        ("Cs", {"basis": "def2-qzvpp"}, None),
    ],
)
def test_each_element_has_a_basis_and_a_potential_that_go_together(symbol, settings, words):
    made = reference("pyscf", settings)
    atoms = Atoms(symbol)
    if words is None:
        made.check_structure(atoms)
        return
    with pytest.raises(ForceDeltaError, match=words):
        made.check_structure(atoms)
    with pytest.raises(ForceDeltaError, match=words):  # in a queue, too
        made.calculate(atoms, 1)


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({}, "PBE-D3(BJ)/def2-svp with its ECPs"),
        ({"ecp": "none"}, "PBE-D3(BJ)/def2-svp, all-electron"),
        ({"ecp": "cc-pvdz-pp"}, "PBE-D3(BJ)/def2-svp with ECP cc-pvdz-pp"),
        ({"basis": "6-31g*", "dispersion": "d4"}, "PBE-D4/6-31g*"),
        ({"basis": PARTS}, "PBE-D3(BJ)/cc-pvdz (I: cc-pvdz-pp) with its ECPs"),
    ],
)
def test_the_level_of_theory_names_the_potential(settings, level):
    assert reference("pyscf", settings).level == level


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"basis": "def2-svpp"}, "no basis set 'def2-svpp'"),
        ({"ecp": "nope"}, "no effective core potential 'nope'"),
        ({"basis": {"Xx": "def2-svp"}}, "entry for 'Xx', which is no element"),
        ({"basis": {"I": 3}}, "basis of I is 3"),
        ({"xc": "lda,vwn"}, "no dispersion correction 'd3bj' for the functional 'lda,vwn'"),
        ({"dispersion": "d3"}, "no dispersion correction 'd3'"),
    ],
)
def test_names_that_do_not_exist(settings, words):
    with pytest.raises(ForceDeltaError, match=words):
        reference("pyscf", settings)


def test_magnetic_moments_say_the_multiplicity_where_nothing_else_does():
    oxygen = molecule("O2")  # with moments of 1 each
    assert charge_and_multiplicity(oxygen, None, None) == (0, 3)
    oxygen.info["spin"] = 1
    assert charge_and_multiplicity(oxygen, None, None) == (0, 1)
    del oxygen.info["spin"]
    oxygen.info["charge"] = 1  # they do not fit 15 electrons
    assert charge_and_multiplicity(oxygen, None, None) == (1, 2)
    assert charge_and_multiplicity(oxygen, 0, None) == (0, 3)
    oxygen.set_initial_magnetic_moments([1, -1])
    assert charge_and_multiplicity(oxygen, 0, None) == (0, 1)
