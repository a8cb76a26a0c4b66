"""The README is short, and what it shows runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from forcedelta.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.encode()) <= 8000


def test_its_python_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "examples", here / "examples")
    [code] = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(code.replace("\n\n", "\n").splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("finished 400 ")
    assert (here / "guarded.h5").exists()


def test_ci_runs_its_commands() -> None:
    marked = re.findall(r"^<!-- ci: (.+) -->\n```bash$", README, re.MULTILINE)
    assert len(marked) == len(re.findall("^```bash$", README, re.MULTILINE)) == 2
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for name in marked:
        assert re.search(rf'^bash -c "\$\(command_after "?{name}"?\)"', ci, re.MULTILINE), name


def test_it_names_all_commands() -> None:
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        assert re.search(rf"`(forcedelta )?{name}\b", README), name


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        file, _, anchor = link.partition("#")
        assert (ROOT / file).is_file(), link
        if anchor:
            text = (ROOT / file).read_text(encoding="utf-8")
            headings = re.findall("^#+ (.+)$", text, re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
            }, link


def test_its_benchmarks_exist() -> None:
    for script in re.findall(r"benchmarks/\w+\.py", README):
        assert (ROOT / script).is_file(), script
