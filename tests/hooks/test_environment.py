"""The other particles of a System: through the recorded file, extended XYZ and the readers of others."""

from __future__ import annotations

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from helpers import DONE, frame, record

from md_hooks import (
    Environment,
    FlagStore,
    Guard,
    HookChain,
    HookError,
    Recorder,
    RunInfo,
    Trajectory,
)
from md_hooks.environment import Surroundings
from md_hooks.recalculation import Label, candidate, key_of, labelled

FIELDS = ("numbers", "positions", "charges", "molecules", "cell")


def around(count: int = 7, seed: int = 0, cell: bool = True) -> Environment:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 9, count)
    return Environment(
        numbers,
        rng.normal(size=(count, 3)) * 1e3,
        rng.normal(size=count),
        np.sort(rng.integers(0, 4, count)),
        np.diag([20.0, 21.0, 22.0]) + np.eye(3, k=-1) if cell else np.zeros((3, 3)),
    )


def part(step: int, environment: Environment | None, **changes):
    total = 4 + (7 if environment is None else len(environment))
    positions = np.random.default_rng(step).normal(size=(4, 3))
    return frame(
        step, positions=positions, system_particles=total, environment=environment, **changes
    )


def same(one: Environment | None, other: Environment | None) -> None:
    assert one is not None
    assert other is not None
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("count", [1, 3, 9, 400])
def test_through_the_recorded_file(count, tmp_path):
    made = [part(step, around(count, step)) for step in range(5)]
    record(tmp_path / "r.h5", made)
    trajectory = Trajectory(tmp_path / "r.h5")
    for one, read in zip(made, trajectory.frames(), strict=True):
        same(one.environment, read.environment)
        assert read.system_particles == 4 + count
        np.testing.assert_array_equal(read.positions, one.positions)


def test_frames_of_a_whole_system_have_none(tmp_path):
    record(tmp_path / "r.h5", [frame(0), frame(1)])
    read = Trajectory(tmp_path / "r.h5").frame(-1)
    assert (read.system_particles, read.environment) == (None, None)
    with h5py.File(tmp_path / "r.h5") as file:
        assert "environment" not in file


def test_a_part_without_environment_is_still_a_part(tmp_path):
    record(tmp_path / "r.h5", [part(0, None)])
    read = Trajectory(tmp_path / "r.h5").frame(0)
    assert (read.system_particles, read.environment) == (11, None)
    assert ase.io.read(tmp_path / "r.h5").info["system_particles"] == 11


def test_a_run_that_continues_with_an_environment(tmp_path):
    path = tmp_path / "r.h5"
    record(path, [part(step, None) for step in range(3)])
    later = [part(step, around(7, step)) for step in range(3, 6)]
    record(path, later, mode="append")
    found = [one.environment for one in Trajectory(path).frames()]
    assert found[:3] == [None] * 3
    for one, other in zip(later, found[3:], strict=True):
        same(one.environment, other)


def test_cut_back_to_a_restart(tmp_path):
    path = tmp_path / "r.h5"
    record(path, [part(step, around(7, step)) for step in range(6)])
    again = [part(step, around(7, 10 + step)) for step in range(3, 5)]
    chain = HookChain([Recorder(path, every=1, mode="append")])
    chain.open(RunInfo(restart_step=2))
    for one in again:
        chain.dispatch(one)
    chain.close(DONE)
    found = list(Trajectory(path).frames())
    assert [one.step for one in found] == [0, 1, 2, 3, 4]
    same(found[2].environment, around(7, 2))
    same(found[4].environment, around(7, 14))


def test_a_larger_system_does_not_continue_the_file(tmp_path):
    path = tmp_path / "r.h5"
    record(path, [part(0, around(3))])
    with pytest.raises(HookError, match="environments of 3 particles, but this run has 8"):
        record(path, [part(1, around(8))], mode="append")
    same(Trajectory(path).frame(0).environment, around(3))


