"""GRO and PDB files: all frames, with elements, cells and ends as they are."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import molecule

from forcedelta.errors import ForceDeltaError
from forcedelta.structures import read_structure, read_structures
from forcedelta.trajectories.opening import open_trajectory

WATER = molecule("H2O")
SPEED = np.array([[1e-4, -2e-4, 3e-4]] * 3)  # Å/fs


def gro(frame: int, digits: int = 3, names=("OW", "HW1", "HW2"), box="3.0 3.1 3.2") -> str:
    text = f"Water t= {0.5 * frame:.5f} step= {1000 * frame}\n    3\n"
    for k, (place, speed) in enumerate(zip(WATER.positions / 10 + 1, SPEED * 100, strict=True)):
        width = digits + 5
        text += f"    1SOL  {names[k]:>5}{k + 1:>5}"
        text += "".join(f"{x:{width}.{digits}f}" for x in place)
        text += "".join(f"{x:{width}.{digits + 1}f}" for x in speed) + "\n"
    return text + f"   {box}\n"


def pdb(name="HOH", cell="20.000   21.000   22.000", altloc=" ", share=1.0, elements=True) -> str:
    text = f"CRYST1   {cell}  90.00  90.00  90.00 P 1           1\n"
    for model in (1, 2, 3):
        text += f"MODEL     {model:4d}\n"
        for k, atom in enumerate(WATER):
            x, y, z = atom.position + model
            text += (
                f"ATOM  {k + 1:5d}  {atom.symbol:<3}{altloc}{name} A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"{share:6.2f}  0.00          {atom.symbol if elements else '':>2}\n"
            )
        text += "ENDMDL\n"
    return text + "END\n"


def read(path: Path, topology: Path | None = None):
    with closing(open_trajectory(path, topology)) as source:
        return list(source.frames(0, None, 1))


@pytest.mark.parametrize("digits", [3, 5])
def test_all_frames_of_gro(tmp_path, digits):
    path = tmp_path / "a.gro"
    path.write_text("".join(gro(k, digits) for k in range(6)))
    ase.io.write(tmp_path / "top.xyz", WATER)
    for topology in (None, tmp_path / "top.xyz"):
        frames = read(path, topology)
        assert [frame.step for frame in frames] == [0, 1000, 2000, 3000, 4000, 5000]
        assert [frame.time for frame in frames] == [0, 500, 1000, 1500, 2000, 2500]
        for frame in frames:
            assert frame.atoms.get_chemical_symbols() == ["O", "H", "H"]
            np.testing.assert_allclose(frame.atoms.positions, WATER.positions + 10, atol=0.006)
            np.testing.assert_allclose(frame.velocities, SPEED, atol=1e-6)
            np.testing.assert_allclose(frame.atoms.cell.lengths(), [30, 31, 32])
    kinetic = 0.5 * (WATER.get_masses()[:, None] * (SPEED / units.fs) ** 2).sum()
    assert frames[0].temperature == pytest.approx(2 * kinetic / (9 * units.kB), rel=1e-3)


def test_a_triclinic_box_of_gro(tmp_path):
    (tmp_path / "a.gro").write_text(gro(0, box="3.0 3.1 3.2 0.0 0.0 0.5 0.0 0.6 0.7"))
    [frame] = read(tmp_path / "a.gro")
    np.testing.assert_allclose(frame.atoms.cell.array, [[30, 0, 0], [5, 31, 0], [6, 7, 32]])


def test_names_that_may_be_two_elements_are_not_guessed(tmp_path):
    path = tmp_path / "a.gro"
    path.write_text(gro(0, names=("CA", "HW1", "HW2")))
    assert "atom 0, counted from 0, is not clear from its name 'CA'" in read(path)[0].reason
    assert "--topology" in read(path)[0].reason
    path = tmp_path / "a.pdb"
    path.write_text(pdb(elements=False).replace("O   HOH", "CA  HOH"))
    assert "is not clear from its name 'CA'" in read(path)[0].reason


def test_a_gro_file_that_is_cut_off(tmp_path):
    path, whole = tmp_path / "a.gro", gro(0) + gro(1)
    for cut in range(len(gro(0)) + 30, len(whole) - 25, 9):
        path.write_text(whole[:cut])
        first, last = read(path)
        assert first.step == 0
        assert last.last


def test_all_models_of_a_pdb_file(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(pdb())
    frames = read(path)
    assert len(frames) == 3
    for model, frame in enumerate(frames):
        np.testing.assert_allclose(frame.atoms.positions, WATER.positions + model + 1, atol=6e-4)
        np.testing.assert_allclose(frame.atoms.cell.lengths(), [20, 21, 22])
        assert frame.atoms.pbc.all()
        assert frame.time is None
        assert frame.step is None
    path.write_text(pdb()[: -len("ENDMDL\nEND\n") - 40])
    assert [getattr(frame, "last", False) for frame in read(path)] == [False, False, True]


def test_a_placeholder_is_no_cell(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(pdb(cell=" 1.000    1.000    1.000"))
    for frame in read(path):
        assert not frame.atoms.pbc.any()
        assert not frame.atoms.cell.array.any()
    assert not read_structure(str(path)).pbc.any()


def test_alternate_locations_and_partial_occupancies_are_named(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(pdb(altloc="B", share=0.5))
    assert "alternate location B with an occupancy of 0.5" in read(path)[0].reason
    path.write_text(pdb(share=0.7))
    assert "atom 0, counted from 0 (O), is partly occupied (0.7)" in read(path)[0].reason
    with pytest.raises(ForceDeltaError, match="partly occupied"):
        read_structure(str(path))


def heavy_water(path: Path) -> Path:
    """The second hydrogen of each model is deuterium."""
    rows = pdb().splitlines()
    for k, row in enumerate(rows):
        if row.startswith("ATOM      3"):
            rows[k] = row[:76] + " D"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_isotopes_are_named(tmp_path, caplog):
    path = heavy_water(tmp_path / "a.pdb")
    for frame in read(path):
        assert frame.atoms.numbers.tolist() == [8, 1, 1]
        np.testing.assert_allclose(frame.atoms.get_masses(), [15.999, 1.008, 2.014], atol=1e-3)
        assert frame.notes == ("it names the isotope D: read as H with a mass of 2.014 amu",)
    atoms = read_structure(str(path))
    np.testing.assert_allclose(atoms.get_masses()[2], 2.014)
    assert caplog.messages == [
        f"{path}: it names the isotope D: read as H with a mass of 2.014 amu"
    ]


def test_gro_as_a_topology(tmp_path):
    """Its unambiguous names are elements, as in a trajectory of that format."""
    from forcedelta.trajectories.topology import elements_of

    path = tmp_path / "top.gro"
    path.write_text(gro(0))
    assert elements_of(path).tolist() == [8, 1, 1]
    (tmp_path / "a.pdb").write_text(pdb(elements=False))
    assert [frame.atoms.numbers.tolist() for frame in read(tmp_path / "a.pdb", path)] == [
        [8, 1, 1]
    ] * 3
    path.write_text(gro(0, names=("CA", "HW1", "HW2")))
    with pytest.raises(ForceDeltaError, match=r"top.gro: the element of atom 0, .* not clear"):
        elements_of(path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_last_structure_is_found_without_the_others_in_memory(ending, tmp_path):
    import gzip
    import tracemalloc

    text = "".join(gro(k) for k in range(40_000)).encode()
    path = tmp_path / f"a.gro{ending}"
    path.write_bytes(gzip.compress(text, 1) if ending else text)
    tracemalloc.start()
    atoms = read_structure(str(path))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert atoms.info["step"] == 39_999_000
    assert used < len(text) / 4
    some = read_structures(f"{path}@-3:")
    assert [one.info["step"] for one in some] == [39_997_000, 39_998_000, 39_999_000]
    assert read_structure(f"{path}@7").info["step"] == 7000
    with pytest.raises(ForceDeltaError, match="40000 structures and none of index 40000"):
        read_structure(f"{path}@40000")
