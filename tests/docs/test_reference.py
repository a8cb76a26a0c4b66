"""The reference has every command, option, exit status and public name."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import pytest
from typer.main import get_command

from forcedelta.cli import app
from forcedelta.cli.exit_status import ExitStatus

DOCS = Path(__file__).parents[2] / "docs"
PARTS = runpy.run_path(str(DOCS / "_ext" / "generated.py"))["PARTS"]
PACKAGES = [
    "forcedelta", "forcedelta.conformance", "forcedelta.models", "forcedelta.openmm", "md_hooks",
    "md_hooks.recalculation",
]  # fmt: skip
ELSEWHERE = {
    "__version__": "a name in a table",
    "ase": "a module with a page",
    "openmm": "a package with a page",
    "audit": "forcedelta.audit.audit",
}


def test_every_part_has_a_page() -> None:
    marks = [
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall("<!-- generated: (.+) -->", page.read_text(encoding="utf-8"))
    ]
    assert sorted(marks) == sorted(PARTS)


def test_commands_and_options() -> None:
    page = PARTS["commands"]()
    for name, command in get_command(app).commands.items():
        _, _, text = page.partition(f"\n## `forcedelta {name}`\n")
        text = text.partition("\n## ")[0]
        assert text, name
        for parameter in command.params:
            words = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
            for word in words:
                assert re.search(rf"`[^`]*{re.escape(word)}\b", text), (name, word)
            assert not parameter.help or parameter.help.split("\n")[0][:60] in text, (name, words)


def test_exit_statuses() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PARTS["exit-statuses"](), re.MULTILINE)
    assert rows == [(f"{status:d}", status.meaning) for status in ExitStatus]


def test_the_tree_is_that_of_a_recorded_file() -> None:
    tree = PARTS["h5md-tree"]()
    for line in ("force_deltas +float32 +3 x 15 +eV Angstrom-1", "per_step/", "slot[01] +uint8"):
        assert re.search(f"^ *{line}", tree, re.MULTILINE), line


def documented() -> set[str]:
    """Names, without their packages, that the pages of the reference have entries for."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    names = re.findall(r"^\.\. auto(?:class|function|exception):: ([\w.]+)", text, re.MULTILINE)
    for package in re.findall(r"^\.\. automodule:: ([\w.]+)\n   :members:", text, re.MULTILINE):
        names += importlib.import_module(package).__all__
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names(package: str) -> None:
    names = set(importlib.import_module(package).__all__)
    assert names - ELSEWHERE.keys() <= documented()
