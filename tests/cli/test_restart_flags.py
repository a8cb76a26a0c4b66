"""Restarts without --flags go on with a store of their own, or say that they do not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ase.io
import h5py
import pytest
import torch

from md_hooks import Trajectory
from md_hooks.h5md.layout import CHECKSUM, CHECKSUMS, RUNS, SERIES_CHECKSUM

FLAGGED = ["--flag-above", "0", "--record-every", "1", "--flags", "flags.xyz"]


def steps_in(path):
    return [int(atoms.info["step"]) for atoms in ase.io.read(path, ":")]


def name_in_file(path, **settings):
    """Put settings into a recorded file, as somebody may who hands it on."""
    with h5py.File(path, "r+") as file:
        for name in (CHECKSUMS, CHECKSUM, SERIES_CHECKSUM):  # as a file of an older version
            if name in file:
                del file[name]
        for run in file[RUNS].values():
            facts = json.loads(run.attrs["info"])
            facts["settings"] |= settings
            run.attrs["info"] = json.dumps(facts)


def test_a_run_goes_on_collecting(forcedelta, water):
    assert forcedelta(*water, "--steps", "3", *FLAGGED)[0] == 0
    code, _, err = forcedelta("run", "--restart", "--steps", "5")
    assert code == 0
    assert "warning" not in err
    assert steps_in("flags.xyz") == [0, 1, 2, 3, 4, 5] == Trajectory("run.h5").flags.tolist()
    assert set(a.info["run_id"] for a in ase.io.read("flags.xyz", ":")) == {
        Trajectory("run.h5").run_id
    }


def test_a_run_that_had_flagged_nothing_yet_goes_on_too(forcedelta, water):
    assert forcedelta(*water, "--steps", "3", "--flags", "flags.xyz")[0] == 0
    assert not Path("flags.xyz").exists()
    assert forcedelta("run", "--restart", "--steps", "5", "--flag-above", "0")[0] == 0
    assert steps_in("flags.xyz") == [4, 5]


@pytest.mark.parametrize("what", ["removed", "text", "another run", "empty elsewhere", "link"])
def test_a_store_that_is_not_the_runs_own_is_named_and_left_alone(forcedelta, water, what, here):
    assert forcedelta(*water, "--steps", "3", *FLAGGED)[0] == 0
    Path("elsewhere").mkdir()
    named = "flags.xyz"
    if what == "removed":
        named = "elsewhere/new.xyz"
    elif what == "text":
        Path(named).write_text("my thesis\n")
    elif what == "another run":
        assert (
            forcedelta(
                *water, "--steps", "3", "--out", "b.h5", "--flag-above", "0", "--flags", "b.xyz"
            )[0]
            == 0
        )
        named = "b.xyz"
    elif what == "empty elsewhere":
        named = "elsewhere/empty.xyz"
        Path(named).touch()
    else:
        named = "link.xyz"
        os.symlink("elsewhere/planted.xyz", named)
    name_in_file("run.h5", flags=named)
    before = {path: path.read_bytes() for path in here.rglob("*.xyz") if path.is_file()}
    for steps in ("5", "6"):  # each time
        code, _, err = forcedelta("run", "--restart", "--steps", steps)
        assert code == 0
        [line] = [line for line in err.splitlines() if line.startswith("warning")]
        assert f"pass --flags {named} to continue it" in line
    assert {path: path.read_bytes() for path in here.rglob("*.xyz") if path.is_file()} == before
    assert Trajectory("run.h5").flags.tolist() == list(range(7))  # they are in the run all the same


@pytest.mark.parametrize(
    "named", [5, ["a"], "", "\x1b[2J.xyz", "x" * 300 + ".xyz", "a\x00b.xyz", None]
)
def test_settings_that_are_no_path(forcedelta, water, named):
    assert forcedelta(*water, "--steps", "2")[0] == 0
    name_in_file("run.h5", flags=named)
    code, _, err = forcedelta("run", "--restart", "--steps", "3")
    if code:  # no recorder writes that
        assert (code, err.count("\n")) == (2, 1)
        assert "run.h5: flags is" in err
    else:
        assert named is None or "pass --flags" in err
    assert "\x1b" not in err


def test_an_audit_leaves_alone_what_only_its_file_names(forcedelta, files, water):
    assert forcedelta(*water, "--steps", "6", "--record-every", "1")[0] == 0
    command = ["audit", "run.h5", "--model", files / "wet.safetensors", "--flag-above", "0"]
    assert forcedelta(*command, "--stop", "3", "--flags", "flags.xyz")[0] == 0
    assert forcedelta("audit", "--restart", "--stop", "5")[0] == 0
    assert steps_in("flags.xyz") == [0, 1, 2, 3, 4]
    Path("victim.xyz").write_text("years of work\n")
    name_in_file("audit.h5", flags="victim.xyz")
    code, _, err = forcedelta("audit", "--restart", "--stop", "6")
    assert code == 0
    assert "pass --flags victim.xyz" in err
    assert Path("victim.xyz").read_text() == "years of work\n"


def test_an_audit_that_begins_anew_replaces_its_flags(forcedelta, files, water):
    assert forcedelta(*water, "--steps", "6", "--record-every", "1")[0] == 0
    command = ["audit", "run.h5", "--model", files / "wet.safetensors", "--flag-above", "0",
               "--flags", "flags.xyz"]  # fmt: skip
    assert forcedelta(*command, "--stop", "4")[0] == 0
    assert forcedelta(*command, "--overwrite")[0] == 0
    assert steps_in("flags.xyz") == list(range(7))
    Path("audit.h5").unlink()
    assert forcedelta(*command)[0] == 0
    assert steps_in("flags.xyz") == list(range(7))


@pytest.mark.parametrize("command", ["run", "audit"])
def test_no_code_is_loaded_from_a_path_that_only_the_file_names(forcedelta, files, water, command):
    assert forcedelta(*water, "--steps", "3")[0] == 0
    if command == "audit":
        audit = ["audit", "run.h5", "--model", files / "wet.safetensors", "--stop", "1"]
        assert forcedelta(*audit)[0] == 0
    out = "run.h5" if command == "run" else "audit.h5"
    torch.save({"this": "may be anything"}, "planted.pt")
    name_in_file(out, model="planted.pt")
    before = Path(out).read_bytes()
    more = ["--steps", "5"] if command == "run" else ["--stop", "2"]
    code, _, err = forcedelta(command, "--restart", *more)
    assert code == 2
    assert "names the model file planted.pt" in err
    assert "pass --model planted.pt" in err
    assert Path(out).read_bytes() == before
    name_in_file(out, model=str(files / "wet.safetensors"), architecture="esen")
    assert "names the model file" in forcedelta(command, "--restart", *more)[2]
    name_in_file(out, model=str(files / "wet.safetensors"), architecture=None)
    assert forcedelta(command, "--restart", *more)[0] == 0
