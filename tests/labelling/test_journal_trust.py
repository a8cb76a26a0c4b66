"""A journal may come from anybody: its keys name no folder, and what is no record is refused."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.io.jsonio import encode
from doubtful_frames import doubtful
from references import Spring

from md_hooks import HookError
from md_hooks.recalculation import Journal, Label, key_of, recalculate


def record(kind, key, **content):
    return json.dumps({"kind": kind, "key": key, **content}) + "\n"


def frame_record(key, seed=0):
    return record("frame", key, atoms=encode(doubtful(seed)))


def label_record(key, seed=0, **changes):
    label = Spring().calculate(doubtful(seed), 1)
    content = {
        "reference": Spring().description, "energy": label["energy"], "seconds": 1.0,
        "forces": label["forces"].tolist(), "stress": None,
    }  # fmt: skip
    return record("label", key, **(content | changes))


@pytest.mark.slow
@pytest.mark.parametrize("key", ["absolute", "..", "../precious", ".", "", "a/b", "precious"])
def test_keys_of_a_journal_name_no_folder(tmp_path, key):
    """The folder of a job is removed before it begins: it has to be one of its own."""
    precious = tmp_path / "precious"
    inside = tmp_path / "out.xyz.jobs" / "precious"
    for folder in (precious, inside):
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("years")
    name = str(precious) if key == "absolute" else key
    path = tmp_path / "out.xyz.journal"
    path.write_text(frame_record(name))
    journal = Journal(path)
    journal.close()
    assert list(journal.frames) == [key_of(doubtful(0))]
    with ThreadPoolExecutor(1) as executor:
        recalculate(journal.frames.values(), Spring(), tmp_path / "out.xyz", executor)
        for source in (precious, inside):
            assert (source / "thesis.txt").read_text() == "years"
    assert len(ase.io.read(tmp_path / "out.xyz", ":")) == 1


def test_labels_stay_with_their_frames_whatever_the_keys_are_called(tmp_path):
    """A journal of another version, or of somebody's own making, with two names for one frame."""
    path = tmp_path / "out.xyz.journal"
    path.write_text(
        frame_record("first", 0) + frame_record("second", 1) + frame_record("again", 0)
        + label_record("second", 1) + label_record("again", 0)
    )  # fmt: skip
    journal = Journal(path, Spring().description)
    assert list(journal.frames) == [key_of(doubtful(0)), key_of(doubtful(1))]
    for seed in (0, 1):
        label = journal.labels[key_of(doubtful(seed))]
        np.testing.assert_allclose(label.forces, -doubtful(seed).positions)
    assert journal.pending == []
    key = journal.add_frame(doubtful(2))
    journal.add_outcome(key, Label(0.0, np.zeros((len(doubtful(2)), 3)), None, 0.0))
    journal.close()
    again = Journal(path)
    again.close()
    assert len(again.labels) == 3


NO_RECORDS = {
    "a label without a frame": label_record("nobody"),
    "no structure": record("frame", "a", atoms=encode({"a": 1})),
    "no atoms": record("frame", "a", atoms="[1, 2"),
    "an unknown kind": frame_record("a") + record("joke", "a"),
    "a key that is no name": frame_record(["a"]),
    "an unknown object": record("frame", "a", atoms='{"__ase_objtype__": "joke"}'),
    "forces of another size": frame_record("a") + label_record("a", forces=[[0, 0, 0]]),
    "forces in words": frame_record("a") + label_record("a", forces="large"),
    "no energy": frame_record("a") + label_record("a", energy=None),
    "an infinite energy": frame_record("a") + label_record("a", energy=float("inf")),
    "forces that are not finite": frame_record("a")
    + label_record("a", forces=np.full((len(doubtful(0)), 3), np.nan).tolist()),
    "a stress of another shape": frame_record("a") + label_record("a", stress=[1.0]),
    "a number": "12\n",
    "nesting without an end": '{"a":' * 100_000 + "\n",
    "text after the last record": frame_record("a") + "remember to label these",
}


@pytest.mark.parametrize("kind", NO_RECORDS)
def test_what_is_no_record_is_refused_by_its_line(tmp_path, kind):
    path = tmp_path / "out.xyz.journal"
    path.write_text(NO_RECORDS[kind])
    line = NO_RECORDS[kind].rstrip("\n").count("\n") + 1
    with pytest.raises(HookError, match=rf"no journal.*\(line {line}\)") as refusal:
        Journal(path, Spring().description)
    assert "\n" not in str(refusal.value)
    assert path.read_text() == NO_RECORDS[kind]


def test_a_journal_that_is_no_file(tmp_path):
    (tmp_path / "folder.journal").mkdir()
    os.mkfifo(tmp_path / "fifo.journal")
    for name in ("folder.journal", "fifo.journal"):
        with pytest.raises(HookError, match="no regular file"):
            Journal(tmp_path / name, "x")


def test_labels_of_somebody_else_survive_an_empty_journal(tmp_path):
    ase.io.write(tmp_path / "out.xyz", Atoms("H"), format="extxyz")
    before = (tmp_path / "out.xyz").read_bytes()
    (tmp_path / "out.xyz.journal").touch()
    with ThreadPoolExecutor(1) as executor, pytest.raises(HookError, match="its journal no labels"):
        recalculate([doubtful(0)], Spring(), tmp_path / "out.xyz", executor)
    assert (tmp_path / "out.xyz").read_bytes() == before


def test_labelled_frames_have_the_names_of_their_files(tmp_path):
    names = ['a "run".h5', "two\nlines.h5", "back\\slash.h5", "2024"]
    frames = []
    for seed, name in enumerate(names):
        frames.append(doubtful(seed))
        frames[-1].info["source"] = name
    with ThreadPoolExecutor(1) as executor:
        recalculate(frames, Spring(), tmp_path / "out.xyz", executor)
    assert [atoms.info["source"] for atoms in ase.io.read(tmp_path / "out.xyz", ":")] == names
    assert not Path(tmp_path / "out.xyz.part").exists()
