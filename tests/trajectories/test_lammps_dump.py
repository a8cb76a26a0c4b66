"""LAMMPS dumps: elements, units, steps and ends are those of the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import molecule

from forcedelta.errors import ForceDeltaError
from forcedelta.reading_options import ReadingOptions
from forcedelta.structures import read_structure
from forcedelta.trajectories.base import StoredFrame, UnreadableFrame
from forcedelta.trajectories.opening import open_trajectory

WATER = molecule("H2O")
WATER.positions += 5.0
SPEED = np.array([[1e-3, 2e-3, 0.0], [0.0, -3e-3, 1e-3], [2e-3, 0.0, -1e-3]])  # Å/fs


def dump(steps=(0,), head="", columns="id type x y z", rows=None, box="20") -> str:
    text = head
    for step in steps:
        text += f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n3\n"
        text += "ITEM: BOX BOUNDS pp pp pp\n" + f"0 {box}\n" * 3
        text += f"ITEM: ATOMS {columns}\n"
        given = rows or [
            f"{k + 1} {1 if k == 0 else 2} " + " ".join(f"{x:.6f}" for x in WATER.positions[k])
            for k in range(3)
        ]
        text += "\n".join(given) + "\n"
    return text


def moving(scale: float, velocity: float) -> list[str]:
    """Rows with lengths and velocities in other units, in reverse order."""
    return [
        f"{k + 1} {WATER.symbols[k]} "
        + " ".join(f"{x:.10g}" for x in (*WATER.positions[k] / scale, *SPEED[k] / velocity))
        for k in reversed(range(3))
    ]


def frames(path: Path, topology: Path | None = None, **options):
    return list(open_trajectory(path, topology, ReadingOptions(**options)).frames(0, None, 1))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "water.lammpstrj"


def test_types_are_no_elements(path):
    path.write_text(dump((0, 10)))
    for frame in frames(path):
        assert isinstance(frame, UnreadableFrame)
        assert "--type-map" in frame.reason
        assert "--topology" in frame.reason
    with pytest.raises(ForceDeltaError, match="types of LAMMPS and no elements"):
        read_structure(str(path))


def test_a_map_of_types(path):
    path.write_text(dump((0, 10)))
    for frame in frames(path, type_map="1=O, 2=H"):
        assert frame.atoms.get_chemical_symbols() == ["O", "H", "H"]
        np.testing.assert_allclose(frame.atoms.positions, WATER.positions, atol=1e-6)
    [frame, _] = frames(path, type_map="1=O")
    assert "type 2 have no element: add 2=ELEMENT" in frame.reason
    for wrong in ("1=Q", "O", "1=O,1=H", "O=1"):
        with pytest.raises(ForceDeltaError, match="--type-map"):
            frames(path, type_map=wrong)


def test_elements_of_a_topology(path):
    path.write_text(dump((0, 10)))
    ase.io.write(path.with_name("top.xyz"), WATER)
    for frame in frames(path, path.with_name("top.xyz")):
        assert frame.atoms.get_chemical_symbols() == ["O", "H", "H"]
    ase.io.write(path.with_name("other.xyz"), molecule("CH4"))
    assert (
        "it has 3 atoms and the topology 5" in frames(path, path.with_name("other.xyz"))[0].reason
    )


def test_masses_name_elements_unless_repartitioned(path):
    rows = [f"{k + 1} {m} 5 5 {5 + k}" for k, m in enumerate((15.9994, 1.008, 1.008))]
    path.write_text(dump(columns="id mass x y z", rows=rows))
    assert frames(path)[0].atoms.get_chemical_symbols() == ["O", "H", "H"]
    path.write_text(
        dump(columns="id mass x y z", rows=[row.replace("1.008", "3.02") for row in rows])
    )
    assert "no elements" in frames(path)[0].reason


@pytest.mark.parametrize(
    ("name", "length", "time"),
    [
        ("real", 1.0, 1.0), ("metal", 1.0, 1e3), ("si", 1e10, 1e15), ("cgs", 1e8, 1e15),
        ("electron", units.Bohr, 1.03275),
    ],
)  # fmt: skip
def test_units_of_the_header(path, name, length, time):
    head = f"ITEM: UNITS\n{name}\nITEM: TIME\n7.5\n"
    rows = moving(length, length / time)
    path.write_text(
        dump((166,), head, "id element x y z vx vy vz", rows, box=f"{20 / length:.10g}")
    )
    [frame] = frames(path)
    np.testing.assert_allclose(frame.atoms.positions, WATER.positions, rtol=1e-5)
    np.testing.assert_allclose(frame.atoms.cell.lengths(), 20.0, rtol=1e-5)
    np.testing.assert_allclose(frame.velocities, SPEED, rtol=1e-4, atol=1e-9)
    kinetic = 0.5 * (WATER.get_masses()[:, None] * (SPEED / units.fs) ** 2).sum()
    assert frame.temperature == pytest.approx(2 * kinetic / (9 * units.kB), rel=1e-4)
    assert (frame.step, frame.notes) == (166, ())
    assert frame.time == pytest.approx(7.5 * {"electron": 1.0}.get(name, time))


def test_unknown_units_leave_the_velocities_out(path):
    path.write_text(dump((0,), "", "id element x y z vx vy vz", moving(1, 1)))
    [frame] = frames(path)
    assert frame.velocities is None
    assert frame.temperature is None
    assert frame.time is None
    assert "does not name its units" in frame.notes[0]
    path.write_text("ITEM: UNITS\nlj\n" + dump())
    assert "no length in Å" in frames(path, type_map="1=O,2=H")[0].reason


def test_steps_are_those_of_the_file(path):
    path.write_text(dump((0, 166, 1000, 2000)))
    assert [frame.step for frame in frames(path, type_map="1=O,2=H")] == [0, 166, 1000, 2000]


def test_a_file_that_is_cut_off(path):
    whole = dump((0, 1, 2))
    for cut in range(len(dump((0, 1))) + 2, len(whole) - 2, 7):
        path.write_text(whole[:cut])
        *read, last = frames(path, type_map="1=O,2=H")
        assert [frame.step for frame in read] == [0, 1]
        assert isinstance(last, UnreadableFrame)
        assert last.last
    packed = gzip.compress(whole.encode() * 400)
    path = path.with_suffix(".lammpstrj.gz")
    path.write_bytes(packed[: len(packed) * 2 // 3])
    *read, last = frames(path, type_map="1=O,2=H")
    assert read
    assert all(isinstance(frame, StoredFrame) for frame in read)
    assert "cut off" in last.reason


def test_a_scaled_triclinic_box(path):
    cell = np.array([[8.0, 0, 0], [2.0, 9.0, 0], [-1.0, 1.5, 7.0]])
    scaled = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [0.9, 0.1, 0.7]])
    rows = [f"{k + 1} Si " + " ".join(map(str, place)) for k, place in enumerate(scaled)]
    text = dump(columns="id element xs ys zs", rows=rows)
    box = "ITEM: BOX BOUNDS xy xz yz pp pp pp\n-1 10 2\n0 10.5 -1\n0 7 1.5\n"
    path.write_text(text.replace("ITEM: BOX BOUNDS pp pp pp\n0 20\n0 20\n0 20\n", box))
    [frame] = frames(path)
    np.testing.assert_allclose(frame.atoms.cell.array, cell)
    np.testing.assert_allclose(frame.atoms.get_scaled_positions(), scaled)
