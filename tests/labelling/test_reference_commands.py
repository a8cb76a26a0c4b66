"""Commands of reference codes are not passed to a shell and cannot inject other commands."""

import gc
import stat
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk

from forcedelta import ForceDeltaError
from forcedelta.labelling import reference

PROGRAM = (
    '#!/bin/sh\nfor word in "$@"; do echo "$word" >> words.txt; done\necho "Program PWSCF v.7.2"\n'
)
WORDS = [";", "touch", "MARK", "$(touch MARK)", "`touch MARK`", "&&", "two words"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program that logs its arguments and does nothing else that a reference code would."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "program"
    program.write_text(PROGRAM.replace("FOLDER", str(tmp_path)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "Si.UPF").write_text("")
    return f"{program} ; touch MARK '$(touch MARK)' '`touch MARK`' && 'two words'"


# ASE leaves the pipes of a CP2K that fails to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("name", "more"),
    [("cp2k", {}), ("espresso", {"pseudo_dir": ".", "pseudopotentials": {"Si": "Si.UPF"}})],
)
def test_no_shell_reads_the_command(name: str, more: dict[str, Any], command: str) -> None:
    made = reference(name, {"command": command, **more})
    assert made.description
    with pytest.raises(RuntimeError):  # the program is none of these
        made.calculate(bulk("Si"), threads=1)
    gc.collect()
    written = Path("words.txt").read_text().splitlines()
    assert written[: len(WORDS)] == WORDS
    assert not Path("MARK").exists()


@pytest.mark.parametrize("name", ["cp2k", "espresso"])
def test_a_quotation_mark_without_its_partner(name: str) -> None:
    with pytest.raises(ForceDeltaError, match=f"{name}: command is .*No closing quotation"):
        reference(name, {"command": "program 'one"})
