"""Files are there as a whole or not at all, and what was there before keeps its place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from md_hooks import HookError
from md_hooks.replacing import replace_file, replacing

TESTS = Path(__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    old = os.umask(0o027)
    try:
        replace_file(tmp_path / "new", b"text")
    finally:
        os.umask(old)
    assert (tmp_path / "new").read_bytes() == b"text"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_the_mode_stays(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("data/real")
    (tmp_path / "over").symlink_to("link")
    replace_file(tmp_path / "over", b"new")
    assert (tmp_path / "over").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "data" / "real").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("data/later")
    replace_file(tmp_path / "dangling", b"new")
    assert (tmp_path / "data" / "later").read_bytes() == b"new"
    assert names(tmp_path) == ["dangling", "data", "link", "over"]
    assert names(tmp_path / "data") == ["later", "real"]


def test_a_link_planted_where_others_write_first_is_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "file.part").symlink_to("victim")
    replace_file(tmp_path / "file", b"text")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"text"
    assert (tmp_path / "file.part").is_symlink()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "loop", "no folder", "long name"])
def test_what_cannot_be_replaced_is_said_in_one_line(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "loop":
        path.symlink_to("file")
    elif kind == "no folder":
        path = tmp_path / "none" / "file"
    else:
        path = tmp_path / ("x" * 256)
    before = names(tmp_path)
    with pytest.raises(HookError, match=r"cannot be written \(.+\): take a walk") as refusal:
        replace_file(path, b"text", "take a walk")
    assert "\n" not in str(refusal.value)
    assert names(tmp_path) == before


def test_names_may_be_as_long_as_they_can(tmp_path):
    path = tmp_path / ("ö" * 127)
    replace_file(path, b"text")
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_on_the_way_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with replacing(path) as file:
            file.write(b"half of it")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_error_is_of_the_class_that_is_asked_for(tmp_path):
    with pytest.raises(OverflowError, match="cannot be written"):
        replace_file(tmp_path, b"", error=OverflowError)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import resource, sys\n"
        "from md_hooks.replacing import replace_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "replace_file(sys.argv[1], bytes(5000), 'free some space')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "HookError" in done.stderr
    assert "cannot be written (File too large): free some space" in done.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


KILLS = """
import killed
from md_hooks.replacing import replace_file

old, new = b"old" * 4000, b"new" * 5000
def write():
    replace_file("link", new)
kills, seen = 0, set()
def check():
    global kills
    kills += 1
    content = open("file", "rb").read()
    assert content in (old, new)
    seen.add(content)
    open("file", "wb").write(old)
for _ in killed.at_each_operation(write):
    check()
for _ in killed.at_sizes(write, [0, 1, 4096, 8192, 14999]):
    check()
assert len(seen) == 2
print(kills)
"""


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    (tmp_path / "file").write_bytes(b"old" * 4000)
    (tmp_path / "link").symlink_to("file")
    done = subprocess.run(
        [sys.executable, "-c", KILLS], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8
