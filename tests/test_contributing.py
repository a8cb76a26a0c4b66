"""The code of CONTRIBUTING.md is that of tested files, and the names of the guide exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIES = re.findall(r"<!-- from (\S+) -->\n```\w+\n(.*?)```\n", TEXT, re.DOTALL)


def test_all_code_names_its_file() -> None:
    assert len(COPIES) == len(re.findall("^```(?:python|toml)$", TEXT, re.MULTILINE)) > 0


@pytest.mark.parametrize(("file", "code"), COPIES, ids=[file for file, _ in COPIES])
def test_code_is_that_of_its_file(file: str, code: str) -> None:
    assert code in (ROOT / file).read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / link).exists(), link


def test_the_import_surface_of_the_guide() -> None:
    guide = (ROOT / "docs/guide/python.md").read_text(encoding="utf-8")
    lines = re.findall("^from forcedelta import .+$", guide, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        exec(line, {})
