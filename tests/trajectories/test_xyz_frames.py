"""XYZ files of other programs: every frame, in Å."""

from __future__ import annotations

import bz2
import gzip
import lzma
from contextlib import closing
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.cell import Cell

from forcedelta.errors import ForceDeltaError
from forcedelta.structures import read_structure
from forcedelta.trajectories.base import StoredFrame
from forcedelta.trajectories.opening import open_trajectory

WATER = molecule("H2O")


def frame(comment: str = "", scale: float = 1.0, atoms=WATER) -> str:
    rows = (f"{a.symbol} " + " ".join(f"{x / scale:.9f}" for x in a.position) for a in atoms)
    return f"{len(atoms)}\n{comment}\n" + "\n".join(rows) + "\n"


def read(path: Path):
    with closing(open_trajectory(path)) as source:
        return list(source.frames(0, None, 1))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "a.xyz"


@pytest.mark.parametrize("gap", ["\n", "\n\n\n", "  \n"])
def test_blank_lines_between_frames(path, gap):
    path.write_text(gap.join(frame() for _ in range(5)) + gap)
    assert len(open_trajectory(path)) == 5
    assert all(isinstance(found, StoredFrame) for found in read(path))


def test_text_after_the_last_frame_is_reported(path):
    path.write_text(frame() + frame() + "\nend of the run\n")
    *frames, last = read(path)
    assert len(frames) == 2
    assert last.last
    assert "found 'end of the run'" in last.reason


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip), ("xz", lzma), ("bz2", bz2)])
def test_compressed_files_that_are_cut_off(path, ending, pack):
    rng = np.random.default_rng(0)
    text = "".join(
        frame(atoms=molecule("H2O", positions=WATER.positions + rng.normal(size=(3, 3))))
        for _ in range(12000 if ending == "bz2" else 3000)
    )
    packed = pack.compress(text.encode())
    path = path.with_suffix(f".xyz.{ending}")
    path.write_bytes(packed[: len(packed) * 9 // 10])
    source = open_trajectory(path)
    *frames, last = source.frames(0, None, 100)
    assert len(frames) == -(-len(source) // 100) > 10
    assert last.last
    assert "cut off" in last.reason
    path.write_bytes(packed[:60])
    assert [f.last for f in read(path)] == [True]


@pytest.mark.parametrize(
    ("unit", "scale"), [("{angstrom}", 1.0), ("{atomic_unit}", units.Bohr), ("{nanometer}", 10.0)]
)
def test_units_and_cells_of_ipi(path, unit, scale):
    cellpar = [8.0, 9.0, 10.0, 80.0, 95.0, 100.0]
    lengths = " ".join(f"{x / units.Bohr:.8f}" for x in cellpar[:3])
    angles = " ".join(map(str, cellpar[3:]))
    comment = f"# CELL(abcABC): {lengths} {angles}  Step: {{}}  Bead: 0 positions{unit}  cell{{atomic_unit}}"
    path.write_text("".join(frame(comment.replace("{}", str(k), 1), scale) for k in (0, 10)))
    for found, step in zip(read(path), (0, 10), strict=True):
        np.testing.assert_allclose(found.atoms.positions, WATER.positions, atol=1e-7)
        np.testing.assert_allclose(
            found.atoms.cell.array, Cell.fromcellpar(cellpar).array, atol=1e-6
        )
        assert found.atoms.pbc.all()
        assert found.step == step
    np.testing.assert_allclose(read_structure(str(path)).positions, WATER.positions, atol=1e-7)


def test_the_vectors_of_ipi_are_columns(path):
    silicon = bulk("Si")
    silicon.set_cell([[5, 0, 0], [1, 6, 0], [2, 3, 7]])
    numbers = " ".join(map(str, silicon.cell.array.T.ravel()))
    path.write_text(frame(f"# CELL(H): {numbers} Step: 3 Bead: 0 positions{{angstrom}} cell{{angstrom}}",
                          atoms=silicon))  # fmt: skip
    [found] = read(path)
    np.testing.assert_allclose(found.atoms.cell.array, silicon.cell.array)


@pytest.mark.parametrize(
    "quantity", ["forces{atomic_unit}", "velocities{atomic_unit}", "f_centroid"]
)
def test_other_quantities_of_ipi_are_no_positions(path, quantity):
    unit = "" if "{" in quantity else "{ev}"
    path.write_text(
        frame(f"# CELL(abcABC): 9 9 9 90 90 90 Step: 0 Bead: 0 {quantity}{unit} cell{{angstrom}}")
    )
    assert "no positions" in read(path)[0].reason
    with pytest.raises(ForceDeltaError, match="no positions"):
        read_structure(str(path))
    path.write_text(
        frame("# CELL(abcABC): 9 9 9 90 90 90 Step: 0 Bead: 0 positions{mile} cell{angstrom}")
    )
    assert "positions are in mile" in read(path)[0].reason


@pytest.mark.parametrize(
    ("comment", "scale"),
    [
        ("units: bohr", units.Bohr), ("Coordinates in Bohr", units.Bohr), ("unit=nm", 10.0),
        ("energy -76.4 a.u.", 1.0), ("Coordinates from ORCA-job water", 1.0), ("units: angstrom", 1.0),
    ],
)  # fmt: skip
def test_units_named_in_words(path, comment, scale):
    path.write_text(frame(comment, scale))
    np.testing.assert_allclose(read(path)[0].atoms.positions, WATER.positions, atol=1e-7)


def test_isotopes_are_named(path):
    path.write_text(frame().replace("H ", "D "))
    assert "isotope D" in read(path)[0].reason
    path.write_text(frame().replace("H ", "Hx "))
    assert "'Hx', which is not an element" in read(path)[0].reason


def test_names_with_an_at_sign_and_folders(tmp_path):
    images = [molecule("H2O") for _ in range(3)]
    ase.io.write(tmp_path / "a.traj", images)
    ase.io.write(tmp_path / "a.json", images)
    ase.io.write(tmp_path / "folder.bundle", images, format="bundletrajectory")
    (tmp_path / "a.xyz").write_text(frame() * 3)
    for ending in ("traj", "json", "xyz"):
        (tmp_path / f"a.{ending}").rename(tmp_path / f"nai\u0308ve name@300K.{ending}")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for file in files:
        assert len(read(file)) == 3
        assert len(read_structure(str(file))) == 3
    with pytest.raises(ForceDeltaError, match="is a folder"):
        open_trajectory(tmp_path)
