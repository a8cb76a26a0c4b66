"""The pages on extensions run with the packages that they show, which pip installs without a network."""

import re
from pathlib import Path

import pytest
from own_packages import ROOT, installed

pytest.importorskip("sybil")

from test_pages import test_the_code_of_a_page_runs as run_the_code

from forcedelta.conformance import Conformance

PAGES = ROOT / "docs" / "extend"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("installed")
    return installed(folder, "example-bonds", "example-distance", "example-springs")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["model-adapter", "hook", "reference-method"])
def test_with_the_packages(
    page: str,
    environment: dict[str, str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(environment["PYTHONPATH"].split(":")[0])
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, environment[name])
    run_the_code(f"extend/{page}.md", here)
    # only the command that installs from the network is left out
    assert capsys.readouterr().out.count("is not run") == 1


def test_the_page_explains_every_test_of_the_conformance_suite() -> None:
    text = (PAGES / "model-adapter.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(test_\w+)` \|", text, re.MULTILINE)
    assert sorted(explained) == sorted(
        name for name in dir(Conformance) if name.startswith("test_")
    )
