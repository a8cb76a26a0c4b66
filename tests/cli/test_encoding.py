"""Standard streams that are not UTF-8, and readers that leave early."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from ase.build import molecule

from forcedelta.cli import main, status
from forcedelta.cli.encoding import write_readably
from forcedelta.cli.watch import _plot
from md_hooks import Trajectory

pytestmark = pytest.mark.slow

Printed = tuple[int, bytes, bytes]


@pytest.fixture
def in_encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Printed]:
    """Runs a command line with standard streams of an encoding; gives status and bytes."""

    def call(encoding: str, *arguments: object) -> Printed:
        streams = io.TextIOWrapper(io.BytesIO(), encoding), io.TextIOWrapper(io.BytesIO(), encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setattr("signal.signal", lambda *_: None)
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        for stream in streams:
            stream.flush()
        return ended.value.code, streams[0].buffer.getvalue(), streams[1].buffer.getvalue()

    return call


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_every_encoding_has_words_for_a_run(in_encoding, water, encoding):
    code, out, err = in_encoding(encoding, *water, "--steps", 5, "--stop-above", 1e-6)
    assert code == 3
    unit = "eV/Å" if encoding != "ascii" else "eV/A"
    assert unit in out.decode(encoding)
    assert unit in err.decode(encoding)
    assert b"\\" not in out + err


def test_numbers_and_letters_in_ascii(in_encoding, water):
    assert status([*water, "--steps", "5"]) == 0
    for arguments in (["models"], ["check", water[3], water[1], "--quick"], ["watch", "run.h5"]):
        code, out, err = in_encoding("ascii", *arguments)
        assert code in (0, 4)
        assert b"\\u" not in out + err


def test_the_plot_of_watch_in_ascii(water, monkeypatch):
    assert status([*water, "--steps", "20"]) == 0
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    write_readably([])
    sys.stdout.write(_plot(Trajectory("run.h5")))
    sys.stdout.flush()
    shown = sys.stdout.buffer.getvalue()
    assert b"U (eV/A)" in shown
    assert b"time (fs)" in shown
    assert b"***" in shown
    assert b"\\u" not in shown


def test_names_of_files_that_the_encoding_lacks(in_encoding, here):
    code, _, err = in_encoding(
        "ascii", "run", "\u6c34\U0001f4a7.xyz", "--model", "acac", "--steps", 5
    )
    assert code == 2
    assert b"\\u6c34\\ud83d\\udca7.xyz" in err


def test_json_loses_nothing(in_encoding, files, here):
    molecule("H2O").write("w\u00e5ter.xyz")
    model = files / "wet.safetensors"
    for encoding in ("ascii", "utf-8"):
        _, out, _ = in_encoding(encoding, "check", model, "w\u00e5ter.xyz", "--quick", "--json")
        facts = json.loads(out.decode(encoding))
        assert "w\u00e5ter.xyz" in json.dumps(facts, ensure_ascii=False)


@pytest.mark.parametrize("arguments", [["models"], ["run", "--help"]])
def test_a_reader_that_has_left(arguments: Sequence[str]):
    """As in ``forcedelta models | true``; here nobody ever reads."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from forcedelta.cli import main; main()", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=600, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
