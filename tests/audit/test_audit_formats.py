"""One trajectory, in every format: the same frames and the same U."""

from __future__ import annotations

import shutil
import warnings
from contextlib import closing
from pathlib import Path

import ase.io
import numpy as np
import pytest

pytest.importorskip("MDAnalysis", reason="needs MDAnalysis")

import MDAnalysis
from ase import units
from shaken import FRAMES, moving

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit import audit
from forcedelta.errors import ForceDeltaError
from forcedelta.trajectories.opening import open_trajectory
from md_hooks import Trajectory

H5MD_UNITS = {"timeunit": "ps", "lengthunit": "Angstrom", "velocityunit": "Angstrom/ps"}


def universe():
    images = moving()
    made = MDAnalysis.Universe.empty(len(images[0]), trajectory=True, velocities=True)
    made.add_TopologyAttr("elements", images[0].get_chemical_symbols())
    made.add_TopologyAttr("names", images[0].get_chemical_symbols())
    made.add_TopologyAttr("masses", images[0].get_masses())
    return made, images


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """move.<format> for each of them, with a topology move.pdb and topology.xyz."""
    here = tmp_path_factory.mktemp("formats")
    made, images = universe()
    ase.io.write(here / "move.traj", images)
    ase.io.write(here / "move.extxyz", images)
    ase.io.write(here / "move.xyz.gz", images, format="extxyz")
    ase.io.write(here / "plain.xyz", images, format="xyz", fmt="%20.12f")
    ase.io.write(here / "topology.xyz", images[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.atoms.positions = images[0].positions
        made.atoms.write(here / "move.pdb")
        for ending in ("dcd", "xtc", "trr", "h5md"):
            settings = H5MD_UNITS if ending == "h5md" else {}
            with MDAnalysis.Writer(str(here / f"move.{ending}"), len(images[0]), **settings) as out:
                for k, atoms in enumerate(images):
                    frame = made.trajectory.ts
                    frame.frame = k
                    frame.data["step"] = 10 * k
                    frame.time = 0.005 * k  # ps
                    made.atoms.positions = atoms.positions
                    made.atoms.velocities = atoms.get_velocities() * units.fs * 1000
                    out.write(made)
    return here


FORMATS = {
    "move.traj": None, "move.extxyz": None, "move.xyz.gz": None, "plain.xyz": None,
    "move.dcd": "move.pdb", "move.xtc": "move.pdb", "move.trr": "topology.xyz",
    "move.h5md": "move.pdb",
}  # fmt: skip
ROUNDED = {"move.xtc": 2e-2}  # of U; it keeps 0.01 Å


@pytest.fixture(scope="session")
def expected(files) -> list[float]:
    """U frame by frame, as the calculator gives it."""
    calculator = ForceDeltaCalculator(files / "wet.safetensors")
    found = []
    for atoms in moving():
        calculator.calculate(atoms, ["force_delta"])
        found.append(calculator.results["force_delta"])
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same(folder, files, here, expected, name, silent):
    topology = FORMATS[name]
    [result] = audit(
        folder / name, files / "wet.safetensors", "a.h5",
        topology=None if topology is None else str(folder / topology),
    )  # fmt: skip
    assert (result.audited, result.remarks, result.problem) == (FRAMES, {}, "")
    trajectory = Trajectory("a.h5")
    tolerance = ROUNDED.get(name, 1e-5)
    np.testing.assert_allclose(trajectory.series["force_delta"], expected, rtol=tolerance)
    np.testing.assert_array_equal(trajectory.series["source_frame"], range(FRAMES))
    frame = trajectory.frame(5)
    assert frame.numbers.tolist() == moving()[5].numbers.tolist()
    np.testing.assert_allclose(
        frame.positions, moving()[5].positions, atol=0.006 if "xtc" in name else 1e-6
    )
    assert not frame.pbc.any()


@pytest.mark.parametrize("name", ["move.traj", "move.extxyz", "move.trr", "move.h5md"])
def test_velocities_and_temperature(folder, name):
    topology = FORMATS[name]
    with closing(open_trajectory(folder / name, topology and folder / topology)) as source:
        frames = list(source.frames(0, None, 1))
    for stored, atoms in zip(frames, moving(), strict=True):
        np.testing.assert_allclose(
            stored.velocities, atoms.get_velocities() * units.fs, rtol=1e-4, atol=1e-7
        )
        assert stored.temperature == pytest.approx(atoms.get_temperature(), rel=1e-3)


@pytest.mark.parametrize("name", ["plain.xyz", "move.dcd", "move.xtc"])
def test_a_format_without_velocities_has_no_temperature(folder, files, here, name):
    audit(
        folder / name,
        files / "wet.safetensors",
        "a.h5",
        topology=FORMATS[name] and str(folder / FORMATS[name]),
    )
    trajectory = Trajectory("a.h5")
    assert np.isnan(trajectory.series["temperature"]).all()
    assert (trajectory.series["action"] == 0).all()  # an unknown temperature is not a broken one
    assert trajectory.frame(0).velocities is None
    assert trajectory.frame(0).temperature is None
    assert not ase.io.read("a.h5", 0).has("momenta")


@pytest.mark.parametrize(
    ("name", "steps", "times"),
    [
        ("move.xtc", 10, 5.0), ("move.trr", 10, 5.0), ("move.h5md", 10, 5.0), ("move.traj", 1, None),
        ("plain.xyz", 1, None),
    ],
)  # fmt: skip
def test_steps_and_times_in_fs(folder, name, steps, times):
    topology = FORMATS[name]
    with closing(open_trajectory(folder / name, topology and folder / topology)) as source:
        frames = list(source.frames(0, None, 1))
    for k, frame in enumerate(frames):
        assert (k if frame.step is None else frame.step) == steps * k
        if times is None:
            assert frame.time is None
        else:
            assert frame.time == pytest.approx(times * k, abs=1e-3)


@pytest.mark.parametrize("name", ["move.traj", "move.extxyz", "move.dcd"])
def test_some_of_the_frames(folder, name):
    topology = FORMATS[name]
    with closing(open_trajectory(folder / name, topology and folder / topology)) as source:
        assert len(source) == FRAMES
        assert [frame.index for frame in source.frames(3, 17, 5)] == [3, 8, 13]
        assert [frame.index for frame in source.frames(20, None, 2)] == [20, 22]


def test_cells(here):
    silicon = [ase.build.bulk("Si", cubic=True) for _ in range(3)]
    for k, atoms in enumerate(silicon):
        atoms.set_cell(
            atoms.cell.array * (1 + 0.01 * k) + np.array([[0, 0, 0], [0.3, 0, 0], [0, 0.2, 0]]),
            True,
        )
    ase.io.write("si.xyz", silicon)
    ase.io.write("one.cif", silicon[0])
    made = MDAnalysis.Universe.empty(8, trajectory=True)
    with warnings.catch_warnings(), MDAnalysis.Writer("si.xtc", 8) as out:
        warnings.simplefilter("ignore")
        for atoms in silicon:
            made.atoms.positions = atoms.positions
            made.trajectory.ts.dimensions = atoms.cell.cellpar()
            out.write(made)
    for stored, atoms in zip(open_trajectory("si.xyz").frames(0, None, 1), silicon, strict=True):
        np.testing.assert_allclose(stored.atoms.cell, atoms.cell)
        assert stored.atoms.pbc.all()
    for stored, atoms in zip(
        open_trajectory("si.xtc", "one.cif").frames(0, None, 1), silicon, strict=True
    ):
        np.testing.assert_allclose(stored.atoms.cell.cellpar(), atoms.cell.cellpar(), rtol=1e-4)
        assert stored.atoms.pbc.all()
        assert set(stored.atoms.symbols) == {"Si"}


def test_elements_are_not_guessed(folder, here):
    names = (folder / "move.pdb").read_text().splitlines()
    Path("names.pdb").write_text("\n".join(line[:76] for line in names) + "\n")
    with pytest.raises(ForceDeltaError, match="does not name the elements"):
        open_trajectory(folder / "move.dcd", "names.pdb")


def test_hdf5_that_leads_into_other_files_is_not_read(folder, tmp_path):
    """Whoever reads it would show a file of the reader's in a report, with any reader."""
    import h5py

    shutil.copy(folder / "move.h5md", tmp_path / "secret.h5md")
    for name in ("link.h5md", "link.nc", "link.dat"):
        shutil.copy(folder / "move.h5md", tmp_path / name)
        with h5py.File(tmp_path / name, "r+") as file:
            (group,) = file["particles"].values()
            where = f"{group.name}/position"
            del file[where]
            file[where] = h5py.ExternalLink("secret.h5md", where)
        for topology in (folder / "move.pdb", None):
            if topology is None and name != "link.dat":
                continue
            with pytest.raises(ForceDeltaError, match="is a link into another file"):
                open_trajectory(tmp_path / name, topology)


@pytest.mark.parametrize(
    ("path", "topology", "said"),
    [
        ("missing.traj", None, "does not exist"),
        ("move.dcd", None, "--topology"),
        ("move.dcd", "missing.pdb", "missing.pdb does not exist"),
        ("move.dcd", "text.txt", "cannot be read as a topology"),
        ("move.dcd", "water.xyz", "cannot be read with"),
        ("text.txt", None, "cannot be read as a trajectory"),
        ("text.traj", None, "cannot be read as an ASE trajectory"),
        ("text.h5", None, "text.h5"),
    ],
)
def test_files_that_cannot_be_read(folder, here, path, topology, said):
    for name in ("text.txt", "text.traj", "text.h5"):
        Path(name).write_text("a diary, day by day\n")
    ase.io.write("water.xyz", ase.build.molecule("H2O"))
    if path.startswith("move"):
        path = folder / path
    with pytest.raises((ForceDeltaError, Exception), match=said) as caught:
        open_trajectory(path, topology)
    assert "\n" not in str(caught.value)
