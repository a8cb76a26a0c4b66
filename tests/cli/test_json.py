"""Every command prints its result as JSON: one value on stdout, whatever else it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from forcedelta.cli import app


def result(printed: tuple[int, str, str]) -> object:
    code, out, _ = printed
    assert code == 0
    return json.loads(out)


def test_every_command_has_the_flag():
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert any("--json" in option.opts for option in command.params), name


def test_a_run_and_what_is_made_of_it(forcedelta, water):
    run = result(forcedelta(*water, "--steps", "3", "--json"))
    assert (run["reason"], run["status"], run["step"]) == ("finished", 0, 3)
    seen = result(forcedelta("watch", "run.h5", "--once", "--json"))
    assert (seen["reason"], seen["step"], seen["steps"]) == ("finished", 3, 3)
    assert seen["force_delta"] == pytest.approx(run["force_delta"])
    drawn = result(forcedelta("plot", "run.h5", "--json"))
    assert drawn == {"files": ["run.png"]}
    assert Path("run.png").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_an_export(forcedelta, files, here):
    pytest.importorskip("openmm", reason="needs OpenMM")
    told = result(forcedelta("export", files / "wet.safetensors", "--out", "wet.pt", "--json"))
    assert (told["file"], told["symbols"], told["dtype"]) == ("wet.pt", ["H", "O"], "float32")