def test_a_replay_of_parts_of_different_systems(tmp_path):
    made = [part(0, around(3)), part(1, None), part(2, around(12, 5)), frame(3)]
    chain = HookChain([Recorder(tmp_path / "a.h5", every=1, replay=True)])
    chain.open(RunInfo())
    for one in made:
        chain.dispatch(one)
    chain.close(DONE)
    found = list(Trajectory(tmp_path / "a.h5").frames())
    same(found[0].environment, made[0].environment)
    same(found[2].environment, made[2].environment)
    assert [one.environment for one in (found[1], found[3])] == [None, None]
    assert [one.system_particles for one in found] == [7, 11, 16, None]


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "r.h5"
    record(path, [part(step, around(7, step)) for step in range(4)])
    with h5py.File(path, "r+") as file:
        file["environment/charge/value"][2, 3] += 1e-3
    with pytest.raises(HookError, match="do not fit their checksums"):
        list(Trajectory(path).frames())


@pytest.mark.parametrize("name", ["species", "position", "charge", "molecule", "cell"])
def test_a_missing_array_is_noticed(name, tmp_path):
    path = tmp_path / "r.h5"
    record(path, [part(0, around())])
    with h5py.File(path, "r+") as file:
        del file[f"environment/{name}"]
    with pytest.raises(HookError, match="environment"):
        Trajectory(path)


def test_readers_of_others_see_the_atoms_alone(tmp_path):
    mdanalysis = pytest.importorskip("MDAnalysis.coordinates.H5MD", reason="needs MDAnalysis")
    path = tmp_path / "r.h5"
    made = [
        part(step, around(7, step), cell=np.eye(3) * 20, pbc=np.ones(3, bool)) for step in range(3)
    ]
    record(path, made)
    with mdanalysis.H5MDReader(str(path)) as reader:
        assert (reader.n_frames, reader.n_atoms) == (3, 4)
        np.testing.assert_allclose(reader[2].positions, made[2].positions, rtol=1e-6)
    atoms = ase.io.read(path, 2)
    np.testing.assert_array_equal(atoms.positions, made[2].positions)
    same(Environment.of(atoms), made[2].environment)


@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_through_flagged_frames_and_labelled_ones(count, tmp_path):
    """Arrays of 3, 6 and 9 numbers have other meanings for ASE's reader."""
    given = around(count)
    chain = HookChain([Guard(flag_above=0.01), FlagStore(tmp_path / "flagged.xyz")])
    chain.open(RunInfo())
    chain.dispatch(part(1, given))
    chain.close(DONE)
    flagged = ase.io.read(tmp_path / "flagged.xyz")
    same(Environment.of(flagged), given)
    assert flagged.info["system_particles"] == 4 + count
    for charges, words in ((count, f"field of {count} point"), (0, f"without the {count} other")):
        label = Label(-1.0, np.zeros((4, 3)), None, 0.0, None, charges)
        result = labelled(flagged, label, "some code")
        same(Environment.of(result), given)
        assert words in result.info["labelled_in"]


def test_labels_in_different_environments_are_different_labels():
    alone, near, far = (
        candidate(part(0, environment)) for environment in (None, around(7, 1), around(7, 2))
    )
    assert len({key_of(atoms) for atoms in (alone, near, far)}) == 3, "the atoms are the same"
    assert key_of(candidate(part(0, around(7, 1)))) == key_of(near)


def test_fields_of_other_programs_are_no_environment():
    for field in (
        "in vivo",
        3.0,
        np.zeros(6),
        np.full((2, 6), np.nan),
        np.ones((4, 5)),
        [["a"] * 6],
    ):
        atoms = Atoms("H", info={"environment": field, "system_particles": "many"})
        assert Surroundings.usable(atoms).others is None
        with pytest.raises(HookError, match="remove that field"):
            Environment.of(atoms)
