"""Hints for installing: what is printed must work where the user reads it."""

import json
import os
import re
import shlex
import subprocess
import sys
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from forcedelta import installing
from forcedelta.cli import status
from forcedelta.models.catalogue import families

PROJECT = Path(__file__).parents[1]


class Installed:
    """The metadata of an installation from somewhere."""

    def __init__(self, origin: object, requires: list[str]) -> None:
        self.origin, self.requires = origin, requires
        self.metadata = Message()
        self.metadata["Provides-Extra"] = "orb"

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    def make(origin: object) -> None:
        found = Installed(origin, ["ase<4,>=3.29", 'orb-models<0.6,>=0.5.5; extra == "orb"'])
        monkeypatch.setattr(installing, "distribution", lambda name: found)
        installing._requirements.cache_clear()

    yield make
    installing._requirements.cache_clear()


def folder(path: Path, name: str = "forcedelta") -> Path:
    path.mkdir()
    (path / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return path


def test_from_a_folder_that_is_still_there(install, tmp_path: Path) -> None:
    source = folder(tmp_path / "my source")
    install({"url": source.as_uri(), "dir_info": {}})
    assert shlex.split(installing.command("orb")) == ["pip", "install", f"{source}[orb]"]
    install({"url": source.as_uri(), "dir_info": {"editable": True}})
    assert shlex.split(installing.command("orb")) == ["pip", "install", "-e", f"{source}[orb]"]


@pytest.mark.parametrize("left", ["gone", "another project", "index", "damaged"])
def test_otherwise_with_the_versions_that_were_tested(left: str, install, tmp_path: Path) -> None:
    origin: object = {"url": (tmp_path / "source").as_uri(), "dir_info": {}}
    if left == "another project":
        folder(tmp_path / "source", "other")
    install({"index": None, "damaged": []}.get(left, origin))
    assert installing.command("orb") == "pip install 'orb-models>=0.5.5,<0.6'"


def test_from_a_repository_or_an_archive(install, tmp_path: Path) -> None:
    told = {"vcs": "git", "commit_id": "abc"}
    install({"url": "https://example.org/f.git", "vcs_info": told})
    words = shlex.split(installing.command("orb"))
    assert words[2:] == ["forcedelta[orb] @ git+https://example.org/f.git@abc"]
    assert Requirement(words[2]).extras == {"orb"}
    wheel = tmp_path / "forcedelta-1.whl"
    install({"url": wheel.as_uri(), "archive_info": {}})
    assert "orb-models" in installing.command("orb")
    wheel.write_bytes(b"")
    assert shlex.split(installing.command("orb"))[2:] == [f"{wheel}[orb]"]


def test_in_a_source_tree_that_was_not_installed(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    before = installing.command_for("recalc", "pymatgen", "tblite")
    monkeypatch.setattr(installing, "distribution", missing)
    monkeypatch.setattr(installing, "_tree", lambda: PROJECT)
    installing._requirements.cache_clear()
    request.addfinalizer(installing._requirements.cache_clear)
    assert shlex.split(installing.command("pet"))[-1] == f"{PROJECT}[pet]"
    assert installing.command_for("recalc", "pymatgen", "tblite") == before
    assert "pymatgen>=" in before


def test_pip_takes_what_is_printed() -> None:
    """All but the download: pip reads each command's requirements, extras and folder."""
    pytest.importorskip("hatchling", reason="pip builds the project's metadata with it")
    commands = [family.install for family in families()] + [installing.command("torchforce")]
    for printed in commands:
        for one in printed.split(" && "):
            program, install, *words = shlex.split(one)
            assert (program, install) == ("pip", "install")
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index",
                 "--no-build-isolation", *(word for word in words if word != "--no-deps")],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert "Invalid requirement" not in done.stderr
            if str(PROJECT) in one:
                assert done.returncode == 0, done.stderr
                assert "does not provide the extra" not in done.stderr


def test_the_pins_of_the_catalogue_are_those_of_the_project() -> None:
    for family in families():
        if family.key != "eqv2":  # no extra can ask for it
            stated = installing.versions(family.key, family.distribution)
            assert set(stated.split(",")) == set(family.versions.split(","))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("ase>=99", r"forcedelta needs ase>=99, but ase \S+ is installed: pip install 'ase>=99'"),
        ("no-such-thing>=1", "no-such-thing is not installed: pip install 'no-such-thing>=1'"),
    ],
)
def test_requirements_that_are_not_met(wanted: str, told: str, install, monkeypatch) -> None:
    assert installing.unmet() is None
    monkeypatch.setattr(
        installing, "_required", lambda extra: [] if extra else [Requirement(wanted)]
    )
    assert re.search(told, str(installing.unmet()))


def test_a_library_that_is_too_old_is_told(tmp_path: Path) -> None:
    """An older ASE first on the path: without the module that the command imports."""
    (tmp_path / "ase").mkdir()
    (tmp_path / "ase" / "__init__.py").write_text("__version__ = '3.26.0'\n")
    facts = tmp_path / "ase-3.26.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ase\nVersion: 3.26.0\n")
    done = subprocess.run(
        [sys.executable, "-c", "from forcedelta.cli import main; main()", "models"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: forcedelta needs ase>=3.29,<4, but ase 3.26.0 is installed: "
        "pip install 'ase>=3.29,<4'\n"
    )


def test_one_that_a_command_imports_is_told(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "forcedelta.simulation.guarded", None)
    command = ["run", str(PROJECT / "examples" / "acetylacetone.xyz"), "--model", "acac"]
    command += ["--steps", "1", "--out", str(tmp_path / "run.h5")]
    with pytest.raises(ImportError):  # whatever is the reason: versions are right
        status(command)
    monkeypatch.setattr(
        installing, "_required", lambda extra: [] if extra else [Requirement("ase>=99")]
    )
    assert status(command) == 2
    assert capsys.readouterr().err.startswith("error: forcedelta needs ase>=99, but ase ")
