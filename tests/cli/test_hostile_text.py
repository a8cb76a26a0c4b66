"""Text from files and users does not move the cursor, whichever way it gets to the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from forcedelta.report.html import write_report
from md_hooks import Trajectory
from md_hooks.h5md import layout
from md_hooks.text import one_line, printable, shortened

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31m\u202eb<script>alert(1)</script>$\\bad{$"


def test_printable():
    assert printable("Å eV \U0001f600 ä") == "Å eV \U0001f600 ä"
    shown = printable(HOSTILE)
    assert shown.isprintable()
    assert shown.startswith("a\\u001b[2J\\u001b]0;owned\\u0007\\u009b31m\\u202eb<")
    assert printable("a\nb\rc\u2028d\udcff") == "a\nb\\u000dc\\u2028d\\udcff"
    assert json.loads(printable(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE
    assert one_line("a \n\n b\x00") == "a b\\u0000"
    assert len(shortened("9" * 5000)) < 250


@pytest.fixture
def hostile(forcedelta, water) -> str:
    """A run whose record has been written by somebody else."""
    code, _, _ = forcedelta(*water, "--steps", "4", "--record-every", "1")
    assert code == 0
    shutil.copy("run.h5", "as_written.h5")
    with h5py.File("run.h5", "r+") as file:
        run = file[f"{layout.RUNS}/0"]
        info = json.loads(run.attrs["info"])
        info["model"]["name"] = HOSTILE
        info["settings"]["model"] = HOSTILE
        run.attrs["info"] = json.dumps(info)
        outcome = {"reason": "finished" + HOSTILE, "message": HOSTILE}
        run.attrs["outcome"] = json.dumps(outcome)
        for name in ("info", "outcome"):  # who writes such a file writes its checksums, too
            del file[layout.CHECKSUMS].attrs[f"runs/0/{name}"]
    assert HOSTILE in Trajectory("run.h5").outcome["message"]
    return "run.h5"


def test_watch_plot_and_report(forcedelta, hostile):
    code, out, err = forcedelta("watch", "--once", hostile)
    assert code == 0
    assert err == ""
    assert all(line.isprintable() for line in out.splitlines())
    assert "\\u001b[2J" in out
    code, out, err = forcedelta("plot", hostile)
    assert (code, out) == (0, "run.png\n")
    write_report([hostile], Path("run.html"))
    page = Path("run.html").read_text(encoding="utf-8")
    assert "\x1b" not in page
    assert "\x9b" not in page
    write_report(["as_written.h5"], Path("as_written.html"))
    scripts = Path("as_written.html").read_text(encoding="utf-8").count("<script")  # of the viewer
    assert page.count("<script") == scripts
    assert "alert(1)</script" not in page


def test_an_audit_of_a_file_with_such_a_name(forcedelta, files, here):
    """Remarks, lines and errors repeat what readers say."""
    Path("t.xyz").write_text(f"1\n{HOSTILE}\nO 0 0 0\n", encoding="utf-8")
    code, out, err = forcedelta("audit", "t.xyz", "--model", files / "wet.safetensors")
    assert code in (0, 2)
    for line in (out + err).splitlines():
        assert line.isprintable()


def test_messages_of_the_guard(forcedelta, water):
    code, out, err = forcedelta(*water, "--steps", "4", "--model", "m\x1b[31m")
    assert (code, out) == (2, "")
    assert err.strip().isprintable()
    assert np.count_nonzero([line.startswith("error: ") for line in err.splitlines()]) == 1
