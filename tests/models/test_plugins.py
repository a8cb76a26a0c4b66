"""Packages with models that misbehave when they are imported: the others are listed all the same."""

import json
import time
from pathlib import Path

import pytest

from forcedelta import ForceDeltaError, load_model
from forcedelta.cli import status
from forcedelta.models.plugins import problems
from forcedelta.models.registry import registered_models

MODULES = {
    "sound": "def load(dtype, device): ...\n",
    "exits": "import sys\nsys.exit('bye')\n",
    "ends": "import os\nos._exit(0)\n",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "prints": (
        "import os, sys\nprint('hello ' * 100000)\nos.write(1, b'x')\nos.write(2, b'x')\n"
        "def load(dtype, device): ...\n"
    ),
    "raises": "raise BaseException('odd\\n\\x1b[31m' * 1000)\n",
    "interrupts": "raise KeyboardInterrupt\n",
    "asks": "input('name? ')\n",
    "lacks": "import no_such_module\n",
    "starts": (
        "import subprocess\nsubprocess.Popen(['sleep', '1000'])\ndef load(dtype, device): ...\n"
    ),
}
BROKEN = {
    "exits": "SystemExit: bye",
    "ends": "ends the process with status 0",
    "killed": "ends the process with signal 9",
    "raises": r"BaseException: odd \u001b[31modd",
    "interrupts": "KeyboardInterrupt",
    "asks": "EOFError",
    "lacks": "No module named 'no_such_module'",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    facts = tmp_path / "odd-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    entries = "".join(f"{name}-model = odd_{name}:load\n" for name in MODULES)
    (facts / "entry_points.txt").write_text(f"[forcedelta.models]\n{entries}")
    for name, text in MODULES.items():
        (tmp_path / f"odd_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("packages")
def test_all_are_listed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forcedelta.models.plugins.PATIENCE", 600.0)  # on a slow machine, too
    assert status(["models", "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    found = {model["name"]: model for model in json.loads(printed.out)}
    assert {f"{name}-model" for name in MODULES} | {"acac", "mlearn"} <= set(found)
    for name in MODULES:
        error = found[f"{name}-model"].get("error", "")
        assert BROKEN.get(name, "") in error
        assert bool(error) == (name in BROKEN)
        assert error.isprintable()
        assert len(error) < 400
    assert status(["models"]) == 0
    printed = capfd.readouterr()
    assert "sound-model" in printed.out
    assert "SystemExit: bye" in printed.out
    assert printed.err == ""


def test_one_that_hangs_is_given_up(packages: Path) -> None:
    (packages / "odd_sound.py").write_text("import time\nwhile True: time.sleep(1)\n")
    points = {name: point for name, point in registered_models().items() if name == "sound-model"}
    before = time.monotonic()
    assert problems(points, patience=0.5) == {
        "sound-model": "cannot be imported (not finished after 0.5 s)"
    }
    assert time.monotonic() > before + 0.5


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", ["exits", "raises", "lacks"])
def test_one_that_is_asked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ForceDeltaError, match=f"model '{name}-model' of odd could not be loaded"):
        load_model(f"{name}-model")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("packages")
def test_what_one_prints_is_not_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ForceDeltaError, match="must return a LoadedModel"):
        load_model("prints-model")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello" in printed.err
