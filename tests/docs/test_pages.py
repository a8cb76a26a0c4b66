"""The code of the pages runs: Python and shell commands of a page, in its order, in a folder of its own.

A comment before a block, invisible on the page, changes what is done with it::

    <!-- skip: next "needs a GPU" -->                     it is not run, for the stated reason
    <!-- skip: next if(missing("pyscf"), "PySCF") -->     the same where a library is missing
    <!-- exit status: 3 -->                               its last command ends with this, not with 0
    <!-- ci: NAME -->                                     .ci/run runs it, in an environment of its own

The folder holds a copy of ``examples``. In ``console`` blocks, the lines after a command are its output: it is
compared without its numbers; ``...`` stands for any text, and as a line for any lines or none.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import pytest

pytest.importorskip("sybil")

from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(DOCS).as_posix()
    for page in DOCS.rglob("*.md")
    if not {"_build", "gallery"} & set(page.relative_to(DOCS).parts)
)
PACKAGES = {"extend/model-adapter.md", "extend/hook.md", "extend/reference-method.md"}
"""Pages whose code needs packages that `test_extend_pages` installs, and runs there."""

RUN = {"python", "bash", "console"}
SHOWN = {"text", "toml", "json", "ini", "xml", "none", "yaml"}  # what no program runs


def mark(example: Example, name: str) -> str | None:
    """The value of a comment on the line before a block."""
    before = example.document.text[: example.region.start].rstrip("\n").rpartition("\n")[2]
    found = re.fullmatch(rf"<!-- {name}: (.+) -->", before)
    return None if found is None else found[1]


MOST = 0.6
"""Part of the lines of a page that a command must print."""


def shell(command: str, status: int) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "COLUMNS": "120",
    }  # tables are as wide as the terminal
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == status, (
        f"status {done.returncode}, not {status}: {command}\n{done.stdout}"
    )
    return done.stdout


def bash(example: Example) -> None:
    if mark(example, "ci") is None:
        shell(str(example.parsed), int(mark(example, "exit status") or 0))


def console(example: Example) -> None:
    for command, shown in re.findall(
        r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n?)*)", str(example.parsed), re.MULTILINE
    ):
        printed = shell(command, int(mark(example, "exit status") or 0))
        assert not shown.strip() or is_like(shown, printed), f"{command}\nprints\n{printed}"


def is_like(shown: str, printed: str) -> bool:
    """Whether a command printed what a page shows.

    Dynamics go another way on another processor, where other atoms are the worst and other lines count
    frames: the first and the last line must come again and most of the others, without numbers.
    """
    wanted = [line for line in masked(shown) if line != "..."]
    lines = masked(printed)
    found = [any(matches(one, line) for line in lines) for one in wanted]
    return found[0] and found[-1] and sum(found) >= MOST * len(found)


def matches(shown: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS)


def masked(text: str) -> list[str]:
    """Lines without numbers and numbered atoms, and without blanks around and between words."""
    text = re.sub(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", "0", text)
    text = re.sub(r"\b[A-Z][a-z]?0\b|(?<=worst atom 0 )\([A-Z][a-z]?\)", "atom", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def missing(library: str) -> bool:
    return importlib.util.find_spec(library) is None


def parser() -> Sybil:
    return Sybil(
        parsers=[
            SkipParser(),
            PythonCodeBlockParser(),
            CodeBlockParser("bash", bash),
            CodeBlockParser("console", console),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(set(PAGES) - PACKAGES))
def test_the_code_of_a_page_runs(page: str, here: Path) -> None:
    shutil.copytree(ROOT / "examples", here / "examples")
    document = parser().parse(DOCS / page)
    document.namespace["missing"] = missing
    for example in document.examples():
        try:
            example.evaluate()
        except unittest.SkipTest as reason:
            print(f"{page}, line {example.line} is not run: {reason}")


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_have_a_known_language(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    languages = re.findall(r"^ *(?:`{3,}|:{3,})(\S*).*\n(?:.*\n)*?^ *(?:`{3,}|:{3,})$", text, re.M)
    assert {name for name in languages if not name.startswith("{")} <= RUN | SHOWN
    for reason in re.findall(r"<!--+ skip: (.+?) -->", text):
        assert re.fullmatch(r'(next|start) (if\(.+, )?"\S.+"\)?|end', reason), (
            f"{reason} without a reason"
        )
