"""Reference codes on water, oxygen and silicon."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import chemical_symbols

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling import reference
from forcedelta.labelling.level_of_theory import difference
from forcedelta.labelling.references.base import charge_and_multiplicity
from forcedelta.labelling.references.magnetism import moments
from md_hooks.recalculation import Failure, Job, Label, run_job

pytest.importorskip("pyscf")
pytest.importorskip("tblite")

SILICON_UPF = Path("/usr/share/abinit/psp/14-Si.nlcc.UPF")
ESPRESSO = {
    "pseudo_dir": str(SILICON_UPF.parent), "pseudopotentials": {"Si": SILICON_UPF.name},
    "cutoff": 200.0, "density_factor": 4.0, "kpt_density": 1.5,
}  # fmt: skip
needs_espresso = pytest.mark.skipif(
    shutil.which("pw.x") is None or not SILICON_UPF.exists(),
    reason="needs Debian's packages quantum-espresso and abinit-data",
)


def label(tmp_path, atoms, name, **settings):
    return run_job(Job("a", atoms, reference(name, settings), str(tmp_path / "jobs" / "a")))


def silicon():
    atoms = bulk("Si")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.usefixtures("silent")
def test_pyscf_gives_pbe_d3_with_forces_that_are_the_gradient(tmp_path):
    step = 0.005  # Å; the error of the difference is of second order in it
    settings = {"basis": "sto-3g", "grid_level": 4}
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    ends = []
    for sign in (1, -1):
        ends.append(water.copy())
        ends[-1].positions[1, 1] += sign * step
    with ThreadPoolExecutor(1) as executor:
        here, up, down = executor.map(
            lambda atoms: label(tmp_path, atoms, "pyscf", **settings), [water, *ends]
        )
    assert isinstance(here, Label)
    assert here.forces[1, 1] == pytest.approx(-(up.energy - down.energy) / (2 * step), abs=2e-3)
    assert np.abs(here.forces.sum(0)).max() < 5e-3  # of the integration grid


def test_dispersion_is_in_the_energy_and_charge_and_spin_are_heard(tmp_path):
    """Published: D3(BJ) only lowers the energy; the ground state of O2 is a triplet."""
    oxygen = molecule("O2")
    oxygen.info.clear()
    oxygen.set_initial_magnetic_moments(None)
    singlet = label(tmp_path, oxygen, "pyscf", basis="sto-3g")
    bare = label(tmp_path, oxygen, "pyscf", basis="sto-3g", dispersion="none")
    oxygen.info["spin"] = 3
    triplet = label(tmp_path, oxygen, "pyscf", basis="sto-3g")
    assert -0.1 < singlet.energy - bare.energy < 0
    assert -4 < triplet.energy - singlet.energy < -0.3


def test_an_scf_that_does_not_converge_fails_with_the_message_of_the_code(tmp_path):
    failure = label(tmp_path, molecule("H2O"), "pyscf", basis="sto-3g", max_cycle=1)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("SCF not converged within max_cycle=1")
    assert "SCF not converged." in failure.message.partition(";")[2]  # PySCF's own line
    failure = label(tmp_path, molecule("H2O"), "tblite", max_iterations=1)
    assert isinstance(failure, Failure)
    assert "not converged in 1 cycles" in failure.message


def test_the_stress_of_a_crystal_is_the_strain_derivative(tmp_path):
    atoms = silicon()
    strain = 1e-3
    ends = []
    for sign in (1, -1):
        ends.append(atoms.copy())
        ends[-1].set_cell(atoms.cell.array @ np.diag([1 + sign * strain, 1, 1]), scale_atoms=True)
    here, up, down = (label(tmp_path, end, "tblite") for end in (atoms, *ends))
    expected = (up.energy - down.energy) / (2 * strain * atoms.get_volume())
    assert here.stress[0] == pytest.approx(expected, rel=2e-3)


@needs_espresso
def test_espresso_labels_silicon_and_says_when_it_does_not_converge(tmp_path):
    result = label(tmp_path, silicon(), "espresso", **ESPRESSO)
    assert isinstance(result, Label)
    assert np.abs(result.forces.sum(0)).max() < 1e-4
    assert 0.5 < np.abs(result.forces).max() < 3
    assert result.stress is not None
    failure = label(tmp_path, silicon(), "espresso", **ESPRESSO, max_cycle=2)
    assert isinstance(failure, Failure)
    assert failure.message == "convergence NOT achieved after 2 iterations: stopping"


@needs_espresso
def test_a_crystal_may_be_magnetic(tmp_path):
    """Atoms far apart have the spin of free ones, which only a polarised calculation can have."""
    apart = bulk("Si", "sc", a=6.0)
    settings = ESPRESSO | {"kpt_density": 0.1}
    polarised = label(tmp_path / "a", apart, "espresso", **settings)
    not_so = label(tmp_path / "b", apart, "espresso", **settings, spin_polarised=False)
    assert -1.0 < polarised.energy - not_so.energy < -0.3


def test_moments_to_start_from_are_those_of_the_materials_project():
    from pymatgen.io.vasp.sets import MPRelaxSet

    theirs = MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]
    for symbol in chemical_symbols[1:]:
        assert moments(Atoms(symbol), polarised=True) == [theirs.get(symbol, 0.6)]
    iron = bulk("Fe", cubic=True)
    assert moments(iron, polarised=True).tolist() == [2.3, 2.3]  # those that ASE gave it
    iron.set_initial_magnetic_moments(None)
    assert moments(iron, polarised=True).tolist() == [5.0, 5.0]
    assert not moments(iron, polarised=False).any()


# --- settings and what is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("pyscf", {"max_cycles": 3}, "no setting 'max_cycles': did you mean max_cycle"),
        ("pyscf", {"max_cycle": 0.5}, "max_cycle is 0.5, it has to be int"),
        ("pyscf", {"xc": "pbbe"}, "no functional 'pbbe'"),
        (
            "espresso",
            {"command": "no-such-pw.x"},
            "'no-such-pw.x'.*apt-get install quantum-espresso",
        ),
        ("cp2k", {"command": "no-such-cp2k"}, "'no-such-cp2k'.*apt-get install cp2k"),
        ("emmt", {}, "no calculator is called 'emmt'.*package.module:Class"),
        ("os:system", {}, "'os:system' is no calculator of ASE"),
        ("os:path", {}, "'os:path' is no calculator of ASE"),
        ("no_such_package:Calculator", {}, "No module named 'no_such_package'"),
    ],
)
def test_an_unavailable_reference_code(name, settings, words):
    with pytest.raises(ForceDeltaError, match=words):
        reference(name, settings)


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it(monkeypatch):
    from forcedelta.labelling.references import GPAW

    monkeypatch.setattr(GPAW, "packages", ("no_such_package",))
    with pytest.raises(
        ForceDeltaError, match=r"no_such_package, which is not installed: .*pip install gpaw"
    ):
        reference("gpaw", {})


def test_a_reference_code_refuses_the_wrong_kind_of_structure():
    with pytest.raises(ForceDeltaError, match="pyscf is for molecules here, and Si2 is periodic"):
        reference("pyscf", {}).check_structure(silicon())
    water = molecule("H2O")
    water.info["charge"] = 1
    assert charge_and_multiplicity(water, None, None) == (1, 2)
    with pytest.raises(ForceDeltaError, match="9 electrons, which cannot have the multiplicity 1"):
        charge_and_multiplicity(water, None, 1)


def test_any_ase_calculator_with_its_keywords(tmp_path):
    made = reference("lj", {"epsilon": 0.5, "sigma": 1.0})
    assert made.description.startswith("ASE calculator of ase ")
    assert "lj, epsilon=0.5, sigma=1.0" in made.description
    dimer = molecule("H2")
    result = run_job(Job("a", dimer, made, str(tmp_path / "jobs" / "a")))
    r = dimer.get_distance(0, 1)
    shift = 4 * 0.5 * (1 / 3.0**12 - 1 / 3.0**6)  # ASE cuts at 3 sigma and shifts
    assert result.energy == pytest.approx(4 * 0.5 * (1 / r**12 - 1 / r**6) - shift)


@pytest.mark.parametrize(
    ("model", "labels", "differs"),
    [
        ("UHF PBE+D3/def2-SVP (ORCA 5)", "PBE-D3(BJ)/def2-svp", None),
        ("UHF PBE+D3/def2-SVP (ORCA 5)", "PBE/def2-svp", "dispersion"),
        ("UHF PBE+D3/def2-SVP (ORCA 5)", "PBE0-D3(BJ)/def2-tzvp", "functional and basis"),
        ("PBE (VASP)", "PBE", None),
        ("PBE (VASP)", "GFN2-xTB", "functional"),
        ("ωB97M-V/def2-TZVPD", "wb97m-v/def2-tzvpd", None),
        ("PBE-D3(0)/def2-SVP", "PBE-D3(BJ)/def2-svp", "dispersion"),
        ("PBE D3zero", "PBE-D3BJ", "dispersion"),
        ("PBE-D3", "PBE-D3(0)", None),
        ("PBE-D4/def2-SVP", "PBE-D3(BJ)/def2-svp", "dispersion"),
        ("PBE-D3(BJ)/def2-SVP", "PBE-D3M(BJ)/def2-svp", "dispersion"),
        ("ωB97X-D/def2-TZVP", "wb97x-d3/def2-tzvp", "dispersion"),
        ("PBE (VASP)", "VASP: PBE+U (Ni 6.2 eV); MPStaticSet", "Hubbard U"),
        ("PBE+U (Ni 6.2 eV, Fe 5.3 eV)", "PBE+U (Ni 6 eV)", "Hubbard U"),
        ("PBE+U (Ni 6.2 eV, Fe 5.3 eV)", "PBE+U (Ni 6.2 eV)", None),
        ("PBE+U", "PBE+U (Ni 6.2 eV)", None),
        ("PBE(+U), MPtrj", "PBE", None),
        ("GGA PBE, Hubbard U", "PBE", "Hubbard U"),
        ("PBE-D3(BJ)/def2-SVP (ORCA)", "PBE-D3(BJ)/def2-svp with its ECPs", None),
        (
            "PBE-D3(BJ)/def2-SVP (ORCA)",
            "PBE-D3(BJ)/def2-svp, all-electron",
            "treatment of core electrons",
        ),
        (
            "PBE, all-electron (FHI-aims)",
            "GPAW 26: PBE; PAW, plane waves",
            "treatment of core electrons",
        ),
        ("PBE (VASP)", "GPAW 26: PBE; PAW, plane waves", None),
        (
            "PBE (VASP)",
            "Quantum ESPRESSO 6.7: PBE (Si_ONCV_PBE-1.0.upf); plane waves",
            "treatment of core electrons",
        ),
        ("PBE, spin-polarised (VASP)", "PBE; no spin polarisation", "spin polarisation"),
        (
            "PBE, non-spin-polarized",
            "PBE; spin-polarised, ferromagnetic start",
            "spin polarisation",
        ),
        ("UHF PBE/def2-SVP", "PBE/def2-svp; RKS for singlets, else UKS", None),
        ("r2SCAN-3c", "r2SCAN", "functional"),
    ],
)
def test_levels_of_theory_are_compared_by_their_parts(model, labels, differs):
    assert difference(model, labels) == differs


@pytest.mark.parametrize(
    ("name", "settings", "model", "differs"),
    [
        ("pyscf", {}, "UHF PBE+D3/def2-SVP (ORCA 5)", None),
        ("pyscf", {"ecp": "none"}, "UHF PBE+D3/def2-SVP (ORCA 5)", "treatment of core electrons"),
        ("pyscf", {"dispersion": "d4"}, "UHF PBE+D3/def2-SVP (ORCA 5)", "dispersion"),
        ("pyscf", {"dispersion": "d3zero"}, "PBE-D3(BJ)/def2-SVP", "dispersion"),
        (
            "pyscf",
            {"basis": {"default": "cc-pvdz", "I": "cc-pvdz-pp"}},
            "PBE-D3/cc-pVDZ",
            "treatment of core electrons",
        ),
        ("pyscf", {"basis": "sto-3g"}, "PBE-D3/STO-3G", None),
        ("tblite", {}, "GFN2-xTB", None),
        ("tblite", {"method": "GFN1-xTB"}, "GFN2-xTB", "functional"),
    ],
)
def test_the_description_of_a_reference_is_compared(name, settings, model, differs):
    """The words on its settings do not look like another level."""
    assert difference(model, reference(name, settings).description) == differs
