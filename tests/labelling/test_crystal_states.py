"""Charge, total moment and pseudopotentials of crystals in Quantum ESPRESSO, CP2K and GPAW."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling import reference
from forcedelta.labelling.level_of_theory import read_level
from forcedelta.labelling.references import pseudopotentials
from forcedelta.labelling.references.magnetism import charge_and_moment, with_moments
from md_hooks.recalculation import Job, Label, run_job

HEADERS = {
    1: """<PP_INFO>\nmade by hand\n</PP_INFO>\n<PP_HEADER>
   0                   Version Number
  Si                   Element
   NC                  Norm - Conserving pseudopotential
   SLA  PW  PBX  PBC   PBE  Exchange-Correlation functional
    4.00000000000      Z valence
</PP_HEADER>\n""",
    2: """<UPF version="2.0.1">\n<PP_INFO>\n</PP_INFO>\n<PP_HEADER
   generated="by hand"\n   element="Si"\n   pseudo_type="NC"\n   functional="PBE"
   z_valence="    4.00"\n   rho_cutoff="0.0"/>\n""",
}


def upf(
    folder: Path, name: str, symbol: str = "Si", functional: str = "PBE", valence: str = "4.00"
):
    folder.mkdir(exist_ok=True)
    text = HEADERS[2].replace('"Si"', f'"{symbol}"').replace('"PBE"', f'"{functional}"')
    (folder / name).write_text(text.replace("    4.00", valence))


def silicon(**info) -> Atoms:
    atoms = bulk("Si")
    atoms.rattle(0.05, seed=1)
    atoms.info.update(info)
    return atoms


def espresso(folder: Path, **settings):
    return reference("espresso", {"pseudo_dir": str(folder), "command": "true", **settings})


@pytest.mark.parametrize("version", [1, 2])
def test_the_header_of_a_upf_file(tmp_path, version):
    path = tmp_path / "Si.upf"
    path.write_text(HEADERS[version].replace("SLA  PW  PBX  PBC   PBE", "SLA  PW  PBX  PBC"))
    assert pseudopotentials.read_upf(path) == pseudopotentials.UPF("Si", 4.0, "PBE")


def test_the_level_has_the_functional_of_the_files(tmp_path):
    upf(tmp_path, "Si.upf", functional="SLA PW PSX PSC")
    level = espresso(tmp_path).level
    assert level.startswith("PBEsol, UPF pseudopotentials (all in ")
    assert read_level(level).functional == "pbesol"


@pytest.mark.parametrize(
    ("files", "settings", "words"),
    [
        ({"Si_c.upf": {"symbol": "C"}}, {}, "pseudopotential of C, not of Si"),
        (
            {"Si.upf": {}, "C.upf": {"symbol": "C"}},
            {"pseudopotentials": {"Si": "C.upf"}},
            "C.upf is a pseudopotential of C, not of Si",
        ),
        ({"Si.upf": {"valence": "40"}}, {}, "the file is damaged, give another"),
        (
            {"Si.upf": {}, "C.upf": {"symbol": "C", "functional": "PZ"}},
            {},
            "different functionals .C: LDA, Si: PBE.",
        ),
    ],
)
def test_pseudopotentials_that_do_not_fit(tmp_path, files, settings, words):
    for name, header in files.items():
        upf(tmp_path / "upf", name, **header)
    atoms = bulk("SiC", "zincblende", a=4.36) if "C.upf" in files and not settings else silicon()
    with pytest.raises(ForceDeltaError, match=words):
        espresso(tmp_path / "upf", **settings).check_structure(atoms)


def test_espresso_gets_charge_and_total_moment(tmp_path):
    upf(tmp_path, "Si.upf")
    made = espresso(tmp_path)
    for info, state in (
        ({}, {}),
        ({"charge": 1}, {"tot_charge": 1}),
        ({"spin": 3}, {"tot_magnetization": 2}),
        ({"charge": -1, "spin": 2}, {"tot_charge": -1, "tot_magnetization": 1}),
    ):
        atoms = with_moments(silicon(**info), polarised=True)
        system = made.calculator(atoms, 1).parameters["input_data"]["system"]
        assert {key: system[key] for key in system if key.startswith("tot_")} == state
    with pytest.raises(ForceDeltaError, match="Si2 with charge 9 has -1 electrons"):
        made.check_structure(silicon(charge=9))  # of 8 that are calculated
    with pytest.raises(ForceDeltaError, match="7 electrons, which cannot have the multiplicity 1"):
        made.check_structure(silicon(charge=1, spin=1))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pw.x") is None or not Path("/usr/share/abinit/psp/14-Si.nlcc.UPF").exists(),
    reason="needs Debian's packages quantum-espresso and abinit-data",
)
def test_a_charged_crystal_is_calculated_charged(tmp_path):
    made = reference(
        "espresso",
        {"pseudo_dir": "/usr/share/abinit/psp", "pseudopotentials": {"Si": "14-Si.nlcc.UPF"},
         "cutoff": 150.0, "density_factor": 4.0, "kpt_density": 0.5},
    )  # fmt: skip
    results = []
    for charge in (0, 1):
        outcome = run_job(Job("a", silicon(charge=charge), made, str(tmp_path / f"{charge}")))
        assert isinstance(outcome, Label), outcome
        results.append(outcome)
    neutral, cation = results
    # the bottom of a band less: an electron at the mean potential, which the code sets to zero
    assert 3.0 < neutral.energy - cation.energy < 9.0
    assert np.abs(neutral.forces - cation.forces).max() > 0.3
    assert neutral.free_energy == neutral.energy  # of Quantum ESPRESSO, with the smearing


@pytest.mark.parametrize(
    ("info", "polarised", "electrons", "found"),
    [
        ({}, True, None, (0, None)),
        ({"charge": 2}, True, None, (2, None)),
        ({"spin": 1}, True, None, (0, 0)),
        ({"spin": 3}, True, 8, (0, 2)),
        ({"spin": 1}, False, None, (0, None)),
        ({"spin": 3}, False, None, "needs spin polarisation"),
        ({"spin": 2}, True, None, "28 electrons, which cannot have the multiplicity 2"),
        ({"spin": 11}, True, 8, "8 electrons, which cannot have the multiplicity 11"),
    ],
)
def test_charge_and_total_moment_of_a_crystal(info, polarised, electrons, found):
    if isinstance(found, str):
        with pytest.raises(ForceDeltaError, match=found):
            charge_and_moment(silicon(**info), polarised, electrons)
    else:
        assert charge_and_moment(silicon(**info), polarised, electrons) == found


def test_a_start_has_the_total_moment_that_is_asked_for():
    atoms = silicon()
    atoms.set_initial_magnetic_moments([2.0, -1.0])
    for total, start in ((None, [2, -1]), (1, [2, -1]), (0, [1.5, -1.5])):
        assert with_moments(atoms, True, total).get_initial_magnetic_moments().tolist() == start


def test_gpaw_gets_charge_and_total_moment():
    pytest.importorskip("gpaw")
    made = reference("gpaw", {"cutoff": 200.0, "kpt_density": 0.8})
    with pytest.raises(ForceDeltaError, match="no PBE setup for U"):
        made.check_structure(Atoms("U", cell=[3, 3, 3], pbc=True))
    with pytest.raises(ForceDeltaError, match="cannot have the multiplicity 2"):
        made.check_structure(silicon(spin=2))
    parameters = made.calculator(silicon(charge=1, spin=2), 1).parameters
    assert parameters.charge == 1
    assert parameters.occupations.params["fixmagmom"]


# --- CP2K ----------------------------------------------------------------------------------------


@pytest.fixture
def cp2k_data(tmp_path, monkeypatch):
    """Basis sets and potentials of which the ones that go together are not the first."""
    (tmp_path / "BASIS_MOLOPT").write_text(
        "# Mg\n Mg DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q2\n 1\n"
        " Si DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q4\n Rh DZVP-MOLOPT-SR-GTH-q9\n"
        " Rh DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q9\n"
    )
    (tmp_path / "POTENTIAL").write_text(
        "Mg GTH-PBE-q10 GTH-PBE\n  4 6\nMg GTH-PBE-q2\n 2\nSi GTH-PBE-q4 GTH-PBE\n"
        "Rh GTH-PBE-q17 GTH-PBE\nSi GTH-BLYP-q4 GTH-BLYP\n"
    )
    monkeypatch.setenv("CP2K_DATA_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("symbol", "family", "found"),
    [
        ("Mg", "GTH-PBE", "GTH-PBE-q2"),
        ("Si", "GTH-PBE", "GTH-PBE-q4"),
        ("Si", "GTH-BLYP", "GTH-BLYP-q4"),
        ("Rh", "GTH-PBE", "made for 9 valence electrons, and the potentials are GTH-PBE-q17"),
        ("Mg", "GTH-BLYP", "no GTH-BLYP potential for Mg"),
        ("O", "GTH-PBE", r"no basis set DZVP-MOLOPT-SR-GTH \(it has none\) for O"),
    ],
)
def test_basis_set_and_potential_of_cp2k_have_the_same_electrons(cp2k_data, symbol, family, found):
    def choose() -> str:
        return pseudopotentials.gth_potential(symbol, "DZVP-MOLOPT-SR-GTH", family)

    if found.startswith("GTH"):
        assert choose() == found
    else:
        with pytest.raises(ForceDeltaError, match=found):
            choose()


@pytest.mark.skipif(shutil.which("cp2k_shell") is None, reason="needs Debian's package cp2k")
def test_cp2k_gets_charge_moment_and_potentials():
    made = reference("cp2k", {})
    assert "GTH-PBE pseudopotentials" in made.description
    with pytest.raises(
        ForceDeltaError, match="cannot hold the multiplicity 3 of Si2 with k-points"
    ):
        made.check_structure(silicon(spin=3))
    made.check_structure(silicon(spin=1))
    oxide = bulk("NiO", "rocksalt", a=4.2).repeat((2, 1, 1))
    oxide.set_initial_magnetic_moments([2.0, 0.0, -2.0, 0.0])
    with pytest.raises(ForceDeltaError, match=r"those of Ni are opposed \(-2 and 2\)"):
        made.check_structure(oxide)
    gamma = reference("cp2k", {"kpt_density": 0.1})
    for info, lines in (
        ({"charge": 1}, ["CHARGE 1", "MULTIPLICITY", "POTENTIAL GTH-PBE-q4", "KPOINTS"]),
        ({"spin": 3}, ["FIXED_MAGNETIC_MOMENT 2", "MULTIPLICITY 3", "MAGNETIZATION 1"]),
    ):
        calculator = gamma.calculator(silicon(**info), 1)
        calculator.atoms = silicon(**info)
        text = calculator._generate_input()
        calculator.close() if hasattr(calculator, "close") else None
        for line in lines:
            assert line in text


# --- others --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "info", "words"),
    [
        ({}, {}, None),
        ({}, {"charge": 0, "spin": 1}, None),
        ({}, {"charge": 1}, "lj takes no charge from a frame, and OH2 has 1: .* --charge 0"),
        ({}, {"spin": 3}, "takes no spin from a frame, and OH2 has 3: .* --spin 1"),
        ({"total_charge": 1}, {"charge": 1}, None),
        ({"mult": 3}, {"spin": 3}, None),
    ],
)
def test_any_calculator_does_not_lose_a_charge(settings, info, words):
    water = molecule("H2O")
    water.info = info
    made = reference("lj", settings)
    if words is None:
        made.check_structure(water)
    else:
        with pytest.raises(ForceDeltaError, match=words):
            made.check_structure(water)


def test_tight_binding_ends_at_radon():
    pytest.importorskip("tblite")
    reference("tblite", {}).check_structure(Atoms("Rn"))
    with pytest.raises(ForceDeltaError, match="up to radon, not for Ra, U"):
        reference("tblite", {}).check_structure(Atoms("URa", [[0, 0, 0], [3, 0, 0]]))
