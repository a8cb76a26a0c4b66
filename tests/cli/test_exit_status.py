"""Exit statuses: one table, from which the help is made and with which the guide agrees."""

from __future__ import annotations

import re
from pathlib import Path

from forcedelta.cli import app
from forcedelta.cli.exit_status import ExitStatus, described

GUIDE = Path(__file__).parents[2] / "docs/guide/run.md"


def test_the_help_of_the_program_lists_all():
    text = str(app.info.epilog)
    assert text == described()
    for status in ExitStatus:
        assert f"{status:d} {status.meaning}" in text


def test_commands_name_only_statuses_that_exist():
    for command in app.registered_commands:
        _, found, text = (command.epilog or "").partition("Exit status: ")
        named = {int(number) for number in re.findall(r"(?:^|[;.] )(\d+) ", text)}
        assert named if found else not named
        assert named <= set(ExitStatus), command.name


def test_the_guide_lists_all():
    _, _, table = GUIDE.read_text(encoding="utf-8").partition("| exit status |")
    rows = re.findall(r"^\| (\d+) \|", table.partition("\n\n")[0], flags=re.MULTILINE)
    assert [int(row) for row in rows] == list(ExitStatus)
