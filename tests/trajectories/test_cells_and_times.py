"""Cells keep their orientation, and unknown times stay unknown, in formats of MDAnalysis."""

from __future__ import annotations

import warnings
from contextlib import closing
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase.build import bulk

from forcedelta.reading_options import ReadingOptions
from forcedelta.trajectories.base import UnreadableFrame
from forcedelta.trajectories.opening import open_trajectory

pytest.importorskip("MDAnalysis", reason="needs MDAnalysis")

from MDAnalysis.lib.formats.libdcd import DCDFile
from MDAnalysis.lib.formats.libmdaxdr import TRRFile, XTCFile

SYMMETRIC = np.array([[4.2, -0.6, 0.3], [-0.6, 4.8, -0.25], [0.3, -0.25, 9.0]])


@pytest.fixture
def primitive(tmp_path):
    """Silicon whose vectors lie in the planes between the axes, and its topology."""
    atoms = bulk("Si", "diamond", 5.43) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    ase.io.write(tmp_path / "top.xyz", atoms)
    return atoms


def read(path: Path, **options):
    with closing(
        open_trajectory(path, path.with_name("top.xyz"), ReadingOptions(**options))
    ) as source:
        return list(source.frames(0, None, 1))


@pytest.mark.parametrize(("ending", "writer"), [("xtc", XTCFile), ("trr", TRRFile)])
def test_vectors_of_gromacs(tmp_path, primitive, ending, writer):
    x, box = (primitive.positions / 10).astype("f4"), (primitive.cell.array / 10).astype("f4")
    with writer(str(tmp_path / f"a.{ending}"), "w") as file:
        for k in range(3):
            if ending == "xtc":
                file.write(x, box, 5 * k, 0.1 * k, 1000.0)
            else:
                file.write(x, None, None, box, 5 * k, 0.1 * k, 0.0, len(x))
    for k, frame in enumerate(read(tmp_path / f"a.{ending}")):
        np.testing.assert_allclose(frame.atoms.cell.array, primitive.cell.array, atol=1e-5)
        np.testing.assert_allclose(frame.atoms.positions, primitive.positions, atol=6e-3)
        assert (frame.step, frame.time) == (5 * k, pytest.approx(100 * k, abs=1e-4))


def h5md(path: Path, atoms, unit: str, scale: float) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = [1, 1]
        group = file.create_group("particles/all")
        box = group.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = 3, ["periodic"] * 3
        for name, values in (("position", atoms.positions), ("box/edges", atoms.cell.array)):
            element = group.create_group(name)
            element["step"], element["time"] = np.arange(2) * 10, np.arange(2) * 0.1
            element["time"].attrs["unit"] = "ps"
            element["value"] = np.stack([values, values]) / scale
            element["value"].attrs["unit"] = unit


@pytest.mark.parametrize(("unit", "scale"), [("Angstrom", 1.0), ("nm", 10.0)])
def test_vectors_and_units_of_h5md(tmp_path, primitive, unit, scale):
    h5md(tmp_path / "a.h5md", primitive, unit, scale)
    for frame in read(tmp_path / "a.h5md"):
        np.testing.assert_allclose(frame.atoms.cell.array, primitive.cell.array, atol=1e-5)
        np.testing.assert_allclose(frame.atoms.positions, primitive.positions, atol=1e-5)


def dcd(path: Path, atoms, unitcell, remarks: str, first: int = 0) -> None:
    """Three frames, each 10 steps of 1 in the header's unit of time apart."""
    with DCDFile(str(path), "w") as file:
        file.write_header(
            remarks=remarks, natoms=len(atoms), nsavc=10, istart=first, delta=1.0, is_periodic=1
        )
        for _ in range(3):
            file.write(atoms.positions.astype("f4"), np.asarray(unitcell, dtype="f8"))


def test_the_symmetric_matrix_of_charmm(tmp_path, primitive):
    six = SYMMETRIC[np.tril_indices(3)]
    dcd(tmp_path / "a.dcd", primitive, six, "CHARMM-like")
    for frame in read(tmp_path / "a.dcd"):
        np.testing.assert_allclose(frame.atoms.cell.array, SYMMETRIC, atol=1e-6)
    # without a name of the program it may be either
    dcd(tmp_path / "b.dcd", primitive, six, "a run")
    [last] = read(tmp_path / "b.dcd")
    assert isinstance(last, UnreadableFrame)
    assert "--no-pbc" in last.reason
    assert len(read(tmp_path / "b.dcd", no_pbc=True)) == 3
    larger = SYMMETRIC * 5  # an angle or its cosine is not negative and beyond 1
    dcd(tmp_path / "c.dcd", primitive, larger[np.tril_indices(3)], "a run")
    np.testing.assert_allclose(read(tmp_path / "c.dcd")[0].atoms.cell.array, larger, atol=1e-5)


def test_lengths_and_angles_are_remarked(tmp_path, primitive):
    dcd(tmp_path / "a.dcd", primitive, [7.0, 60.0, 7.5, 70.0, 80.0, 8.0], "Created by NAMD")
    for frame in read(tmp_path / "a.dcd"):
        assert any("not orthogonal" in note for note in frame.notes)
        np.testing.assert_allclose(frame.atoms.cell.cellpar(), [7, 7.5, 8, 80, 70, 60], atol=1e-4)
    dcd(tmp_path / "b.dcd", primitive, [7.0, 90.0, 7.5, 90.0, 90.0, 8.0], "Created by NAMD")
    assert read(tmp_path / "b.dcd")[0].notes == ()


def test_times_of_a_dcd_file_by_lammps(tmp_path, primitive):
    dcd(tmp_path / "a.dcd", primitive, [20, 90, 20, 90, 90, 20], "REMARKS Created by LAMMPS", 50)
    frames = read(tmp_path / "a.dcd")
    assert [frame.step for frame in frames] == [50, 60, 70]
    assert [frame.time for frame in frames] == [None] * 3
    assert "--timestep" in frames[0].notes[0]
    frames = read(tmp_path / "a.dcd", timestep=0.5)
    assert [frame.time for frame in frames] == [25.0, 30.0, 35.0]
    assert frames[0].notes == ()


def test_times_that_mdanalysis_invents_are_unknown(tmp_path, primitive):
    (tmp_path / "a.inpcrd").write_text(
        "title\n" + f"{len(primitive):5d}\n" + "".join(
            f"{x:12.7f}" + ("\n" if k % 6 == 5 else "") for k, x in enumerate(primitive.positions.ravel())
        ) + "\n"
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [frame] = read(tmp_path / "a.inpcrd", file_format="INPCRD")
    assert frame.time is None
