"""Libraries log under their own names and print nothing; the command line shows the log."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from command_line import untrained_network

import forcedelta
import md_hooks
from forcedelta import LoadedModel

ROOTS = [Path(package.__file__).parent for package in (forcedelta, md_hooks)]  # type: ignore[arg-type]
LIBRARY = [
    path
    for root in ROOTS
    for path in sorted(root.rglob("*.py"))
    if "cli" not in path.relative_to(root).parts
]

SCRIPT = """
import sys, logging
sys.path.insert(0, sys.argv[3])
from ase.build import bulk
import forcedelta
from test_logging import pushed

if sys.argv[2] == "configured":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s")
    logging.getLogger("torch").setLevel(logging.ERROR)
atoms = bulk("Si", cubic=True)
atoms.rattle(0.05, seed=1)
forcedelta.guarded_run(atoms, pushed(sys.argv[1]), steps=2, out=f"{sys.argv[2]}.h5", seed=1)
atoms.write("frames.xyz")
forcedelta.audit.audit("frames.xyz", sys.argv[1], out=f"{sys.argv[2]}-audit.h5")
forcedelta.screen(["frames.xyz"], sys.argv[1], out=f"{sys.argv[2]}.csv")
"""


class _Pushed(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *graph: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, direct = self.inner(*graph)
        return energy, direct + 1.0


def pushed(path: str | Path) -> LoadedModel:
    """A model whose direct forces have a net force, of which a run warns."""
    model = forcedelta.load_model(str(path))
    return replace(model, module=_Pushed(model.module))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(untrained_network(
        tmp_path_factory.mktemp("model") / "solid.safetensors", [14], periodic=True
    ))  # fmt: skip


def test_the_library_neither_prints_nor_warns_and_logs_under_the_names_of_its_modules():
    for path in LIBRARY:
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        made = {ast.unparse(call.func) for call in calls}
        told = {"print", "warnings.warn", "warn", "sys.stderr.write"} & made
        # steps that no guard has seen must be noticed without logging, too
        assert told == ({"warnings.warn"} if path.name == "stepping.py" else set()), path
        for call in calls:
            if ast.unparse(call.func) == "logging.getLogger":
                name = ast.unparse(call)
                assert "'forcedelta" not in name, path
                assert "'md_hooks" not in name, path


@pytest.mark.parametrize("package", ["forcedelta", "md_hooks"])
def test_a_package_has_a_handler_that_keeps_it_silent(package):
    handlers = logging.getLogger(package).handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]
    assert logging.getLogger(package).propagate


@pytest.mark.slow
@pytest.mark.parametrize("logs", ["silent", "configured"])
def test_functions_show_nothing_unless_logging_is_configured(here, model, logs):
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), logs, str(Path(__file__).parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    names = {tuple(line.split()) for line in ended.stderr.splitlines()}
    if logs == "silent":
        assert not names
    else:  # the headline, and the net force
        run = "forcedelta.simulation.guarded"
        assert {(run, "INFO"), (run, "WARNING")} <= names


def test_a_run_logs_its_headline_and_doubts(tmp_path, model, silent, caplog):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    with caplog.at_level(logging.INFO, "forcedelta"):
        forcedelta.guarded_run(atoms, pushed(model), steps=2, out=tmp_path / "run.h5", seed=1)
    levels = {record.levelname: record.name for record in caplog.records}
    assert levels == dict.fromkeys(("INFO", "WARNING"), "forcedelta.simulation.guarded")
    assert "writing" in caplog.text


def test_the_command_line_shows_the_same(forcedelta, model, here):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.write("si.xyz")
    code, _, err = forcedelta("run", "si.xyz", "--model", model, "--steps", "2")
    assert code == 0
    assert "writing run.h5" in err
    assert [type(h) for h in logging.getLogger("forcedelta").handlers] == [logging.NullHandler]
