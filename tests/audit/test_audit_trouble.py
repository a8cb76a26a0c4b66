"""What goes wrong with stored trajectories: said frame by frame, and the audit goes on."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from shaken import FRAMES, moving

from forcedelta.audit import audit
from md_hooks import Trajectory


def kinds(out: str = "audit.h5") -> list[tuple[int, str]]:
    return [(remark.frame, remark.kind) for remark in Trajectory(out).remarks()]


@pytest.fixture
def wet(files):
    return files / "wet.safetensors"


def test_frames_of_other_molecules(forcedelta, wet, here):
    """A data set: each frame may be of another size, and some have elements that nobody knows."""
    gold = Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])
    turned = molecule("CH3OH")[::-1]
    frames = [
        molecule("H2O"),
        molecule("CH3OH"),
        turned,
        gold,
        molecule("CH3CH2OH"),
        molecule("CO"),
    ]
    ase.io.write("set.xyz", frames)
    code, out, _ = forcedelta("audit", "set.xyz", "--model", wet)
    assert code == 0
    assert "5 frames audited" in out
    assert "1 not audited" in out
    assert kinds() == [
        (1, "other atoms"), (2, "other atoms"), (3, "other atoms"), (3, "not audited"),
        (4, "other atoms"), (5, "other atoms"),
    ]  # fmt: skip
    remarks = Trajectory("audit.h5").remarks()
    assert "ordered differently" in remarks[1].text
    assert "CH4O, and H2O in the frame before" in remarks[0].text
    assert "does not support Au" in remarks[3].text
    trajectory = Trajectory("audit.h5")
    assert trajectory.series["step"].tolist() == [0, 1, 2, 4, 5]
    assert trajectory.series["atoms"].tolist() == [3, 6, 6, 9, 2]
    read = ase.io.read("audit.h5", ":")
    for frame, stored, atoms in zip(
        trajectory.frames(), read, [*frames[:3], *frames[4:]], strict=True
    ):
        assert frame.numbers.tolist() == atoms.numbers.tolist()
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(frame.masses, atoms.get_masses())
        u = np.sqrt((frame.force_deltas**2).mean())
        assert u == pytest.approx(frame.force_delta, rel=1e-5)
        assert stored.get_forces().shape == (len(atoms), 3)
        assert np.isfinite(stored.get_forces()).all()


def test_crystals_of_many_sizes(files, here):
    """Cells, and frames that lack one, and a molecule among crystals."""
    cells = [bulk("Si", cubic=True), bulk("Ge"), bulk("Si", cubic=True) * (2, 1, 1), bulk("Ge")]
    for k, atoms in enumerate(cells):
        atoms.rattle(0.05, seed=k)
    cells[3].set_cell(None)
    open_ended = bulk("Si")
    open_ended.pbc = (True, True, False)
    ase.io.write("set.xyz", [*cells, open_ended])
    [result] = audit("set.xyz", files / "solid.safetensors", "audit.h5")
    assert result.audited == 3
    assert result.remarks["not audited"] == 2
    texts = [
        remark.text for remark in Trajectory("audit.h5").remarks() if remark.kind == "not audited"
    ]
    assert "cell vectors" in texts[0]
    assert "not in 2" in texts[1]
    for frame, atoms in zip(Trajectory("audit.h5").frames(), cells, strict=False):
        np.testing.assert_allclose(frame.cell, atoms.cell.array, atol=1e-7)
        assert frame.pbc.all()
        assert frame.stress is not None


def test_positions_that_are_not_finite_are_unphysical(forcedelta, wet, here):
    frames = moving()
    frames[20].positions[3, 1] = np.nan
    frames[21].positions[:] = 1e9
    ase.io.write("move.traj", frames)
    code, out, _ = forcedelta("audit", "move.traj", "--model", wet, "--json")
    assert code == 3
    [facts] = json.loads(out)["audits"]
    assert facts["stops"] == 2
    assert facts["first_stop"] == 20
    assert facts["audited"] == FRAMES
    assert kinds() == [(20, "not finite"), (21, "not finite")]
    u = Trajectory("audit.h5").series["force_delta"]
    assert np.flatnonzero(np.isnan(u)).tolist() == [20, 21]


def test_steps_that_jump_or_go_back(wet, here):
    frames = moving()
    steps = [0, 10, 20, 30, 70, 80, 90, 100, 50, 60, 70, 70, *range(80, 80 + 12 * 50, 50)]
    for atoms, step in zip(frames, steps, strict=True):
        atoms.info.update(step=step, time=0.5 * step)
    ase.io.write("move.extxyz", frames)
    [result] = audit("move.extxyz", wet, "audit.h5")
    assert result.audited == FRAMES
    assert kinds() == [(4, "gap"), (8, "step back"), (11, "step back"), (13, "gap")]
    assert "40 steps lie between" in Trajectory("audit.h5").remarks()[0].text
    found = Trajectory("audit.h5").series
    assert (np.diff(found["step"]) > 0).all()
    assert found["step"][:9].tolist() == [*steps[:8], 110]
    assert found["time"].tolist() == [0.5 * step for step in steps]
    assert found["source_frame"].tolist() == list(range(FRAMES))


def test_a_file_that_is_cut_off(forcedelta, wet, here):
    ase.io.write("whole.extxyz", moving())
    text = Path("whole.extxyz").read_text()
    Path("cut.extxyz").write_text(text[: int(0.7 * len(text))])
    code, out, _ = forcedelta("audit", "cut.extxyz", "--model", wet)
    assert code == 0
    assert "16 frames audited" in out
    assert "it ends at frame 16, which cannot be read: the file ends in the middle" in out
    assert kinds() == [(16, "end")]
    # the last number of a file that ends within it still is a number
    Path("digit.extxyz").write_text(text[:-4])
    [result] = audit("digit.extxyz", wet, "digit.h5")
    assert result.audited == FRAMES - 1
    assert "last line" in result.ending
    Path("noend.extxyz").write_text(text[:-1])
    [result] = audit("noend.extxyz", wet, "noend.h5")
    assert (result.audited, result.ending) == (FRAMES, "")


def test_a_frame_in_the_middle_that_cannot_be_read(wet, here):
    ase.io.write("move.extxyz", moving(6))
    lines = Path("move.extxyz").read_text().splitlines()
    lines[2 * 11 + 5] = "C much further away"
    Path("move.extxyz").write_text("\n".join(lines) + "\n")
    [result] = audit("move.extxyz", wet, "audit.h5")
    assert result.audited == 5
    assert (2, "unreadable") in kinds()
    lines[4 * 11] = "not a number"
    Path("move.extxyz").write_text("\n".join(lines) + "\n")
    [result] = audit("move.extxyz", wet, "b.h5")
    assert result.audited == 3
    assert "expected the number of atoms, found 'not a number'" in result.ending


def test_an_ase_trajectory_that_is_cut_off(wet, here):
    ase.io.write("whole.traj", moving(60))
    data = Path("whole.traj").read_bytes()
    Path("cut.traj").write_bytes(data[: len(data) * 2 // 3])
    [result] = audit("cut.traj", wet, "audit.h5")
    assert 30 < result.audited < 50
    assert result.ending.startswith(f"it ends at frame {result.audited}")


def test_binary_files_that_are_cut_off(wet, here):
    MDAnalysis = pytest.importorskip("MDAnalysis")

    ase.io.write("topology.xyz", moving(1))
    made = MDAnalysis.Universe.empty(9, trajectory=True)
    for ending in ("dcd", "xtc", "trr"):
        with MDAnalysis.Writer(f"move.{ending}", 9) as out:
            for atoms in moving():
                made.atoms.positions = atoms.positions
                out.write(made)
        data = Path(f"move.{ending}").read_bytes()
        Path(f"cut.{ending}").write_bytes(data[: int(0.8 * len(data))])
        [result] = audit(f"cut.{ending}", wet, f"{ending}.h5", topology="topology.xyz")
        assert 15 < result.audited < 22, ending


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gold.xyz"], "none of its frames could be audited (model 'wet' does not support Au"),
        (["empty.xyz"], "empty.xyz"),
        (["missing.xyz"], "missing.xyz does not exist"),
        (["move.xyz", "--start", "9", "--stop", "9"], "leave no frame"),
        (["move.xyz", "--start", "99"], "frames (counted from 0) and none from --start 99"),
        (["move.xyz", "--out", "nowhere/a.h5"], "make the folder nowhere first"),
        (["move.xyz", "--out", "."], "choose a file"),
        (["move.xyz", "--out", "move.xyz", "--overwrite"], "the trajectory itself"),
        (["move.xyz", "--report", "nowhere/a.html"], "make the folder nowhere first"),
        (["move.xyz", "--report", "/proc/a.html"], "/proc/a.html cannot be written"),
        (["move.xyz", "--report", "/dev/null"], "not a regular file"),
        (["/dev/zero"], "/dev/zero is a device"),
        (["."], "is a folder"),
        (["move.xyz", "--flag-above", "2", "--stop-above", "1"], "must lie below"),
        (["move.xyz", "--stop-above", "much"], "much"),
        (["move.xyz", "--restart", "--overwrite"], "give one"),
        (["move.xyz", "move.xyz", "--out", "folder"], "would both become"),
        (["move.xyz", "--every", "0"], "--every"),
        ([], "no trajectory"),
    ],
)
def test_bad_input(forcedelta, files, here, arguments, said):
    ase.io.write("gold.xyz", Atoms("Au"))
    Path("empty.xyz").write_text("")
    Path("move.xyz").write_bytes((files / "move.xyz").read_bytes())
    before = Path("move.xyz").read_bytes()
    code, _, err = forcedelta("audit", *arguments, "--model", files / "wet.safetensors")
    assert code == 2
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert Path("move.xyz").read_bytes() == before
    assert Path("audit.h5").exists() == (arguments == ["gold.xyz"])  # what was wrong is told in it


def test_what_exists_is_not_replaced_by_what_fails(forcedelta, files, here):
    Path("audit.h5").write_bytes(b"precious")
    for arguments in (["missing.xyz", "--overwrite"], [files / "move.xyz"]):
        assert forcedelta("audit", *arguments, "--model", files / "wet.safetensors")[0] == 2
    code, _, err = forcedelta(
        "audit", files / "move.xyz", "--model", "no-such-model", "--overwrite"
    )
    assert code == 2
    assert "no model is called" in err
    assert Path("audit.h5").read_bytes() == b"precious"
