"""Options that tell what a file does not."""

from __future__ import annotations

from contextlib import closing

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from forcedelta.errors import ForceDeltaError
from forcedelta.reading_options import ReadingOptions
from forcedelta.trajectories.base import UnreadableFrame
from forcedelta.trajectories.opening import open_trajectory


@pytest.fixture
def path(tmp_path):
    images = [molecule("CH3CH2OH", vacuum=5, pbc=True) for _ in range(3)]
    for k, atoms in enumerate(images):
        atoms.set_momenta(np.full((9, 3), 0.1 * (k + 1)))
    ase.io.write(tmp_path / "a.xyz", images, format="extxyz")
    return tmp_path / "a.xyz"


def read(path, topology=None, **options):
    with closing(open_trajectory(path, topology, ReadingOptions(**options))) as source:
        return list(source.frames(0, None, 1))


@pytest.mark.parametrize(
    ("select", "chosen"),
    [
        ("0:3", [0, 1, 2]), ("2, 0", [0, 2]), ("8", [8]), ("0:9:2", [0, 2, 4, 6, 8]),
        ("element C O", [0, 1, 2]), ("not element H", [0, 1, 2]), ("index 0:1", [0, 1]),
    ],
)  # fmt: skip
def test_selected_atoms(path, select, chosen):
    if not select[0].isdigit():
        pytest.importorskip("MDAnalysis")
    whole = read(path)
    for frame, before in zip(read(path, select=select), whole, strict=True):
        np.testing.assert_array_equal(frame.atoms.numbers, before.atoms.numbers[chosen])
        np.testing.assert_array_equal(frame.atoms.positions, before.atoms.positions[chosen])
        np.testing.assert_array_equal(frame.velocities, before.velocities[chosen])
        assert frame.temperature == pytest.approx(frame.atoms.get_temperature())


def test_names_of_a_topology(tmp_path):
    pytest.importorskip("MDAnalysis")
    rows = (("O", "OW"), ("H", "HW1"), ("H", "HW2"))
    records = [
        f"ATOM  {k + 1:5d}  {name:<3} SOL A   1    {k:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00          {symbol:>2}\n"
        for k, (symbol, name) in enumerate(rows)
    ]
    (tmp_path / "top.pdb").write_text("".join(records) + "END\n")
    text = "water\n    3\n" + "".join(
        f"    1SOL  {name:>5}{k + 1:>5}{k / 10:8.3f}{0:8.3f}{0:8.3f}\n"
        for k, (_, name) in enumerate(rows)
    )
    (tmp_path / "a.gro").write_text(text + "   3.0   3.0   3.0\n")
    [frame] = read(tmp_path / "a.gro", tmp_path / "top.pdb", select="name HW1 HW2 and resname SOL")
    assert frame.atoms.get_chemical_symbols() == ["H", "H"]


@pytest.mark.parametrize(
    ("select", "said"),
    [("12", "names atom 12, and there are 9"), ("0:2:0", "give indices"), ("element Au", "none of the 9")],
)  # fmt: skip
def test_selections_that_fail(path, select, said):
    if not select[0].isdigit():
        pytest.importorskip("MDAnalysis")
    with pytest.raises(ForceDeltaError, match=said):
        read(path, select=select)


def test_frames_with_other_atoms_are_not_selected_blindly(path):
    ase.io.write(path, [molecule("H2O"), molecule("CH4")], format="extxyz")
    first, second = read(path, select="0")
    assert first.atoms.get_chemical_symbols() == ["O"]
    assert isinstance(second, UnreadableFrame)


def test_without_periodicity(path):
    for frame, before in zip(read(path, no_pbc=True), read(path), strict=True):
        assert not frame.atoms.pbc.any()
        assert not frame.atoms.cell.array.any()
        np.testing.assert_array_equal(frame.atoms.positions, before.atoms.positions)
        assert before.atoms.pbc.all()


def test_time_of_a_step(path):
    assert [frame.time for frame in read(path, timestep=2.5)] == [0.0, 2.5, 5.0]


def test_a_format_by_name(path):
    other = path.rename(path.with_name("frames.out"))
    assert len(read(other, file_format="extxyz")) == 3
    with pytest.raises(ForceDeltaError, match="no format of ASE"):
        read(other, file_format="nonsense")


def test_random_displacements(path):
    before = read(path)
    frames, again = read(path, rattle=0.02), read(path, rattle=0.02)
    for one, other, ideal in zip(frames, again, before, strict=True):
        np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)
        moves = one.atoms.positions - ideal.atoms.positions
        assert 0.01 < moves.std() < 0.04
    assert not np.allclose(frames[0].atoms.positions, frames[1].atoms.positions)
