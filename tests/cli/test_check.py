"""``forcedelta check``: what a user and a script see."""

import json
from pathlib import Path

import pytest

from forcedelta.cli import status

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "acetylacetone.xyz")

BROKEN = """
from dataclasses import replace
from torch import nn
from forcedelta import load_model

class Cut(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, *graph):
        energy, direct = self.network(*graph)
        return 0.5 * energy + 0.5 * energy.detach(), direct

class Detached(Cut):
    def forward(self, *graph):
        energy, direct = self.network(*graph)
        return energy.detach(), direct

def cut(dtype, device):
    model = load_model("acac", dtype, device)
    return replace(model, module=Cut(model.module), name="cut")

def detached(dtype, device):
    model = load_model("acac", dtype, device)
    return replace(model, module=Detached(model.module), name="detached")
"""


@pytest.fixture
def sick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the models cut and detached, whose gradients are wrong."""
    facts = tmp_path / "sick-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: sick\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[forcedelta.models]\ncut = sick_models:cut\ndetached = sick_models:detached\n"
    )
    (tmp_path / "sick_models.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)


def test_sound_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["check", "acac", EXAMPLE, "--quick"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "C5H8O2, 15 atoms, molecule; float32" in printed.out
    assert "verdict: sound." in printed.out
    assert "F_c = -dE/dr" in printed.out
    assert "\x1b" not in printed.out  # no colours in a pipe


def test_wrong_gradient(sick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["check", "cut", EXAMPLE, "--quick"]) == 4
    printed = capsys.readouterr()
    assert "verdict: not usable" in printed.out
    assert "F_c is not the gradient of the energy" in printed.out.replace("\n  ", " ")


def test_no_gradient_at_all(sick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["check", "detached", EXAMPLE]) == 4
    words = " ".join(capsys.readouterr().out.split())
    assert "there are no conservative forces" in words
    assert words.count("BAD") == 1


def test_json(sick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["check", "cut", EXAMPLE, "--quick", "--json"]) == 4
    facts = json.loads(capsys.readouterr().out)
    assert facts["verdict"] == "not usable"
    assert facts["model"] == "cut"
    assert facts["measured_in"] == "float64"
    found = {finding["key"]: finding for finding in facts["findings"]}
    numbers = found["gradient_rebuilt"]["numbers"]
    assert numbers["relative"] == pytest.approx(0.5, rel=1e-4)
    assert found["gradient_rebuilt"]["why"] in facts["reasons"]
    assert found["cost"]["numbers"]["over_forward"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acacc", EXAMPLE], "no model is called 'acacc'"),
        (["acac", "nowhere.xyz"], "nowhere.xyz does not exist"),
        (["mlearn", EXAMPLE], "does not support"),
        (["acac", EXAMPLE, "--charge", "1"], "takes no charge"),
        (["acac", EXAMPLE, "--device", "gpu"], "device 'gpu' cannot be used"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["check", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
