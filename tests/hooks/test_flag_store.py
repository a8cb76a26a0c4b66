"""Flag stores: whose frames are in them, what is no store, and what survives."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

pytest.importorskip("hypothesis", reason="needs hypothesis")

from hypothesis import example, given, settings
from hypothesis import strategies as st

from md_hooks import Action, FlagStore, Frame, HookChain, HookError, Recorder, RunInfo, RunResult
from md_hooks.extxyz import frame_text

DONE = RunResult("finished", 0, 0.0)
TESTS = Path(__file__).parents[1]


def frame(step=0, n=3):
    rng = np.random.default_rng(step)
    return Frame(
        step=step, time=0.5 * step, numbers=np.array([6, 1, 8] * (n // 3)),
        positions=rng.normal(size=(n, 3)), velocities=rng.normal(size=(n, 3)), masses=np.ones(n),
        cell=np.eye(3), pbc=np.ones(3, bool), energy=-1.0, forces=np.zeros((n, 3)),
        temperature=300.0, force_delta=0.5,
    )  # fmt: skip


def run(out, store, steps, mode="create", **info):
    """A recorded run all of whose frames are flagged."""
    hooks = [lambda frame: Action.FLAG, FlagStore(store), Recorder(out, every=1, mode=mode)]
    chain = HookChain(hooks)
    chain.open(RunInfo(**info))
    for step in steps:
        chain.dispatch(frame(step=step))
    chain.close(DONE)


def steps_in(path):
    return [int(atoms.info["step"]) for atoms in ase.io.read(path, ":")]


# --- whose frames --------------------------------------------------------------------------------


def test_runs_of_one_name_keep_their_frames(tmp_path, monkeypatch):
    """Two runs write run.h5 in folders of their own, and one of them continues."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        run("run.h5", "../flags.xyz", range(4))
    run("run.h5", "../flags.xyz", [2, 3, 4], "append", restart_step=1)
    assert steps_in(tmp_path / "flags.xyz") == [0, 1, 2, 3, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("spelling", ["absolute", "dots", "link", "moved", "copied"])
def test_a_restart_by_another_name_repeats_nothing(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    run("run.h5", "flags.xyz", range(4))
    name = {
        "absolute": str(tmp_path / "run.h5"),
        "dots": f"../{tmp_path.name}/./run.h5",
        "link": "link.h5",
        "moved": "other.h5",
        "copied": "copy.h5",
    }[spelling]
    if spelling == "link":
        os.symlink("run.h5", name)
    elif spelling == "moved":
        os.rename("run.h5", name)
    elif spelling == "copied":
        Path(name).write_bytes(Path("run.h5").read_bytes())
    run(name, "flags.xyz", [2, 3, 4], "append", restart_step=1)
    assert steps_in("flags.xyz") == [0, 1, 2, 3, 4]


def test_a_replay_that_begins_anew_replaces_its_own_flags_only(tmp_path):
    store, anew = tmp_path / "flags.xyz", {"run_id": "a" * 32, "planned_frames": 4}
    run(tmp_path / "run.h5", store, [7], run_id="a" * 32)  # the run that is audited
    run(tmp_path / "other.h5", store, [8], **anew)  # another audit of it
    run(tmp_path / "audit.h5", store, range(3), **anew)
    run(tmp_path / "audit.h5", store, range(4), "overwrite", **anew)
    assert steps_in(store) == [7, 8, 0, 1, 2, 3]
    run(tmp_path / "audit.h5", store, [2, 3], "append", restart_step=1, **anew)
    assert steps_in(store) == [7, 8, 0, 1, 2, 3]
    before = store.read_bytes()
    chain = HookChain([FlagStore(store), Recorder(tmp_path / "audit.h5", mode="overwrite")])
    chain.open(RunInfo(**anew))  # and fails before its first frame
    chain.close(RunResult("error", -1, 0.0))
    assert store.read_bytes() == before


def test_stores_of_runs_without_ids_still_go_by_name(tmp_path):
    store = tmp_path / "flags.xyz"
    run("old.h5", store, range(4))
    text = store.read_text()
    start = text.index(" run_id=")
    Path("old.h5").unlink()
    store.write_text(text.replace(text[start : start + len(" run_id=") + 32], ""))
    chain = HookChain([lambda frame: Action.FLAG, FlagStore(store)])
    chain.open(RunInfo(run_file="old.h5", run_id="b" * 32, restart_step=1))
    chain.dispatch(frame(step=2))
    chain.close(DONE)
    assert steps_in(store) == [0, 1, 2]


def _append(store, first):
    chain = HookChain([lambda frame: Action.FLAG, FlagStore(store)])
    chain.open(RunInfo())
    for step in range(first, first + 40):
        chain.dispatch(frame(step=step, n=300))
    return first


@pytest.mark.slow
def test_runs_that_share_a_store_at_the_same_time(tmp_path):
    """While two append, a third drops frames of its own, which replaces the file underneath them."""
    store = tmp_path / "flags.xyz"
    run(tmp_path / "run.h5", store, range(3000, 3010))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        jobs = [executor.submit(_append, str(store), first) for first in (0, 1000)]
        while not all(job.done() for job in jobs):
            run(tmp_path / "run.h5", store, [3009], "append", restart_step=3008)
        assert [job.result() for job in jobs] == [0, 1000]
    assert sorted(steps_in(store)) == [*range(40), *range(1000, 1040), *range(3000, 3010)]


def _begin(out, store, mode):
    """A run that is killed before its file holds a frame; it has flagged frames by then."""
    chain = HookChain([lambda frame: Action.FLAG, FlagStore(store), Recorder(out, mode=mode)])
    chain.open(RunInfo())
    for step in range(3):
        chain.dispatch(frame(step=step))
    os._exit(0)


@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_a_run_that_is_begun_anew_after_a_kill_repeats_nothing(tmp_path, mode):
    """Killed in its first second, and again; the frames of other runs stay."""
    out, store = tmp_path / "run.h5", tmp_path / "flags.xyz"
    run(out if mode == "overwrite" else tmp_path / "other.h5", store, range(5))
    for begun in (mode, "overwrite"):
        process = multiprocessing.get_context("fork").Process(
            target=_begin, args=(out, store, begun)
        )
        process.start()
        process.join()
    assert len(steps_in(store)) == 8
    run(out, store, range(4), "overwrite")
    assert steps_in(store) == [*range(5), *range(4)]
    assert [path.name for path in tmp_path.glob(".*")] == []


# --- names ---------------------------------------------------------------------------------------

NAMES = [
    'a "quoted" name.h5', "it's.h5", "a b.h5", "two\nlines.h5", "back\\slash.h5", "ends with \\",
    "Größe/Å.h5", "tab\there.h5", "2024", "1e5", "T", "false", "step=9 run_id=x.h5", "{a}", "[1]", "a,b", "1 2 3",
    "_JSON {}", "nan", "a\u2028b", "a\u00a0b", "\udcff.h5", " leading", "=", "\r", "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_as_they_were(tmp_path, name):
    store = tmp_path / "flags.xyz"
    for step, restart in ((0, None), (1, None), (1, 0)):
        hook = FlagStore(store)
        chain = HookChain([lambda frame: Action.FLAG, hook])
        info = {"run_file": name, "model": {"name": name}, "restart_step": restart}
        chain.open(RunInfo(run_id="c" * 32, **info))
        chain.dispatch(frame(step=step))
        chain.close(DONE)
    frames = ase.io.read(store, ":")
    assert [atoms.info["step"] for atoms in frames] == [0, 1]
    for atoms in frames:
        assert atoms.info["run"] == name
        assert atoms.info["model"] == name
        assert atoms.info["run_id"] == "c" * 32
        assert isinstance(atoms.info["run"], str)


@settings(max_examples=200, deadline=None)
@given(st.text())
@example('"')
@example('\\"')
def test_any_string_survives(text):
    atoms = Atoms("H", info={"source": text, "after": 5})
    found = ase.io.read(io.StringIO(frame_text(atoms).decode()), format="extxyz").info
    assert found == {"source": text, "after": 5}


# --- what is no store ----------------------------------------------------------------------------


def extended(**info):
    atoms = Atoms("H", info=info)
    return frame_text(atoms)


OURS = extended(model_energy=1.0, step=3)
FOREIGN = {
    "text": (b"my notes\nof this week\n", 1),
    "a number": (b"12\n", 2),
    "a number and no line": (b"12", 2),
    "binary": (bytes(range(256)) * 10, 1),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(500), 1),
    "no line breaks": (b"1" * 3_000_000, 1),
    "nothing but zeros": (bytes(100_000), 1),
    "plain xyz": (b"1\na comment\nH 0 0 0\n", 2),
    "labelled": (extended(model_energy=1.0, step=3).replace(b"pos:R:3", b"pos:R:3:forces:R:3"), 2),
    "blank line at the end": (OURS + b"\n", 4),
    "blank line": (OURS + b"\n" + OURS, 4),
    "comment": (OURS + b"# checked by hand\n" + OURS * 5, 4),
    "cell vectors": (OURS + b"VEC1 1 0 0\n" + OURS, 4),
    "a count too large": (OURS * 2 + OURS.replace(b"1\n", b"3\n", 1) + OURS * 40, 10),
    "a count too small": (OURS + b"0\n" + OURS.partition(b"\n")[2], 4),
    "text after the last frame": (OURS + b"end", 4),
}


@pytest.mark.parametrize("restart", [None, 0, 10])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_store_is_refused_by_its_line_and_left_alone(tmp_path, kind, restart):
    path = tmp_path / "flags.xyz"
    content, line = FOREIGN[kind]
    path.write_bytes(content)
    recorder = Recorder(tmp_path / "run.h5")
    chain = HookChain([FlagStore(path), recorder])
    with pytest.raises(
        HookError, match=rf"flags\.xyz is not a file of flagged frames \(line {line}:"
    ):
        chain.open(RunInfo(restart_step=restart, run_id="a" * 32))
    assert path.read_bytes() == content
    assert not (tmp_path / "run.h5").exists()  # refused before any file was touched


def test_a_huge_file_is_refused_at_once(tmp_path):
    path = tmp_path / "flags.xyz"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # no disk space: it has no content
    with pytest.raises(HookError, match="line 1"):
        FlagStore(path).open(RunInfo())


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "loop", "no folder", "long"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "flags.xyz"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "long":
        path = tmp_path / f"{'x' * 300}.xyz"
    else:
        path = tmp_path / "none" / "flags.xyz"
    with pytest.raises(HookError, match="cannot be written") as refusal:
        FlagStore(path).open(RunInfo())
    assert "\n" not in str(refusal.value)


def test_an_empty_file_and_a_link_will_do(tmp_path):
    (tmp_path / "flags.xyz").touch(mode=0o640)
    (tmp_path / "link.xyz").symlink_to("flags.xyz")
    run(tmp_path / "run.h5", tmp_path / "link.xyz", range(4))
    run(tmp_path / "run.h5", tmp_path / "link.xyz", [2, 3], "append", restart_step=1)
    assert (tmp_path / "link.xyz").is_symlink()
    assert steps_in(tmp_path / "flags.xyz") == [0, 1, 2, 3]
    assert (tmp_path / "flags.xyz").stat().st_mode & 0o777 == 0o640


# --- half of a frame -----------------------------------------------------------------------------


def test_every_half_of_a_last_frame_is_dropped_and_nothing_else(tmp_path):
    """Cut after each byte: the whole frames stay, and the next one is readable."""
    path = tmp_path / "flags.xyz"
    run(tmp_path / "run.h5", path, range(3))
    text = path.read_bytes()
    last = text.rindex(b"\n3\n") + 1
    for end in range(last + 1, len(text), 7):
        path.write_bytes(text[:end])
        hook = FlagStore(path)
        hook.open(RunInfo())
        assert path.read_bytes() == text[:last]
        hook.observe(frame(step=9), _flagged())
        assert steps_in(path) == [0, 1, 9]


def test_half_a_frame_of_another_run_is_dropped_before_the_next(tmp_path):
    """It was killed while this one was running."""
    path = tmp_path / "flags.xyz"
    run(tmp_path / "other.h5", tmp_path / "other.xyz", range(3))
    text = (tmp_path / "other.xyz").read_bytes()
    hook = FlagStore(path)
    hook.open(RunInfo())
    expected = []
    for step, end in enumerate(range(len(text) - 300, len(text) + 1, 20)):
        hook.observe(frame(step=step), _flagged())
        with path.open("ab") as file:
            file.write(text[:end])
        expected += [step, *([0, 1, 2] if end == len(text) else [0, 1])]
    hook.observe(frame(step=99), _flagged())
    assert steps_in(path) == [*expected, 99]


def test_what_another_program_adds_during_a_run_is_named(tmp_path):
    path = tmp_path / "flags.xyz"
    hook = FlagStore(path)
    hook.open(RunInfo())
    hook.observe(frame(step=0), _flagged())
    with path.open("a") as file:
        file.write("# my notes\n")
    before = path.read_bytes()
    with pytest.raises(HookError, match="line 6: expected a number of atoms"):
        hook.observe(frame(step=1), _flagged())
    assert path.read_bytes() == before


def test_a_link_into_a_missing_folder_is_refused_before_the_run(tmp_path):
    (tmp_path / "flags.xyz").symlink_to("none/flags.xyz")
    with pytest.raises(HookError, match="none first"):
        FlagStore(tmp_path / "flags.xyz").check_files()


def _flagged():
    from md_hooks import Verdict

    return Verdict(Action.FLAG, "because")


def test_a_frame_that_does_not_fit_leaves_nothing(tmp_path):
    """A limit on the size of files stands for a full disk, in a process of its own."""
    code = (
        "import resource, sys\n"
        "from test_flag_store import *\n"
        "from test_flag_store import _flagged\n"
        "store = FlagStore(sys.argv[1])\n"
        "store.open(RunInfo())\n"
        "store.observe(frame(0), _flagged())\n"
        "size = os.path.getsize(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))\n"
        "try: store.observe(frame(1), _flagged())\n"
        "except HookError as error: print(error)\n"
        "assert os.path.getsize(sys.argv[1]) == size\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "flags.xyz")], cwd=Path(__file__).parent,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot be written to (File too large): free some space" in done.stdout
    assert steps_in(tmp_path / "flags.xyz") == [0]


KILLS = """
import os, sys
import killed
from test_flag_store import *
from test_flag_store import _flagged

store = "flags.xyz"
run("run.h5", store, range(6))
run("other.h5", store, range(4))
full = open(store, "rb").read()

def restart():
    hook = FlagStore(store)
    hook.open(RunInfo(run_id=hook_id, restart_step=2))
    for step in (3, 4, 5):
        hook.observe(frame(step), _flagged())

from md_hooks import Trajectory
hook_id = Trajectory("run.h5").run_id
kills = 0
def check():
    global kills
    kills += 1
    frames = ase.io.read(store, ":")
    mine = [a.info["step"] for a in frames if a.info["run_id"] == hook_id]
    assert mine == sorted(set(mine)), mine  # nothing twice
    assert mine[:3] == [0, 1, 2], mine
    assert [a.info["step"] for a in frames if a.info["run_id"] != hook_id] == [0, 1, 2, 3]
for _ in killed.at_each_operation(restart):
    check()
assert steps_in(store) == [0, 1, 2, 0, 1, 2, 3, 3, 4, 5]
for size in killed.at_sizes(restart, list(range(100, len(full) + 1, len(full) // 9))):
    if not FlagStore(store).holds(hook_id): raise AssertionError(size)
    FlagStore(store).open(RunInfo())  # drops what was half written
    check()
    open(store, "wb").write(full)
print(kills)
"""


def test_kills_at_every_file_operation_lose_and_repeat_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(Path(__file__).parent)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 12
