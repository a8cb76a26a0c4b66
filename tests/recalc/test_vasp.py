"""Input sets for VASP, and runs of VASP that ASE ships with its own tests."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import ase.test
import numpy as np
import pytest
from ase.build import bulk

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


def recalc(forcedelta):
    return forcedelta(
        "recalc", "flagged.xyz", "--calculator", "vasp", "--flag-above", 0.1, "--stop-above", 1.0
    )


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
    assert re.search(r"ISMEAR\s*=\s*-5", incar)
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
