"""A reader of another format, as CONTRIBUTING.md describes it."""

from pathlib import Path

import numpy as np
from ase import Atoms
from shaken import moving

from forcedelta.trajectories.base import (
    RandomAccessTrajectory,
    StoredFrame,
    UnreadableFrame,
    from_atoms,
)


class NumpyArrays(RandomAccessTrajectory):
    """Positions [F, N, 3] in Å and atomic numbers [N] in an .npz file."""

    kind = "NumPy arrays, without times and velocities"

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self._positions, self._numbers = arrays["positions"], arrays["numbers"]

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, index: int) -> StoredFrame:
        return from_atoms(index, Atoms(self._numbers, self._positions[index]))


def _written(path: Path, frames: list[Atoms]) -> NumpyArrays:
    positions = [atoms.positions for atoms in frames]
    np.savez(path, positions=positions, numbers=frames[0].numbers)
    return NumpyArrays(path)


def test_every_second_frame(tmp_path: Path) -> None:
    frames = moving()
    source = _written(tmp_path / "move.npz", frames)
    read = list(source.frames(1, None, 2))
    assert [frame.index for frame in read] == list(range(1, len(frames), 2))
    for frame in read:
        np.testing.assert_array_equal(frame.atoms.positions, frames[frame.index].positions)
        assert frame.atoms.get_chemical_formula() == "C2H6O"
        assert (frame.step, frame.time, frame.velocities) == (None, None, None)


def test_the_content_identifies_the_run(tmp_path: Path) -> None:
    one, same = (_written(tmp_path / f"{name}.npz", moving()) for name in ("one", "same"))
    other = _written(tmp_path / "other.npz", moving(seed=1))
    assert one.run_id() == same.run_id() != other.run_id()


class Damaged(NumpyArrays):
    def read(self, index: int) -> StoredFrame:
        if index == 3:
            raise ValueError("unexpected end of block")
        return super().read(index)


def test_a_frame_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    _written(tmp_path / "move.npz", moving())
    read = list(Damaged(tmp_path / "move.npz").frames(0, None, 1))
    assert read[3] == UnreadableFrame(3, "unexpected end of block")
    assert all(isinstance(frame, StoredFrame) for frame in read[:3] + read[4:])
