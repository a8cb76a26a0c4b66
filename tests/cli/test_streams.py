"""Output that cannot be written: what people read is lost, the work and the exit status are not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from md_hooks import Trajectory
from md_hooks.progress import QuietStream, print_line

PROGRAM = f"{sys.executable} -c 'from forcedelta.cli import main; main()'"
REDIRECTIONS = {
    "stderr closed": "2>&-",
    "stdout closed": "1>&-",
    "all closed": "0<&- 1>&- 2>&-",
    "stderr full": "2>/dev/full",
    "stdout full": ">/dev/full",
    "json on a full disk": "--json >/dev/full 2>/dev/full",
    "nobody reads": "2>&1 | true",
    "somebody reads a line": "2>&1 | head -1",
}


@pytest.mark.slow
@pytest.mark.parametrize("redirection", REDIRECTIONS.values(), ids=REDIRECTIONS)
def test_a_run(water, redirection):
    """It stops at its first frame, so that the status is neither 0 nor 1."""
    arguments = " ".join([*water, "--steps", "20", "--stop-above", "0"])
    command = f"{PROGRAM} {arguments} {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    trajectory = Trajectory("run.h5")
    assert trajectory.outcome["reason"] == "stopped"
    assert len(trajectory) == 1


class Broken:
    """A stream that fails as the standard ones do."""

    encoding = "ascii"

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def write(self, text: str) -> int:
        self.calls += 1
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("closed")])
def test_a_stream_that_fails_is_left_alone(error):
    stream = Broken(error)
    quiet = QuietStream(stream)
    assert not quiet.isatty()
    assert not quiet.broken
    assert quiet.write("words") == 5
    assert quiet.broken
    quiet.write("more")
    quiet.flush()
    assert stream.calls == 1
    print_line("words", stream)


def test_no_stream_at_all():
    quiet = QuietStream(None)
    assert quiet.broken
    quiet.write("words")
    quiet.flush()
    with pytest.raises(OSError, match="closed"):
        quiet.fileno()
