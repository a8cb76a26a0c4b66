"""Input sets for VASP, and runs of VASP that ASE ships with its own tests."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import ase.test
import numpy as np
import pytest
from ase.build import bulk

from forcedelta.labelling import vasp

pytest.importorskip("pymatgen.io.vasp")

FINISHED = Path(ase.test.__file__).parent / "testdata" / "vasp" / "vasprun_dfpt.xml"
"""VASP 6.3.2 on rock salt."""
DIAMOND = FINISHED.with_name("vasprun_pstress.xml")
"""VASP 6.3.0 on diamond, 9 SCF steps."""


@pytest.fixture
def frame(tmp_path):
    """The structure of the finished run, with its atoms the other way round."""
    atoms = ase.io.read(FINISHED)
    atoms.calc = None
    atoms = atoms[[1, 0]]
    assert list(atoms.symbols) == ["Cl", "Na"]
    atoms.info.update(step=4, time=2.0, force_delta=0.2, model="m")
    ase.io.write(tmp_path / "flagged.xyz", atoms)
    return atoms


def recalc(forcedelta, *flags):
    return forcedelta(
        "recalc", "flagged.xyz", "--calculator", "vasp", "--flag-above", 0.1, "--stop-above", 1.0,
        *flags,
    )  # fmt: skip


def test_inputs_are_written_without_potentials_and_a_finished_run_is_collected(
    forcedelta, frame, tmp_path
):
    code, out, _ = recalc(forcedelta)
    assert code == 5
    assert "1 input sets written" in out
    (folder,) = (tmp_path / "labelled.xyz.vasp").iterdir()
    written = {path.name for path in folder.iterdir()}
    assert written == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec", "forcedelta.json"}
    incar = (folder / "INCAR").read_text()
    assert re.search(r"ENCUT\s*=\s*520", incar)
    assert re.search(r"NSW\s*=\s*0", incar)
    assert re.search(r"ISMEAR\s*=\s*0\n", incar)
    assert re.search(r"EDIFF\s*=\s*1e-06\n", incar)
    assert (folder / "POTCAR.spec").read_text().split() == ["Na_pv", "Cl"]

    # forces of a perfect crystal are zero: put numbers there to see whose they become
    text = FINISHED.read_text()
    block = '<varray name="forces" >'
    assert text.count(block) == 1
    head, rest = text.split(block)
    rest = re.sub(r"<v>[^<]*</v>", "<v> 1.0 2.0 3.0 </v>", rest, count=1)
    (folder / "vasprun.xml").write_text(head + block + rest)
    code, out, _ = recalc(forcedelta)
    assert code == 0
    assert "1 of 1 frames labelled" in out
    labelled = ase.io.read("labelled.xyz")
    theirs = ase.io.read(FINISHED)
    np.testing.assert_allclose(labelled.positions, frame.positions, atol=1e-8)
    np.testing.assert_allclose(labelled.get_forces(), [[0, 0, 0], [1, 2, 3]], atol=1e-8)
    assert labelled.get_potential_energy() == pytest.approx(theirs.get_potential_energy())
    np.testing.assert_allclose(labelled.get_stress(), theirs.get_stress(), rtol=1e-6)
    assert "MPStaticSet" in labelled.info["reference"]
    assert labelled.info["step"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text, "1 of 1 frames labelled"),
        (lambda text: text[: len(text) // 2], "not finished, or was killed"),
        # an SCF that has used up its steps did not converge: this one took 9
        (lambda text: re.sub(r'(name="NELM">\s*)60', r"\g<1>9", text), "within NELM=9 steps"),
    ],
)
def test_a_run_that_did_not_end_well_is_reported(forcedelta, tmp_path, change, words):
    atoms = ase.io.read(DIAMOND)
    atoms.calc = None
    atoms.info["force_delta"] = 0.2
    ase.io.write(tmp_path / "flagged.xyz", atoms)
    recalc(forcedelta)
    (folder,) = (tmp_path / "labelled.xyz.vasp").iterdir()
    (folder / "vasprun.xml").write_text(change(DIAMOND.read_text()))
    code, out, _ = recalc(forcedelta)
    assert words in out
    assert code == (0 if "labelled" in words else 5)


def test_a_run_of_another_structure_is_not_taken_for_a_label(forcedelta, frame, tmp_path):
    frame.positions[0, 0] += 0.05
    ase.io.write(tmp_path / "flagged.xyz", frame)
    recalc(forcedelta)
    (folder,) = (tmp_path / "labelled.xyz.vasp").iterdir()
    (folder / "vasprun.xml").write_text(FINISHED.read_text())
    code, out, _ = recalc(forcedelta)
    assert code == 5
    assert "another structure" in out
    assert "0.05 Å away" in out


def test_molecules_are_refused(forcedelta, tmp_path):
    atoms = bulk("Si")
    atoms.pbc = False
    atoms.info["force_delta"] = 0.2
    ase.io.write(tmp_path / "flagged.xyz", atoms)
    code, _, err = recalc(forcedelta)
    assert code == 2
    assert "periodic in three directions" in err


def written(forcedelta, tmp_path, atoms, *flags):
    """INCAR as a dict, and what the command printed."""
    from pymatgen.io.vasp import Incar

    atoms.info["force_delta"] = 0.2
    ase.io.write(tmp_path / "flagged.xyz", atoms)
    code, out, err = recalc(forcedelta, *flags)
    assert code == 5, err
    (folder,) = (tmp_path / "labelled.xyz.vasp").iterdir()
    return dict(Incar.from_file(folder / "INCAR")), out


@pytest.mark.parametrize("cells", [1, 4])
def test_the_scf_is_as_tight_for_512_atoms_as_for_8(forcedelta, tmp_path, cells):
    """MPStaticSet asks for 5e-5 eV per atom: 0.026 eV for 512."""
    atoms = bulk("Si", cubic=True).repeat((cells, cells, cells))
    incar, out = written(forcedelta, tmp_path, atoms)
    assert (incar["EDIFF"], incar["ISMEAR"], incar["SIGMA"]) == (1e-6, 0, 0.05)
    assert incar["LREAL"] is False
    assert "PBE; PAW, spin-polarised, MPStaticSet" in out
    assert "EDIFF = 1e-06, ISMEAR = 0, SIGMA = 0.05 for forces" in out


def test_the_settings_of_the_materials_project_to_the_letter(forcedelta, tmp_path):
    incar, out = written(forcedelta, tmp_path, bulk("Si", cubic=True), "--set", "mp=exact")
    assert incar["EDIFF"] == pytest.approx(8 * 5e-5)
    assert incar["ISMEAR"] == -5
    assert "to the letter" in out
    code, _, err = recalc(forcedelta)
    assert code == 2
    assert "has inputs with mp=exact: pass --set mp=exact, or another --out" in err


def test_inputs_with_a_hubbard_u_are_not_called_pbe(forcedelta, tmp_path):
    oxide = bulk("NiO", "rocksalt", a=4.2)
    incar, out = written(forcedelta, tmp_path, oxide)
    assert incar["LDAU"]
    assert dict(zip(["Ni", "O"], incar["LDAUU"], strict=True)) == {"Ni": 6.2, "O": 0}
    assert "PBE+U (Ni 6.2 eV); PAW" in out
    assert vasp.level(bulk("Ni")) == vasp.level(bulk("Si")) == "PBE"
    assert vasp.level(bulk("FeF", "rocksalt", a=4.2)) == "PBE+U (Fe 5.3 eV)"


def test_frames_of_both_kinds_are_warned_of(forcedelta, tmp_path):
    frames = [bulk("NiO", "rocksalt", a=4.2), bulk("Ni")]
    for atoms in frames:
        atoms.set_initial_magnetic_moments(None)
        atoms.info["force_delta"] = 0.2
    ase.io.write(tmp_path / "flagged.xyz", frames)
    _, out, _ = recalc(forcedelta)
    assert "warning: the frames have labels at PBE and at PBE+U" in out


def test_moments_and_multiplicity_of_a_frame_are_in_its_inputs(forcedelta, tmp_path):
    oxide = bulk("NiO", "rocksalt", a=4.2).repeat((2, 1, 1))
    oxide.set_initial_magnetic_moments([2.0, 0.1, -2.0, 0.2])
    oxide.info["spin"] = 1
    incar, _ = written(forcedelta, tmp_path, oxide)
    assert incar["MAGMOM"] == [2.0, -2.0, 0.1, 0.2]  # sorted by element
    assert incar["NUPDOWN"] == 0


def test_a_charged_frame_is_refused(forcedelta, tmp_path):
    atoms = bulk("Si")
    atoms.info.update(charge=1, force_delta=0.2)
    ase.io.write(tmp_path / "flagged.xyz", atoms)
    code, _, err = recalc(forcedelta)
    assert code == 2
    assert "has a charge of 1, and NELECT cannot be set" in err
    assert recalc(forcedelta, "--charge", 0)[0] == 5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--xc", "pbe0"], "no setting 'xc'"),
        (["--set", "mp=almost"], "mp is 'almost'"),
        (["--set", "ENCUT=600"], "no setting 'ENCUT'"),
    ],
)
def test_settings_that_there_are_not(forcedelta, frame, flags, words):
    code, _, err = recalc(forcedelta, *flags)
    assert code == 2
    assert words in err


def test_the_free_energy_belongs_to_the_forces(forcedelta, frame, tmp_path):
    recalc(forcedelta)
    (folder,) = (tmp_path / "labelled.xyz.vasp").iterdir()
    text = re.sub(r'(name="e_fr_energy">\s*)\S+', r"\g<1>-7.5", FINISHED.read_text())
    (folder / "vasprun.xml").write_text(re.sub(r'(name="e_0_energy">\s*)\S+', r"\g<1>-7.0", text))
    assert recalc(forcedelta)[0] == 0
    labelled = ase.io.read("labelled.xyz")
    assert labelled.get_potential_energy() == pytest.approx(-7.0)
    assert labelled.get_potential_energy(force_consistent=True) == pytest.approx(-7.5)
    assert recalc(forcedelta)[0] == 0  # the journal has both
    assert ase.io.read("labelled.xyz").calc.results["free_energy"] == pytest.approx(-7.5)
