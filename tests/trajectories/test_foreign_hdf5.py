"""HDF5 files of other programs are recognised by their content, under any name."""

from __future__ import annotations

import json
from contextlib import closing

import ase.io
import h5py
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule

from forcedelta.errors import ForceDeltaError
from forcedelta.trajectories.opening import open_trajectory

SILICON = bulk("Si")
SILICON.rattle(0.05, seed=1)
FRAMES = np.stack([SILICON.positions + k for k in range(3)])


def read(path, topology=None):
    with closing(open_trajectory(path, topology)) as source:
        return list(source.frames(0, None, 1))


def check(frames):
    assert len(frames) == 3
    for k, frame in enumerate(frames):
        np.testing.assert_allclose(frame.atoms.positions, FRAMES[k], atol=1e-5)
        np.testing.assert_allclose(frame.atoms.cell.array, SILICON.cell.array, atol=1e-5)
        assert set(frame.atoms.symbols) == {"Si"}
        assert frame.atoms.pbc.all()


@pytest.fixture
def topology(tmp_path):
    ase.io.write(tmp_path / "top.xyz", SILICON)
    return tmp_path / "top.xyz"


@pytest.mark.parametrize("variable", [False, True])
def test_torch_sim(tmp_path, variable):
    path = tmp_path / "run.h5"
    times = 3 if variable else 1
    with h5py.File(path, "w") as file:
        file["data/positions"] = FRAMES
        file["data/cell"] = np.stack([SILICON.cell.array.T] * times)  # column vectors
        file["data/atomic_numbers"] = np.stack([SILICON.numbers] * times)
        file["data/masses"] = SILICON.get_masses()[None]
        file["data/pbc"] = np.array([True]) if variable else np.array([[True] * 3])
        file["steps/positions"] = np.array([0, 10, 25])
    frames = read(path)
    check(frames)
    assert [frame.step for frame in frames] == [0, 10, 25]
    assert [frame.time for frame in frames] == [None] * 3


def test_mdtraj(tmp_path):
    path = tmp_path / "run.hdf"
    water = molecule("H2O")
    atoms = [
        {"index": k, "name": f"{s}{k}", "element": s}
        for k, s in enumerate(water.get_chemical_symbols())
    ]
    topology = {"chains": [{"residues": [{"name": "HOH", "atoms": atoms}]}], "bonds": []}
    with h5py.File(path, "w") as file:
        file["coordinates"] = np.stack([water.positions / 10] * 2)
        file["topology"] = [json.dumps(topology).encode()]
        file["time"] = np.array([0.0, 0.5])
        file["cell_lengths"] = np.array([[2.0, 2.1, 2.2]] * 2)
        file["cell_angles"] = np.array([[90.0, 80.0, 70.0]] * 2)
        file["velocities"] = np.full((2, 3, 3), 0.1)
    for frame, time in zip(read(path), (0, 500), strict=True):
        np.testing.assert_allclose(frame.atoms.positions, water.positions, atol=1e-5)
        np.testing.assert_allclose(frame.atoms.cell.cellpar(), [20, 21, 22, 90, 80, 70], atol=1e-4)
        np.testing.assert_allclose(frame.velocities, 1e-3)
        assert frame.atoms.get_chemical_symbols() == ["O", "H", "H"]
        assert frame.time == time


def h5md(
    path, *, unit=None, scale=1.0, increments=False, fixed_box=False, species=None, time_unit="ps"
):
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = [1, 1]
        group = file.create_group("particles/all")
        box = group.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = 3, [b"periodic"] * 3
        position = group.create_group("position")
        position["value"] = FRAMES / scale
        position["step"] = 5 if increments else np.array([0, 5, 10])
        position["time"] = 0.01 if increments else np.array([0, 0.01, 0.02])
        if time_unit:
            position["time"].attrs["unit"] = time_unit
        if fixed_box:
            edges = box.create_dataset("edges", data=SILICON.cell.array / scale)
        else:
            edges = box.create_group("edges")
            edges["value"] = np.stack([SILICON.cell.array / scale] * 3)
            edges = edges["value"]
        if unit is not None:
            position["value"].attrs["unit"] = edges.attrs["unit"] = unit
        if species is not None:
            group["species"] = species


@pytest.mark.parametrize("increments", [False, True])
@pytest.mark.parametrize("fixed_box", [False, True])
@pytest.mark.parametrize(
    ("unit", "scale"), [(None, 1.0), ("Angstrom", 1.0), ("nm", 10.0), ("bohr", units.Bohr)]
)
def test_h5md_with_a_topology(tmp_path, topology, increments, fixed_box, unit, scale):
    path = tmp_path / "run.h5"
    h5md(path, unit=unit, scale=scale, increments=increments, fixed_box=fixed_box)
    frames = read(path, topology)
    check(frames)
    assert [frame.step for frame in frames] == [0, 5, 10]
    assert [frame.time for frame in frames] == [0, 10, 20]
    assert ("unit of length" in " ".join(frames[0].notes)) == (unit is None)


def test_times_of_unknown_unit_are_unknown(tmp_path, topology):
    h5md(tmp_path / "run.h5", time_unit=None)
    assert [frame.time for frame in read(tmp_path / "run.h5", topology)] == [None] * 3


def test_species_that_name_elements(tmp_path):
    kind = h5py.enum_dtype({"Si": 3, "O": 4}, basetype="i4")
    h5md(tmp_path / "a.h5md", species=np.array([3, 3], dtype=kind))
    check(read(tmp_path / "a.h5md"))
    h5md(tmp_path / "b.h5", species=np.array([14, 14]))  # types of any meaning
    with pytest.raises(ForceDeltaError, match="--topology"):
        open_trajectory(tmp_path / "b.h5")


def test_what_is_missing_is_told(tmp_path, topology):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["spectrum"] = np.arange(3)
    with pytest.raises(ForceDeltaError, match=r"unknown layout \(spectrum\)"):
        open_trajectory(tmp_path / "a.h5")
    h5md(tmp_path / "b.h5", unit="furlong")
    with pytest.raises(ForceDeltaError, match="lengths in furlong"):
        open_trajectory(tmp_path / "b.h5", topology)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["data/positions"] = FRAMES
    assert "no atomic numbers" in read(tmp_path / "c.h5")[0].reason
