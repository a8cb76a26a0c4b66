"""The program itself: its version, its help, its module and the completion of a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

from forcedelta.cli import app, status


def test_version(capsys):
    assert status(["--version"]) == 0
    assert capsys.readouterr().out == f"forcedelta {version('forcedelta')}\n"


def test_every_command_has_a_short_flag_for_its_help(capsys):
    for arguments in [[], *([command.name] for command in app.registered_commands)]:
        assert status([*arguments, "-h"]) == 0
        assert "Usage: forcedelta" in capsys.readouterr().out


def test_a_shell_completes_without_torch():
    program = (
        "import sys\ntry:\n    from forcedelta.cli import main; main()\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    asked = {
        "_FORCEDELTA_COMPLETE": "complete_bash",
        "COMP_WORDS": "forcedelta ex",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True
    )
    assert (done.stdout.split(), done.stderr) == (["export"], "")


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "forcedelta", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("forcedelta ")
