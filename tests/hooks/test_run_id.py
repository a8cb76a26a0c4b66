"""The id of a run: one per run, whatever its file is called and wherever its frames go."""

import json
import shutil

import ase.io
import h5py
import numpy as np
import pytest

from md_hooks import Action, FlagStore, Frame, HookChain, Recorder, RunInfo, RunResult, Trajectory
from md_hooks.h5md.layout import CHECKSUM, CHECKSUMS, RUNS, SERIES_CHECKSUM
from md_hooks.run_id import id_of_content, is_run_id, new_run_id

DONE = RunResult("finished", 0, 0.0)


def frame(step=0, u=0.5):
    rng = np.random.default_rng(step)
    return Frame(
        step=step, time=0.5 * step, numbers=np.array([6, 1, 8]), positions=rng.normal(size=(3, 3)),
        velocities=rng.normal(size=(3, 3)), masses=np.ones(3), cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool), energy=-1.0, forces=np.zeros((3, 3)), temperature=300.0,
        force_delta=u,
    )  # fmt: skip


def recorded(path, steps, mode="create", info=None, *others, u=0.5):
    chain = HookChain([*others, Recorder(path, every=1, mode=mode)])
    chain.open(info or RunInfo())
    for step in steps:
        chain.dispatch(frame(step=step, u=u))
    chain.close(DONE)
    return Trajectory(path).run_id


def test_each_run_has_an_id_of_its_own_and_a_restart_keeps_it(tmp_path):
    path = tmp_path / "run.h5"
    first = recorded(path, range(4))
    assert is_run_id(first)
    assert recorded(path, [4, 5], "append") == first
    assert recorded(path, [3], "append", RunInfo(restart_step=2)) == first
    assert [run["info"]["run_id"] for run in Trajectory(path).runs] == [first] * 3
    (tmp_path / "elsewhere").mkdir()
    assert recorded(tmp_path / "elsewhere" / "run.h5", range(4)) != first
    assert recorded(path, range(4), "overwrite") != first


def test_a_file_keeps_its_id_when_it_is_continued_with_another(tmp_path):
    path = tmp_path / "run.h5"
    first = recorded(path, [0], info=RunInfo(run_id=new_run_id()))
    assert recorded(path, [1], "append", RunInfo(run_id=new_run_id())) == first


def test_a_file_without_an_id_gets_one_from_its_content(tmp_path):
    def forget(path):
        with h5py.File(path, "r+") as file:
            for name in (CHECKSUMS, CHECKSUM, SERIES_CHECKSUM):  # older than these, too
                del file[name]
            for run in file[RUNS].values():
                facts = json.loads(run.attrs["info"])
                del facts["run_id"]
                run.attrs["info"] = json.dumps(facts)
        return Trajectory(path).run_id

    old, other = tmp_path / "run.h5", tmp_path / "other.h5"
    drawn = recorded(old, range(3))
    recorded(other, range(5, 8))
    derived = forget(old)
    assert is_run_id(derived)
    assert derived != drawn
    assert forget(other) != derived
    shutil.copy(old, tmp_path / "copy.h5")
    assert Trajectory(tmp_path / "copy.h5").run_id == derived
    assert recorded(old, range(3, 9), "append") == derived


def test_frames_carry_the_id_of_their_run(tmp_path):
    path, store = tmp_path / "run.h5", tmp_path / "flags.xyz"
    flag = lambda frame: Action.FLAG  # noqa: E731
    first = recorded(path, range(3), "create", None, FlagStore(store), flag)
    assert {atoms.info["run_id"] for atoms in ase.io.read(path, ":")} == {first}
    second = recorded(tmp_path / "b.h5", range(2), "create", None, FlagStore(store), flag)
    found = [atoms.info["run_id"] for atoms in ase.io.read(store, ":")]
    assert found == [first] * 3 + [second] * 2


def test_hooks_of_a_run_without_a_file_get_an_id_too(tmp_path):
    store = tmp_path / "flags.xyz"
    for _ in range(2):
        chain = HookChain([lambda frame: Action.FLAG, FlagStore(store)])
        chain.open(RunInfo())
        chain.dispatch(frame())
        chain.close(DONE)
    ids = [atoms.info["run_id"] for atoms in ase.io.read(store, ":")]
    assert all(map(is_run_id, ids))
    assert len(set(ids)) == 2


@pytest.mark.parametrize("digits", ["4" * 32, "12e4" + "5" * 28])
def test_an_id_is_never_read_back_as_a_number(digits, monkeypatch):
    class Drawn:
        hex = digits

    monkeypatch.setattr("uuid.uuid4", Drawn)
    found = new_run_id()
    assert is_run_id(found)
    with pytest.raises(ValueError, match="could not convert"):
        float(found)


def test_ids_of_content():
    assert id_of_content([b"ab", b"c"]) != id_of_content([b"a", b"bc"])
    assert id_of_content([b"ab"]) == id_of_content([b"ab"])
    assert not is_run_id(5)
    assert not is_run_id("run.h5")
